"""Chi-square upper bound."""

from __future__ import annotations

import math

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Float

from .._numbers import as_float
from ._base import AbstractObjective
from ._power import UPPER_BOUND_PARTICLES, check_logarithm, log_power_mean


class CUBO(AbstractObjective):
    """log(E_q[w^n]) / n >= log p(data): minimising it minimises a chi divergence, which covers the posterior's tails.

    Learnable model parameters follow the IWELBO of the same draws: minimising an upper bound would unlearn them.

    Args:
        n: order, above 1 (at 1 the bound is log p(data), whatever the guide); 2 is the chi-square divergence.
        exponential: the guide minimises E_q[exp(n (l - offset))], whose gradient is unbiased for any number of draws,
            instead of its logarithm. The value reported stays the CUBO in nats.
        offset: a guess of log p(data) in nats, which keeps the exponential in range.

    Bias: with K draws the expectation of the (logarithmic) value is below the bound by O(1/K): it can fall below log
    p(data), and with few draws it does so wherever the guide is narrow, so that a guide that minimises it can shrink
    instead of spreading. Take many draws (hundreds), or ``exponential``. The variance needs E_q[w^(2n)] finite: read
    the value together with k-hat.

    Reference: Dieng et al., Variational inference via chi upper bound minimization, arXiv:1611.00328, eq. 4.
    """

    n: float = eqx.field(static=True)
    exponential: bool = eqx.field(static=True)
    offset: float = eqx.field(static=True)

    def __init__(self, n: float = 2.0, *, exponential: bool = False, offset: float = 0.0) -> None:
        order, guess = as_float(n), as_float(offset)
        if not (order > 1 and math.isfinite(order)):
            raise ValueError(
                f"CUBO(n={n!r}): expected a finite order above 1, e.g. 2 (order 1 is the log evidence itself, whatever "
                "the guide)."
            )
        if not math.isfinite(guess):
            raise ValueError(
                f"CUBO(offset={offset!r}): expected a finite guess of log p(data) in nats, e.g. the ELBO of a fit."
            )
        self.n, self.exponential, self.offset = order, exponential, guess

    def __call__(self, log_weights: Float[Array, " k"]) -> Float[Array, ""]:
        """Power mean of the weights with power n."""
        return log_power_mean(log_weights, self.n)

    @property
    def upper(self) -> bool:
        """Always."""
        return True

    @property
    def default_particles(self) -> int:
        """Hundreds: with few, the smallest value is that of a guide that has shrunk to a point."""
        return 8 if self.exponential else UPPER_BOUND_PARTICLES

    def check(self, num_particles: int) -> None:
        """See `AbstractObjective.check`."""
        if not self.exponential:
            check_logarithm(f"CUBO({self.n})", num_particles, f"pf.CUBO({self.n}, exponential=True)")

    def guide_gain(self, log_weights: Float[Array, " k"]) -> Float[Array, ""]:
        """Minus the bound, or minus its exponential."""
        if self.exponential:
            return -jnp.mean(jnp.exp(self.n * (log_weights - self.offset)))
        return -self(log_weights)

    @property
    def guide_power(self) -> tuple[float, float] | None:
        """See `AbstractObjective.guide_power`."""
        return None if self.exponential else (-1.0, self.n)

    def model_gain(self, log_weights: Float[Array, " k"]) -> Float[Array, ""]:
        """The IWELBO."""
        return log_power_mean(log_weights, 1.0)
