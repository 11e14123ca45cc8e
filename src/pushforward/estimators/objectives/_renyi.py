"""Renyi bounds."""

from __future__ import annotations

import math

import equinox as eqx
from jaxtyping import Array, Float

from .._numbers import as_float
from ._base import AbstractObjective
from ._power import UPPER_BOUND_PARTICLES, check_logarithm, log_power_mean


class Renyi(AbstractObjective):
    """The variational Renyi bound, log(mean of w^(1 - alpha)) / (1 - alpha).

    A lower bound on log p(data) for alpha >= 0 (1 is the ELBO, 0 the IWELBO, infinity the smallest log-weight) and, in
    the limit of many draws, an upper bound for alpha < 0. Larger alpha seeks modes, smaller alpha covers mass.

    Args:
        alpha: any real number or infinity.

    Bias: for alpha other than 1 the expectation with K draws differs from the bound with infinitely many by O(1/K);
    its gradient is unbiased for the K-draw bound.

    Reference: Li and Turner, Renyi divergence variational inference, arXiv:1602.02311, eqs. 4 and 8.
    """

    alpha: float = eqx.field(static=True)

    def __init__(self, alpha: float) -> None:
        self.alpha = as_float(alpha)
        if math.isnan(self.alpha):
            raise ValueError(
                f"Renyi(alpha={alpha!r}): expected a real number or infinity, e.g. 0.5 (1 is the ELBO, 0 the IWELBO, "
                "and negative ones give upper bounds)."
            )

    def __call__(self, log_weights: Float[Array, " k"]) -> Float[Array, ""]:
        """Power mean of the weights with power 1 - alpha."""
        return log_power_mean(log_weights, 1.0 - self.alpha)

    @property
    def upper(self) -> bool:
        """True for alpha < 0."""
        return self.alpha < 0

    @property
    def guide_power(self) -> tuple[float, float] | None:
        """See `AbstractObjective.guide_power`; the extreme log-weights of infinite alpha have no second derivative."""
        return None if math.isinf(self.alpha) else (-1.0 if self.upper else 1.0, 1.0 - self.alpha)

    @property
    def smooth(self) -> bool:
        """All but the limits, which are a minimum and a maximum."""
        return not math.isinf(self.alpha)

    @property
    def default_particles(self) -> int:
        """Hundreds for an upper bound, whose smallest value with few is that of a guide that has shrunk."""
        return UPPER_BOUND_PARTICLES if self.upper else 8

    def check(self, num_particles: int) -> None:
        """See `AbstractObjective.check`."""
        if self.upper:
            check_logarithm(f"Renyi({self.alpha})", num_particles, "pf.CUBO(2, exponential=True)")

    def model_gain(self, log_weights: Float[Array, " k"]) -> Float[Array, ""]:
        """The bound itself, or the IWELBO where the bound is an upper one."""
        return log_power_mean(log_weights, 1.0 if self.upper else 1.0 - self.alpha)

    @property
    def common(self) -> bool:
        """Guide and model part ways only at an upper bound."""
        return not self.upper
