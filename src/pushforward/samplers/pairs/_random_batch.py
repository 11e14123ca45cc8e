"""Stein forces in random groups of particles."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from ...models._types import Key
from ._base import AbstractSteinKernel


def random_batch_force(
    key: Key,
    kernel: AbstractSteinKernel,
    fitted: Any,
    points: Float[Array, "n d"],
    scores: Float[Array, "n d"],
    alive: Bool[Array, " n"],
    size: int,
    *,
    repulsion: float | Array = 1.0,
) -> Float[Array, "n d"]:
    """An unbiased estimate of ``kernel.force``: particles are dealt into groups and see only their own.

    A particle's own share of the force enters exactly; the others' is scaled from the m in its group to all: of N
    living particles, ``1/N K(x_i, x_i) s_i + (N - 1) / (N (m - 1)) sum_{j != i in group}``.

    Args:
        key: a key.
        kernel: kernel.
        fitted: what it took from the whole cloud.
        points: particles.
        scores: gradients of the log-density.
        alive: which particles count.
        size: least number of particles in a group, at least 2; the groups are as even as they can be.
        repulsion: factor of the second term.

    Cost: ``O(n size d)``.

    Reference: Li, Li, Liu, Liu and Lu, A stochastic version of Stein variational gradient descent for efficient
    sampling, arXiv:1902.03394, algorithm 1.
    """
    count = points.shape[0]
    groups = max(count // size, 1)
    slots = -(-count // groups)
    # The living are dealt first, so that the dead do not leave some groups with fewer than others.
    order = jax.random.permutation(key, count)
    order = order[jnp.argsort(~alive[order], stable=True)]
    index = jnp.pad(order, (0, slots * groups - count), constant_values=count).reshape(slots, groups).T
    weight = ((index < count) & alive[jnp.minimum(index, count - 1)]).astype(points.dtype)
    number = jnp.sum(weight, axis=1)

    def at_group(member: Array, share: Array, m: Array) -> Array:
        x, s = points[jnp.minimum(member, count - 1)], scores[jnp.minimum(member, count - 1)]
        # A group without a living member has no force; its sum is divided by one instead of zero.
        safe = share.at[0].add(jnp.where(m > 0, 0.0, 1.0))
        return kernel.force(fitted, x, s, safe, repulsion=repulsion) * m

    in_group = jax.vmap(at_group)(index, weight, number)
    collected = jnp.zeros_like(points).at[index].set(in_group, mode="drop")
    members = jnp.zeros((count,), points.dtype).at[index].set(
        jnp.broadcast_to(number[:, None], index.shape), mode="drop"
    )  # fmt: skip
    one = jnp.ones((1,), points.dtype)
    own = jax.vmap(lambda x, s: kernel.force(fitted, x[None], s[None], one, repulsion=repulsion)[0])(points, scores)
    living = jnp.maximum(jnp.sum(alive), 1).astype(points.dtype)
    # With the dead left out a group can hold a single particle, which then sees no other: those that do make up for it.
    paired = jnp.sum(jnp.where(number > 1, number, 0.0)) / living
    others = (living - 1.0) / (living * jnp.maximum(members - 1.0, 1.0) * jnp.where(paired > 0, paired, 1.0))
    scale = jnp.where(members > 1, others, 0.0)
    return own / living + scale[:, None] * (collected - own)
