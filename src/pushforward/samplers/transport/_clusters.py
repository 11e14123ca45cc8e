"""Clusters of weighted points, for starts: k-means with spread-out seeds."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from ...models._types import Key
from ..pairs._distance import product, squared_distances

_POINTS_PER_CLUSTER = 256
_STEPS = 15


def cluster(key: Key, points: Float[Array, "n d"], weights: Float[Array, " n"], num_clusters: int) -> Int[Array, " n"]:
    """Cluster of each point; clusters may be empty where fewer distinct points exist.

    Centres are found from at most 256 points per cluster, drawn by weight.

    Reference: Arthur and Vassilvitskii, k-means++: the advantages of careful seeding, 2007.
    """
    key_draw, key_seed = jax.random.split(key)
    count = min(points.shape[0], _POINTS_PER_CLUSTER * num_clusters)
    drawn = points
    if count < points.shape[0]:
        chosen = jax.random.choice(key_draw, points.shape[0], (count,), p=weights)
        drawn, weights = points[chosen], jnp.full((count,), 1.0 / count, points.dtype)
    centres = _seeds(key_seed, drawn, weights, num_clusters)

    def lloyd(_: int, centres: Array) -> Array:
        held = jax.nn.one_hot(_nearest(drawn, centres), num_clusters, dtype=drawn.dtype) * weights[:, None]
        mass = jnp.sum(held, axis=0)[:, None]
        return jnp.where(mass > 0, product(held.T, drawn) / jnp.where(mass > 0, mass, 1.0), centres)

    return _nearest(points, jax.lax.fori_loop(0, _STEPS, lloyd, centres))


def _seeds(key: Key, points: Array, weights: Array, num_clusters: int) -> Float[Array, "k d"]:
    """Each next one is drawn with the squared distance to the nearest of those before as its weight."""
    keys = jax.random.split(key, num_clusters)
    first = points[jax.random.categorical(keys[0], jnp.log(weights))]

    def draw(nearest: Array, key: Key) -> tuple[Array, Array]:
        chance = weights * nearest
        logits = jnp.where(jnp.sum(chance) > 0, jnp.log(chance), jnp.log(weights))
        seed = points[jax.random.categorical(key, logits)]
        return jnp.minimum(nearest, jnp.sum((points - seed) ** 2, axis=1)), seed

    _, others = jax.lax.scan(draw, jnp.sum((points - first) ** 2, axis=1), keys[1:])
    return jnp.concatenate([first[None], others])


def _nearest(points: Array, centres: Array) -> Int[Array, " n"]:
    return jnp.argmin(squared_distances(points, centres), axis=1)
