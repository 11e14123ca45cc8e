"""Variational importance sampling."""

from __future__ import annotations

from jaxtyping import Array, Float

from ._base import AbstractObjective
from ._power import UPPER_BOUND_PARTICLES, check_logarithm, log_power_mean


class VIS(AbstractObjective):
    """Model parameters follow log(mean w), the guide minimises log E_q[w^2].

    The second moment of the weights is, up to a constant, the forward chi-square divergence of the posterior from q:
    minimising it makes q the best proposal for the evidence that the model parameters follow.

    Bias: that of a logarithm of a mean of K draws, O(1/K), in both. Its gradient's variance needs E_q[w^4] finite.

    Reference: Li et al., Forward chi-square divergence based variational importance sampling, arXiv:2311.02516, eqs. 7
    and 9.
    """

    def __call__(self, log_weights: Float[Array, " k"]) -> Float[Array, ""]:
        """Log of the mean weight: a lower bound on log p(data)."""
        return log_power_mean(log_weights, 1.0)

    @property
    def default_particles(self) -> int:
        """Hundreds: with few, the smallest value is that of a guide that has shrunk to a point."""
        return UPPER_BOUND_PARTICLES

    def check(self, num_particles: int) -> None:
        """See `AbstractObjective.check`."""
        check_logarithm("VIS()", num_particles, "pf.CUBO(2, exponential=True)")

    def guide_gain(self, log_weights: Float[Array, " k"]) -> Float[Array, ""]:
        """Minus the log of the mean squared weight."""
        return -2.0 * log_power_mean(log_weights, 2.0)

    @property
    def guide_power(self) -> tuple[float, float] | None:
        """See `AbstractObjective.guide_power`."""
        return -2.0, 2.0

    def model_gain(self, log_weights: Float[Array, " k"]) -> Float[Array, ""]:
        """Log of the mean weight."""
        return self(log_weights)
