"""Evidence lower bound."""

from __future__ import annotations

from jaxtyping import Array, Float

from .._keywords import explain_keywords
from ._base import AbstractObjective
from ._power import log_power_mean


class ELBO(AbstractObjective):
    """The mean log-weight, E_q[log p(z, data) - log q(z)] <= log p(data).

    Maximising it minimises KL(q || posterior), which tends to underestimate spread.

    Bias: none. Reference: Jordan et al., An introduction to variational methods for graphical models, 1999.
    """

    @explain_keywords
    def __init__(self) -> None:
        """No settings: the number of draws is ``num_particles`` of `pf.fit`."""

    def __call__(self, log_weights: Float[Array, " k"]) -> Float[Array, ""]:
        """Mean of the log-weights."""
        return log_power_mean(log_weights, 0.0)

    @property
    def guide_power(self) -> tuple[float, float] | None:
        """See `AbstractObjective.guide_power`."""
        return 1.0, 0.0
