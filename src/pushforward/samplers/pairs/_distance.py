"""Squared distances between two blocks of points, and sums of weighted differences, in a form that is exact enough."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

_DIRECT = 4
"""Up to this dimension differences are formed directly: as fast as a matrix product, and without cancellation."""


def squared_distances(x: Float[Array, "i d"], y: Float[Array, "j d"]) -> Float[Array, "i j"]:
    """``|x_i - y_j|^2``. Centre the points first: above dimension 4 the error grows with their norms."""
    if x.shape[1] <= _DIRECT:
        return sum(((x[:, c, None] - y[None, :, c]) ** 2 for c in range(x.shape[1])), jnp.zeros((), x.dtype))
    norms = jnp.sum(x * x, axis=1)[:, None] + jnp.sum(y * y, axis=1)[None, :]
    squared = norms - 2.0 * product(x, y.T)
    # What is left of a point's distance to itself is rounding.
    return jnp.where(squared > 8.0 * jnp.finfo(x.dtype).eps * norms, squared, 0.0)


def weighted_differences(
    coefficient: Float[Array, "i j"], x: Float[Array, "i d"], y: Float[Array, "j d"]
) -> Float[Array, "i d"]:
    """``sum_j coefficient_ij (y_j - x_i)``."""
    if x.shape[1] <= _DIRECT:
        parts = [jnp.sum(coefficient * (y[None, :, c] - x[:, c, None]), axis=1) for c in range(x.shape[1])]
        return jnp.stack(parts, axis=1)
    return product(coefficient, y) - x * jnp.sum(coefficient, axis=1, keepdims=True)


def product(left: Float[Array, "i k"], right: Float[Array, "k j"]) -> Float[Array, "i j"]:
    """A matrix product in the full precision of its dtype: the default of some devices keeps ten bits."""
    return jnp.matmul(left, right, precision=jax.lax.Precision.HIGHEST)
