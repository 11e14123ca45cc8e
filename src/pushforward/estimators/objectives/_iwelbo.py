"""Importance-weighted evidence lower bound."""

from __future__ import annotations

from jaxtyping import Array, Float

from .._keywords import explain_keywords
from ._base import AbstractObjective
from ._power import log_power_mean


class IWELBO(AbstractObjective):
    """log (1/K) sum_k w_k <= log p(data), tighter with every draw K (``num_particles``).

    Reparameterised gradients of the guide lose signal as K grows (signal-to-noise like K**-0.5, arXiv:1802.04537);
    `Path` gains it (K**0.5).

    Bias: below log p(data) by about Var(w) / (2 K E[w]^2). Reference: Burda et al., Importance weighted autoencoders,
    arXiv:1509.00519, eq. 8.
    """

    @explain_keywords
    def __init__(self) -> None:
        """No settings: the number of draws is ``num_particles`` of `pf.fit`."""

    def __call__(self, log_weights: Float[Array, " k"]) -> Float[Array, ""]:
        """Log of the mean weight."""
        return log_power_mean(log_weights, 1.0)

    @property
    def guide_power(self) -> tuple[float, float] | None:
        """See `AbstractObjective.guide_power`."""
        return 1.0, 1.0
