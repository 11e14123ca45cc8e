"""Exact transport on a line: quantile to quantile."""

from __future__ import annotations

import functools
import numbers
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from .._checks import check_floats, check_weights
from ._sparse_plan import SparsePlan


def one_dimensional(x: Any, y: Any, *, a: Any = None, b: Any = None, p: float = 2.0) -> SparsePlan:
    """Exact optimal transport on the line with cost ``|x - y|^p``, for any weights, zeros and duplicates included.

    For every p of at least one the plan joins equal quantiles. It is compiled code, works under ``jax.vmap``, and is
    differentiable in points and weights: almost everywhere, and where points coincide with derivative zero of their
    distance.

    Args:
        x: shape (n,).
        y: shape (m,).
        a: weights of x that sum to one; equal ones by default.
        b: weights of y.
        p: at least one.

    Returns:
        A `SparsePlan` of n + m moves (of which at most n + m - 1 carry mass), in ascending order of points.

    Raises:
        ValueError: for points that are not finite or no vectors, weights that do not match, are negative or do not sum
            to one, or p below one.

    Cost: two sorts and a merge, O((n + m) log(n + m)).

    Example:
        >>> import jax.numpy as jnp
        >>> float(one_dimensional(jnp.array([0.0, 1.0]), jnp.array([2.0, 1.0]), p=1.0).cost)
        1.0
    """
    x, y = check_floats("x", x, "n"), check_floats("y", y, "m")
    dtype = jnp.promote_types(x.dtype, y.dtype)
    x, y = x.astype(dtype), y.astype(dtype)
    a, b = check_weights("a", a, x.shape[0], dtype), check_weights("b", b, y.shape[0], dtype)
    check_order(p)
    return _solve(x, y, a, b, float(p))


@functools.partial(jax.jit, static_argnums=4)
def _solve(x: Array, y: Array, a: Array, b: Array, p: float) -> SparsePlan:
    rows, columns = jnp.argsort(x), jnp.argsort(y)
    from_x, from_y, mass = merge(a[rows], b[columns])
    rows, columns = rows[from_x], columns[from_y]
    cost = jnp.sum(mass * power_of_distance(x[rows], y[columns], p))
    return SparsePlan(cost, rows, columns, mass, (x.shape[0], y.shape[0]))


def merge(a: Float[Array, " n"], b: Float[Array, " m"]) -> tuple[Array, Array, Array]:
    """Of two sorted sequences of weights: pairs of places, and the mass between neighbouring quantiles."""
    low, high = _levels(a), _levels(b)
    levels = jnp.sort(jnp.concatenate([low, high]))
    # The first point whose quantile reaches the level: a point without weight reaches none first.
    from_x = jnp.minimum(jnp.searchsorted(low, levels), a.shape[0] - 1)
    from_y = jnp.minimum(jnp.searchsorted(high, levels), b.shape[0] - 1)
    return from_x, from_y, jnp.diff(levels, prepend=jnp.zeros((1,), levels.dtype))


def power_of_distance(x: Array, y: Array, p: float) -> Array:
    """``|x - y|^p``, with derivative zero where they meet."""
    difference = x - y
    if p == 2.0:
        return difference**2
    apart = difference != 0
    return jnp.where(apart, jnp.abs(jnp.where(apart, difference, 1.0)) ** p, 0.0)


def check_order(p: float) -> None:
    """A finite number of at least one."""
    if isinstance(p, bool) or not isinstance(p, numbers.Real) or not 1 <= p < float("inf"):
        raise ValueError(f"p={p!r}: expected a number of at least 1; below, equal quantiles are not optimal.")


def _levels(weights: Float[Array, " n"]) -> Float[Array, " n"]:
    total = jnp.cumsum(weights)
    return total / total[-1]
