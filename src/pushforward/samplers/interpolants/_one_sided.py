"""Interpolants whose base is a normal law: the noise at time zero. Diffusions, with their clock turned round."""

from __future__ import annotations

from typing import Any, ClassVar

import jax.numpy as jnp
from jaxtyping import Array, Float

from .._checks import check_positive
from ._path import AbstractPath, is_known
from ._two_sided import quarter_sine


class OneSidedLinear(AbstractPath):
    """``x_t = t x_1 + (1 - t) z``: flow matching and rectified flows from standard normal noise."""

    num_ends: ClassVar[int] = 1

    def coefficients(self, t: Float[Array, ""]) -> Float[Array, " end"]:
        """See `AbstractPath.coefficients`."""
        return t[None]

    def variance(self, t: Float[Array, ""]) -> Float[Array, ""]:
        """See `AbstractPath.variance`."""
        return (1.0 - t) ** 2


class OneSidedTrigonometric(AbstractPath):
    """``x_t = sin(pi t / 2) x_1 + cos(pi t / 2) z``: the variance of data of variance one is kept."""

    num_ends: ClassVar[int] = 1

    def coefficients(self, t: Float[Array, ""]) -> Float[Array, " end"]:
        """See `AbstractPath.coefficients`."""
        return quarter_sine(t)[None]

    def variance(self, t: Float[Array, ""]) -> Float[Array, ""]:
        """See `AbstractPath.variance`."""
        return quarter_sine(1.0 - t) ** 2


class VariancePreserving(AbstractPath):
    """Diffusion ``dx = -beta x / 2 ds + sqrt(beta) dW`` in s = 1 - t, beta linear in s.

    Args:
        beta_min: noise rate at the data, per unit of time.
        beta_max: noise rate at the base. What is left of the data there is ``exp(-(beta_min + beta_max) / 4)``.

    Reference: Song et al., Score-based generative modeling, arXiv:2011.13456, appendix B.
    """

    num_ends: ClassVar[int] = 1
    beta_min: Float[Array, ""]
    beta_max: Float[Array, ""]

    def __init__(self, beta_min: Any = 0.1, beta_max: Any = 20.0) -> None:
        self.beta_min = check_positive("beta_min", beta_min, unit="units of 1 / time")
        self.beta_max = check_positive("beta_max", beta_max, unit="units of 1 / time")

    def coefficients(self, t: Float[Array, ""]) -> Float[Array, " end"]:
        """See `AbstractPath.coefficients`."""
        return jnp.exp(-0.5 * self._total(t))[None]

    def variance(self, t: Float[Array, ""]) -> Float[Array, ""]:
        """See `AbstractPath.variance`."""
        return -jnp.expm1(-self._total(t))

    def _total(self, t: Array) -> Array:
        low, high = self.beta_min.astype(t.dtype), self.beta_max.astype(t.dtype)
        s = 1.0 - t
        return s * (low + 0.5 * s * (high - low))


class Cosine(AbstractPath):
    """Variance-preserving with ``coefficient^2`` a squared cosine of 1 - t.

    Args:
        offset: keeps a little noise at the data.

    Reference: Nichol, Dhariwal, Improved denoising diffusion models, arXiv:2102.09672, eq. 17.
    """

    num_ends: ClassVar[int] = 1
    offset: Float[Array, ""]

    def __init__(self, offset: Any = 0.008) -> None:
        self.offset = check_positive("offset", offset, unit="units of time", zero=True)

    def coefficients(self, t: Float[Array, ""]) -> Float[Array, " end"]:
        """See `AbstractPath.coefficients`."""
        return (quarter_sine(self._phase(t)) / self._largest(t))[None]

    def variance(self, t: Float[Array, ""]) -> Float[Array, ""]:
        """See `AbstractPath.variance`."""
        # A difference of squared cosines, as the product that does not cancel at the data.
        offset = self.offset.astype(t.dtype)
        ahead, behind = (1.0 - t) / (1.0 + offset), (1.0 - t + 2.0 * offset) / (1.0 + offset)
        return quarter_sine(ahead) * quarter_sine(behind) / self._largest(t) ** 2

    def _phase(self, t: Array) -> Array:
        return t / (1.0 + self.offset.astype(t.dtype))

    def _largest(self, t: Array) -> Array:
        return quarter_sine(self._phase(jnp.ones_like(t)))


class VarianceExploding(AbstractPath):
    """``x_t = x_1 + sigma(t) z``, sigma falling geometrically.

    Args:
        sigma_min: noise left at the target, in units of the points.
        sigma_max: standard deviation of the base, large beside the data.

    Reference: Song et al., Score-based generative modeling, arXiv:2011.13456, appendix B.
    """

    num_ends: ClassVar[int] = 1
    sigma_min: Float[Array, ""]
    sigma_max: Float[Array, ""]

    def __init__(self, sigma_min: Any = 0.01, sigma_max: Any = 50.0) -> None:
        self.sigma_min, self.sigma_max = _sigmas(sigma_min, sigma_max)

    def coefficients(self, t: Float[Array, ""]) -> Float[Array, " end"]:
        """See `AbstractPath.coefficients`."""
        return jnp.ones_like(t)[None]

    def variance(self, t: Float[Array, ""]) -> Float[Array, ""]:
        """See `AbstractPath.variance`."""
        low, high = self.sigma_min.astype(t.dtype), self.sigma_max.astype(t.dtype)
        return high**2 * (low / high) ** (2.0 * t)


class EDM(AbstractPath):
    """``x_t = x_1 + sigma(t) z``, the power ``1 / rho`` of sigma linear in time.

    Equal steps in this time are the noise levels that Karras et al. use.

    Args:
        sigma_min: noise left at the target, in units of the points.
        sigma_max: standard deviation of the base, large beside the data.
        rho: the larger, the more of the time is spent at small noise.

    Reference: Karras et al., Elucidating the design space, arXiv:2206.00364, eq. 5.
    """

    num_ends: ClassVar[int] = 1
    sigma_min: Float[Array, ""]
    sigma_max: Float[Array, ""]
    rho: Float[Array, ""]

    def __init__(self, sigma_min: Any = 0.002, sigma_max: Any = 80.0, rho: Any = 7.0) -> None:
        self.sigma_min, self.sigma_max = _sigmas(sigma_min, sigma_max)
        self.rho = check_positive("rho", rho, unit="no units")

    def coefficients(self, t: Float[Array, ""]) -> Float[Array, " end"]:
        """See `AbstractPath.coefficients`."""
        return jnp.ones_like(t)[None]

    def variance(self, t: Float[Array, ""]) -> Float[Array, ""]:
        """See `AbstractPath.variance`."""
        rho = self.rho.astype(t.dtype)
        low, high = (s.astype(t.dtype) ** (1.0 / rho) for s in (self.sigma_min, self.sigma_max))
        return (high + t * (low - high)) ** (2.0 * rho)


def _sigmas(low: Any, high: Any) -> tuple[Array, Array]:
    low, high = (check_positive(n, v, unit="units of the points") for n, v in (("sigma_min", low), ("sigma_max", high)))
    if is_known((low, high)) and not float(low) < float(high):
        raise ValueError(f"sigma_min={float(low):g} and sigma_max={float(high):g}: expected the first to be smaller.")
    return low, high
