"""Positive matrices of the components of a mixture: full ones, of shape (k, d, d), or diagonals of shape (k, d)."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from ._gaussian import entropic_map
from ._matrices import product


def times(matrices: Array, vectors: Array) -> Array:
    """Each matrix times a vector of its own (k, d), or one for all (d,)."""
    if matrices.ndim == 2:
        return matrices * vectors
    return product(matrices, vectors[..., :, None])[..., 0]


def inverse(matrices: Array) -> Array:
    """Inverses."""
    return 1.0 / matrices if matrices.ndim == 2 else jnp.linalg.inv(matrices)


def log_det(matrices: Array) -> Array:
    """Logarithms of the determinants."""
    if matrices.ndim == 2:
        return jnp.sum(jnp.log(matrices), axis=-1)
    factor = jnp.linalg.cholesky(matrices)
    return 2.0 * jnp.sum(jnp.log(jnp.diagonal(factor, axis1=-2, axis2=-1)), axis=-1)


def root(matrices: Array) -> Array:
    """Factors L of L L^T."""
    return jnp.sqrt(matrices) if matrices.ndim == 2 else jnp.linalg.cholesky(matrices)


def towards_identity(matrices: Array, share: Array) -> Array:
    """``share * matrices + (1 - share) * I``."""
    unit = jnp.ones_like(matrices) if matrices.ndim == 2 else jnp.eye(matrices.shape[-1], dtype=matrices.dtype)
    return share * matrices + (1.0 - share) * unit


def matching(first: Array, second: Array, noise: Array) -> Array:
    """S of ``S first S + noise S = second``, see `entropic_map`."""
    if first.ndim == 3:
        return entropic_map(first, second, noise)
    return 2.0 * second / (jnp.sqrt(4.0 * first * second + noise**2) + noise)


def outer(points: Array, *, full: bool) -> Array:
    """Products of coordinates of points (..., d): all pairs, (..., d, d), or the squares (..., d)."""
    return points[..., :, None] * points[..., None, :] if full else points**2


def features(points: Float[Array, "n d"], *, full: bool) -> Float[Array, "n f"]:
    """What quadratic forms are linear in: products of two coordinates, each pair once, or squares."""
    if not full:
        return points**2
    rows, columns = np.triu_indices(points.shape[1])
    return points[:, rows] * points[:, columns]


def packed(matrices: Array) -> Float[Array, "k f"]:
    """Coefficients with which `features` give the quadratic forms of symmetric matrices."""
    if matrices.ndim == 2:
        return matrices
    rows, columns = np.triu_indices(matrices.shape[-1])
    return matrices[:, rows, columns] * jnp.asarray(np.where(rows == columns, 1, 2), matrices.dtype)


def unpacked(sums: Float[Array, "k f"], dim: int, *, full: bool) -> Array:
    """Matrices (or diagonals) of second moments from sums of `features`."""
    if not full:
        return sums
    rows, columns = np.triu_indices(dim)
    empty = jnp.zeros((sums.shape[0], dim, dim), sums.dtype)
    return empty.at[:, rows, columns].set(sums).at[:, columns, rows].set(sums)


def inner(left: Array, right: Array) -> Array:
    """Sums of products of entries, per component."""
    return jnp.sum(left * right, axis=tuple(range(1, left.ndim)))
