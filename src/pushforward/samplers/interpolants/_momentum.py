"""Sampling with momentum: multistep rules that stay stable for steps at which the plain ones do not."""

from __future__ import annotations

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from .._checks import check_positive
from ._multistep import AbstractMultistep, check_order


class HeavyBall(AbstractMultistep):
    """Polyak's heavy ball on the slopes of `AdamsBashforth`: ``v <- (1 - beta) v + beta f``.

    Of order 1 for beta below one, whatever ``order`` is, with an error that grows like ``1 / beta``: stability is all
    that is bought. The real stability limit at order 1 is ``-(4 - 2 beta) / beta``.

    Args:
        beta: in (0, 1]; 1 for none.
        order: slopes used, 1 to 4.

    Reference: Wizadwongsa et al., Diffusion sampling with momentum, arXiv:2307.11118, section 4.1.
    """

    beta: Float[Array, ""]
    order: int = eqx.field(static=True)

    def __init__(self, beta: Any = 0.8, order: int = 1) -> None:
        self.beta, self.order = check_beta(beta), check_order(order)

    def momentum(self, ratio: Float[Array, ""]) -> Float[Array, ""]:
        """See `AbstractMultistep.momentum`."""
        return (1.0 - self.beta).astype(ratio.dtype) * ratio

    def moments(self, moments: Float[Array, " order"], ratio: Float[Array, ""]) -> Float[Array, " order"]:
        """See `AbstractMultistep.moments`."""
        return self.beta.astype(moments.dtype) * moments


class GHVB(AbstractMultistep):
    """Generalised heavy ball: the weights of the slopes make good what the momentum spoils, so that the order is kept.

    ``GHVB(beta, order)`` lies between `AdamsBashforth` of that order, which it is at beta 1, and of one order less,
    towards which it goes as beta falls to zero: it is published as order ``(order - 1).beta``. The real stability limit
    at order 2 is ``-(2 - beta)``.

    Args:
        beta: in (0, 1].
        order: 1 to 4; at 1 it is the heavy ball.

    Reference: Wizadwongsa et al., Diffusion sampling with momentum, arXiv:2307.11118, section 4.2; written here as a
    linear multistep method, in which form it extends to unequal steps.
    """

    beta: Float[Array, ""]
    order: int = eqx.field(static=True)

    def __init__(self, beta: Any = 0.8, order: int = 2) -> None:
        self.beta, self.order = check_beta(beta), check_order(order)

    def momentum(self, ratio: Float[Array, ""]) -> Float[Array, ""]:
        """See `AbstractMultistep.momentum`."""
        return (1.0 - self.beta).astype(ratio.dtype) * ratio

    def moments(self, moments: Float[Array, " order"], ratio: Float[Array, ""]) -> Float[Array, " order"]:
        """See `AbstractMultistep.moments`: of this step, less what the momentum repeats of the one before."""
        powers = jnp.arange(1, len(moments) + 1, dtype=moments.dtype)
        return (1.0 + self.momentum(ratio) * (-1.0 / ratio) ** powers) * moments


def check_beta(beta: Any) -> Float[Array, ""]:
    """The share of a new slope."""
    found = check_positive("beta", beta, unit="no units, above 0 and at most 1; 1 is no momentum")
    if not isinstance(found, jax.core.Tracer) and float(found) > 1.0:
        raise ValueError(f"beta={float(found):g}: expected a number above 0 and at most 1; 1 is no momentum.")
    return found
