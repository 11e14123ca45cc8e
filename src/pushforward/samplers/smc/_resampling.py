"""Resampling: which particles have how many children."""

from __future__ import annotations

from typing import Literal, get_args

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from ...models._types import Key
from .._ensemble import particle_keys

Scheme = Literal["systematic", "stratified", "residual", "multinomial", "transport"]


def resample(
    scheme: Scheme,
    key: Key,
    weights: Float[Array, " n"],
    alive: Bool[Array, " n"] | None = None,
    particles: Float[Array, "n d"] | None = None,
) -> Int[Array, " n"]:
    """The parent of every slot, so that particle j has ``m w_j`` children in expectation, m the number of slots.

    All schemes are unbiased. "stratified" and "residual" never have more variance than "multinomial", whatever is
    averaged; "systematic", the usual choice and the cheapest, has the least variance of the counts themselves but can
    have more of an average over particles whose order goes with their values. "transport" looks at where particles are:
    each slot draws its parent from an optimal plan between the weighted and the equally weighted particles, among the
    neighbours of its own particle. In few dimensions averages of smooth functions vary less than with "stratified".

    Args:
        scheme: "systematic" (one uniform number for all), "stratified" (one per slot), "residual" (whole parts of
            ``m w_j`` for certain, the rest at random), "multinomial" or "transport".
        key: a key; slot i uses ``fold_in(key, i)``, but for "systematic", which draws once.
        weights: non-negative, not all zero; they need not sum to one.
        alive: slots that take part; the others are their own parents and nobody else's. None for all.
        particles: where they are; needed for "transport" only.

    Returns:
        Indices of parents.

    Raises:
        ValueError: for "transport" without particles.

    Cost: O(n log n); of "transport" O(n^2) for each of up to 200 sweeps, and memory O(n^2). Reference: Douc, Cappe and
    Moulines, Comparison of resampling schemes for particle filtering, arXiv:cs/0507025; Reich, A nonparametric ensemble
    transform method for Bayesian inference, arXiv:1210.0375, section 3 (a plan taken as a matrix of probabilities).
    """
    count = weights.shape[0]
    dtype = weights.dtype
    own = jnp.arange(count)
    alive = jnp.ones((count,), bool) if alive is None else alive
    weights = jnp.where(alive, weights, 0.0)
    weights = weights / jnp.sum(weights)
    slots = jnp.maximum(jnp.sum(alive), 1).astype(dtype)
    rank = jnp.cumsum(alive, dtype=jnp.int32) - 1
    if scheme == "transport":
        if particles is None:
            raise ValueError('resample("transport") without particles: expected their positions, of shape (n, d).')
        # Loaded on use: most sessions need no transport.
        from ..transport._ensemble import transported_parents

        return transported_parents(key, particles, weights, alive)
    if scheme == "systematic":
        points = (rank.astype(dtype) + jax.random.uniform(key, (), dtype)) / slots
        parents = _invert(weights, points)
    else:
        uniform = jax.vmap(lambda k: jax.random.uniform(k, (), dtype))(particle_keys(key, count))
        if scheme == "stratified":
            parents = _invert(weights, (rank.astype(dtype) + uniform) / slots)
        elif scheme == "multinomial":
            parents = _invert(weights, uniform)
        else:
            expected = slots * weights
            # A product that is whole but for rounding is whole.
            certain = jnp.floor(expected * (1.0 + 4.0 * jnp.finfo(dtype).eps))
            remainder = jnp.maximum(expected - certain, 0.0)
            left = jnp.sum(remainder) > 0
            chosen = _invert(jnp.where(left, remainder, weights), uniform)
            ends = jnp.cumsum(certain.astype(jnp.int32))
            listed = jnp.searchsorted(ends, rank, side="right")
            parents = jnp.where(rank < ends[-1], jnp.minimum(listed, count - 1), chosen)
    return jnp.where(alive, parents.astype(own.dtype), own)


def check_scheme(name: str, scheme: str) -> Scheme:
    """A known scheme.

    Raises:
        ValueError: if it is none.
    """
    if scheme not in get_args(Scheme):
        raise ValueError(f"{name}(resampling={scheme!r}): expected one of {list(get_args(Scheme))}.")
    return scheme  # type: ignore[return-value]


def _invert(weights: Float[Array, " n"], points: Float[Array, " n"]) -> Int[Array, " n"]:
    """The particle in whose share of the unit interval a point falls; never one of weight zero."""
    ends = jnp.cumsum(weights)
    below = jnp.minimum(points * ends[-1], jnp.nextafter(ends[-1], jnp.zeros((), ends.dtype)))
    return jnp.searchsorted(ends, below, side="right")
