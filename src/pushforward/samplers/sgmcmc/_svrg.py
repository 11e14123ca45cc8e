"""Minibatch gradients with a control variate at a point of the chain's own past."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from ...models._types import Batch
from ._density import LogDensity
from ._gradients import AbstractGradientEstimate


class SVRGMemory(NamedTuple):
    """A point and what is known there."""

    anchor: Float[Array, " d"]
    full: Float[Array, " d"]
    """The gradient on all data at the anchor."""
    age: Int[Array, ""]
    """Steps since it was taken."""


class SVRG(AbstractGradientEstimate):
    """``g_B(x) - g_B(a) + g(a)``, the anchor a being the chain's own position every ``period`` steps.

    Args:
        period: steps from one look at all data to the next.

    Bias: none given the anchor. Variance: of order ``|x - a|^2``; needs no mode, unlike `ControlVariate`, and follows
    a chain that travels. Cost: two minibatch gradients per step and one full gradient per period; with
    ``period = N / B`` three minibatch gradients per step altogether.

    Reference: Dubey, Reddi, Poczos, Smola, Xing and Williamson, Variance reduction in stochastic gradient Langevin
    dynamics, NIPS 2016, algorithm 2; Chatterji et al., arXiv:1802.05431.
    """

    period: Array

    def __init__(self, period: int = 100) -> None:
        if isinstance(period, bool) or not isinstance(period, int) or period < 1:
            raise ValueError(f"SVRG(period={period!r}): expected a whole number of at least 1 steps.")
        self.period = jnp.asarray(period, jnp.int32)

    def init(self, density: LogDensity, x: Float[Array, " d"]) -> SVRGMemory:
        """An anchor so old that the first step renews it."""
        return SVRGMemory(x, jnp.zeros_like(x), self.period)

    def refresh(self, density: LogDensity, x: Float[Array, " d"], memory: SVRGMemory) -> SVRGMemory:
        """See `AbstractGradientEstimate.refresh`."""
        due = memory.age >= self.period
        anchor, full = _renewed(due, density, x, memory.anchor, memory.full)
        return SVRGMemory(anchor, full, jnp.where(due, 1, memory.age + 1))

    def __call__(
        self, density: LogDensity, x: Float[Array, " d"], batch: Batch | None, memory: SVRGMemory
    ) -> Float[Array, " d"]:
        """See `AbstractGradientEstimate`."""
        if batch is None:
            return density.gradient(x)
        return density.gradient(x, batch) + (memory.full - density.gradient(memory.anchor, batch))


@jax.custom_batching.custom_vmap
def _renewed(due: Bool[Array, ""], density: LogDensity, x: Array, anchor: Array, full: Array) -> tuple[Array, Array]:
    return jax.lax.cond(due, lambda: (x, density.gradient(x)), lambda: (anchor, full))


@_renewed.def_vmap
def _renewed_together(  # type: ignore[no-untyped-def]
    axis_size: int, in_batched, due: Array, density: LogDensity, x: Array, anchor: Array, full: Array
) -> tuple[tuple[Array, Array], tuple[bool, bool]]:
    # A vmapped cond computes both branches at every step; chains are due at the same steps, so one cond serves all.
    stretched = [
        v if b else jnp.broadcast_to(v, (axis_size, *v.shape))
        for v, b in zip((due, x, anchor, full), (in_batched[0], *in_batched[2:]), strict=True)
    ]
    due, x, anchor, full = stretched
    axes = jax.tree.map(lambda b: 0 if b else None, in_batched[1])

    def renew() -> tuple[Array, Array]:
        fresh = jax.vmap(lambda d, y: d.gradient(y), in_axes=(axes, 0))(density, x)
        return jnp.where(due[:, None], x, anchor), jnp.where(due[:, None], fresh, full)

    return jax.lax.cond(jnp.any(due), renew, lambda: (anchor, full)), (True, True)
