"""Random subsets for minibatches, at a cost that does not depend on the number of data."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Array, Int

from ._types import Key

_LEAST_STRATUM = 8
_FLOYD_LIMIT = 2048


def draw_subset(key: Key, size: int, count: int) -> Int[Array, " count"]:
    """Distinct indices below ``size``, each index with the same probability ``count / size``.

    Sums over the subset, times ``size / count``, are therefore unbiased for sums over all. From ``8 count <= size`` on
    the draw is stratified: a circle of the indices is turned at random and one index drawn from each of ``count`` equal
    arcs. Neighbours seldom come together, which never hurts much and helps where data are in some order. Smaller sets
    are simple random samples.

    Cost: O(count) when stratified, else O(count^2) by Floyd's algorithm, vectorised, or O(size log size).

    Reference: Bentley and Floyd, A sample of brilliance, Communications of the ACM 30 (1987).
    """
    dtype = jnp.result_type(int)
    arc = size // count
    if arc >= _LEAST_STRATUM:
        # One hash per index: remainders of 32 random bits are even to one part in 2^32 / size.
        bits = jax.random.bits(key, (count + 1,), jnp.uint32)
        within = (bits[:count] % jnp.uint32(arc)).astype(jnp.int32)
        turn = (bits[count] % jnp.uint32(size)).astype(jnp.int32)
        return ((within + jnp.arange(count, dtype=jnp.int32) * arc + turn) % size).astype(dtype)
    if count > _FLOYD_LIMIT:
        return jax.random.choice(key, size, (count,), replace=False)
    last = jnp.arange(size - count, size, dtype=jnp.int32)
    drawn = jax.random.randint(key, (count,), 0, last + 1, jnp.int32)

    def place(i: Array, chosen: Array) -> Array:
        return chosen.at[i].set(jnp.where(jnp.any(chosen == drawn[i]), last[i], drawn[i]))

    return jax.lax.fori_loop(0, count, place, jnp.full((count,), -1, jnp.int32)).astype(dtype)
