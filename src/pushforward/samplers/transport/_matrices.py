"""Roots of covariance matrices that can be differentiated, to any order, also where eigenvalues coincide."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float


@jax.custom_jvp
def matrix_root(matrix: Float[Array, "... d d"]) -> Float[Array, "... d d"]:
    """Symmetric root of a positive semi-definite matrix; eigenvalues below zero count as rounding.

    Eigenvectors are not differentiated, which fails where eigenvalues coincide: the derivative X of a root R along Q
    solves ``R X + X R = Q``.
    """
    values, vectors = jnp.linalg.eigh(matrix)
    return product(vectors * jnp.sqrt(jnp.maximum(values, 0.0))[..., None, :], transposed(vectors))


@matrix_root.defjvp
def _(primals: tuple[Array], tangents: tuple[Array]) -> tuple[Array, Array]:
    root = matrix_root(primals[0])
    return root, solve_lyapunov(root, tangents[0])


@jax.custom_jvp
def solve_lyapunov(left: Float[Array, "... d d"], right: Float[Array, "... d d"]) -> Float[Array, "... d d"]:
    """X of ``left X + X left = right`` for a positive semi-definite left; zero in directions that left lacks."""
    values, vectors = jnp.linalg.eigh(left)
    scale = values[..., :, None] + values[..., None, :]
    # Below this a sum of two eigenvalues is rounding of the largest one.
    least = 4.0 * jnp.finfo(values.dtype).eps * jnp.max(values, axis=-1)[..., None, None]
    rotated = product(product(transposed(vectors), right), vectors)
    solved = jnp.where(scale > least, rotated / jnp.where(scale > least, scale, 1.0), 0.0)
    return product(product(vectors, solved), transposed(vectors))


@solve_lyapunov.defjvp
def _(primals: tuple[Array, Array], tangents: tuple[Array, Array]) -> tuple[Array, Array]:
    left, right = primals
    solution = solve_lyapunov(left, right)
    to_left, to_right = tangents
    return solution, solve_lyapunov(left, to_right - product(to_left, solution) - product(solution, to_left))


@jax.custom_jvp
def log_det_one_plus(matrix: Float[Array, "... d d"]) -> Float[Array, "..."]:
    """``log det(I + matrix)`` of a positive semi-definite matrix, exact for small ones too."""
    return jnp.sum(jnp.log1p(jnp.maximum(jnp.linalg.eigvalsh(matrix), 0.0)), axis=-1)


@log_det_one_plus.defjvp
def _(primals: tuple[Array], tangents: tuple[Array]) -> tuple[Array, Array]:
    (matrix,), (tangent,) = primals, tangents
    inverse = jnp.linalg.inv(identity(matrix) + matrix)
    return log_det_one_plus(matrix), jnp.sum(inverse * transposed(tangent), axis=(-2, -1))


def product(left: Array, right: Array) -> Array:
    """Matrix product in the full precision of its dtype."""
    return jnp.matmul(left, right, precision=jax.lax.Precision.HIGHEST)


def transposed(matrix: Array) -> Array:
    """Last two axes exchanged."""
    return jnp.swapaxes(matrix, -1, -2)


def symmetric(matrix: Array) -> Array:
    """The mean of a matrix and its transpose."""
    return 0.5 * (matrix + transposed(matrix))


def trace(matrix: Array) -> Array:
    """Sum of the diagonal."""
    return jnp.trace(matrix, axis1=-2, axis2=-1)


def identity(like: Any) -> Array:
    """The identity of a matrix's size and dtype."""
    return jnp.eye(like.shape[-1], dtype=like.dtype)
