"""Scales: a positive vector stands for a diagonal matrix, a matrix is lower triangular with positive diagonal."""

from __future__ import annotations

import jax.numpy as jnp
from jax.scipy.linalg import solve_triangular
from jaxtyping import Array, Float

Scale = Float[Array, "..."]
Vector = Float[Array, " dim"]


def multiply(scale: Scale, x: Vector) -> Vector:
    """S x."""
    return scale * x if scale.ndim == 1 else scale @ x


def multiply_transposed(scale: Scale, x: Vector) -> Vector:
    """S' x."""
    return scale * x if scale.ndim == 1 else x @ scale


def solve(scale: Scale, x: Vector) -> Vector:
    """The solution y of S y = x."""
    return x / scale if scale.ndim == 1 else solve_triangular(scale, x, lower=True)


def solve_transposed(scale: Scale, x: Vector) -> Vector:
    """The solution y of S' y = x."""
    return x / scale if scale.ndim == 1 else solve_triangular(scale, x, trans=1, lower=True)


def compose(outer: Scale, inner: Scale) -> Scale:
    """The scale of ``outer`` after ``inner``."""
    if outer.ndim == 1:
        return outer * inner if inner.ndim == 1 else outer[:, None] * inner
    return outer * inner if inner.ndim == 1 else outer @ inner


def log_det(scale: Scale) -> Float[Array, ""]:
    """log|det S|."""
    return jnp.sum(jnp.log(scale if scale.ndim == 1 else jnp.diagonal(scale)))
