"""Radial kernels."""

from __future__ import annotations

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Float

from ._bandwidth import AbstractBandwidth, Median, as_bandwidth
from ._base import AbstractRadialKernel, Profile


class RBF(AbstractRadialKernel):
    """``k = exp(-r^2 / (2 h^2))``.

    Args:
        bandwidth: h in units of the particles, or a rule such as `Median`.
    """

    bandwidth: AbstractBandwidth

    def __init__(self, bandwidth: AbstractBandwidth | float | None = None) -> None:
        self.bandwidth = Median() if bandwidth is None else as_bandwidth(bandwidth)

    def profile(self, squared: Float[Array, "i j"], squared_bandwidth: Float[Array, ""]) -> Profile:
        """See `AbstractRadialKernel.profile`."""
        rate = -0.5 / squared_bandwidth
        value = jnp.exp(squared * rate)
        return Profile(value, rate * value, rate**2 * value)


class IMQ(AbstractRadialKernel):
    """Inverse multiquadric ``k = (1 + r^2 / h^2)^exponent``; its slow decay makes Stein discrepancies see tails.

    Args:
        bandwidth: h in units of the particles, or a rule; by default h^2 is the median squared distance.
        exponent: strictly between -1 and 0; the discrepancy then controls convergence.

    Reference: Gorham and Mackey, Measuring sample quality with kernels, arXiv:1703.01717, theorem 8.
    """

    bandwidth: AbstractBandwidth
    exponent: float = eqx.field(static=True)

    def __init__(self, bandwidth: AbstractBandwidth | float | None = None, *, exponent: float = -0.5) -> None:
        if not -1 < exponent < 0:
            raise ValueError(f"IMQ(exponent={exponent}): expected a number strictly between -1 and 0; -0.5 is usual.")
        self.bandwidth = Median(scale=1.0, log=False) if bandwidth is None else as_bandwidth(bandwidth)
        self.exponent = exponent

    def profile(self, squared: Float[Array, "i j"], squared_bandwidth: Float[Array, ""]) -> Profile:
        """See `AbstractRadialKernel.profile`."""
        base = 1.0 + squared / squared_bandwidth
        value = base**self.exponent
        first = self.exponent * value / (base * squared_bandwidth)
        return Profile(value, first, (self.exponent - 1.0) * first / (base * squared_bandwidth))


class Laplace(AbstractRadialKernel):
    """``k = exp(-r / h)``. Not differentiable where particles meet: there its gradient is taken as zero.

    Args:
        bandwidth: h in units of the particles, or a rule; by default h^2 is the median squared distance.
    """

    bandwidth: AbstractBandwidth

    def __init__(self, bandwidth: AbstractBandwidth | float | None = None) -> None:
        self.bandwidth = Median(scale=1.0, log=False) if bandwidth is None else as_bandwidth(bandwidth)

    def profile(self, squared: Float[Array, "i j"], squared_bandwidth: Float[Array, ""]) -> Profile:
        """See `AbstractRadialKernel.profile`."""
        apart = squared > 0
        distance, width = jnp.sqrt(jnp.where(apart, squared, 1.0)), jnp.sqrt(squared_bandwidth)
        value = jnp.where(apart, jnp.exp(-distance / width), 1.0)
        first = jnp.where(apart, -value / (2.0 * distance * width), 0.0)
        second = jnp.where(apart, value * (1.0 / width + 1.0 / distance) / (4.0 * distance**2 * width), 0.0)
        return Profile(value, first, second)
