"""What a user passes to a transport solver, checked and turned into a problem."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from .._checks import as_array, check_positive
from ._cost import block_cost
from ._geometry import AbstractGeometry, Cloud, Dense
from ._grid import Grid, grid_geometry
from ._marginals import AbstractMarginal, Exact, Soft

_DENSE_LIMIT = 2**22
"""Pairs up to which all costs are kept: computing them again at each pass would cost more."""


def make_geometry(x: Any, y: Any, cost: Any, names: tuple[str, str] = ("x", "y")) -> AbstractGeometry:
    """Points and a cost, or a matrix of costs; ``names`` are what the caller calls the points."""
    if cost is None:
        raise ValueError("cost is None: expected a name such as 'sqeuclidean', a function of two points, or a matrix.")
    if not isinstance(cost, str) and not callable(cost):
        if x is not None or y is not None:
            raise ValueError(
                f"cost is {type(cost).__name__} and points are given too: expected points with the name of a cost or a "
                "function of two points, or a matrix of costs without points."
            )
        matrix = _floating("cost", cost)
        if matrix.ndim != 2 or 0 in matrix.shape:
            raise ValueError(f"cost has shape {matrix.shape}: expected a matrix (n, m) with n and m at least one.")
        if _known(matrix) and not np.all(np.isfinite(np.asarray(matrix))):
            raise ValueError(f"cost has {_count_bad(matrix)} entries that are not finite: expected finite costs.")
        return Dense(matrix)
    if isinstance(x, Grid) or isinstance(y, Grid):
        return grid_geometry(x, y, cost)
    if x is None or y is None:
        raise ValueError("x and y are needed: points of shapes (n, d) and (m, d); or pass cost=matrix without points.")
    x, y = make_points(names[0], x), make_points(names[1], y)
    dtype = jnp.promote_types(x.dtype, y.dtype)
    x, y = x.astype(dtype), y.astype(dtype)
    if x.shape[1:] != y.shape[1:]:
        raise ValueError(
            f"{' and '.join(names)} have points of shapes {x.shape[1:]} and {y.shape[1:]}: expected the same."
        )
    function = block_cost(cost)
    if isinstance(cost, str) and cost != "cosine":
        # These costs do not change, but are exact to rounding of the distances rather than of the coordinates.
        centre = jax.lax.stop_gradient(0.5 * (jnp.mean(x, axis=0) + jnp.mean(y, axis=0)))
        x, y = x - centre[None, :], y - centre[None, :]
    cloud = Cloud(x, y, function)
    try:
        block = jax.eval_shape(function, x[:1], y[:1])
    except Exception as error:
        raise ValueError(f"cost={cost!r} fails for points of shape {x.shape[1:]}: {error}") from error
    if block.shape != (1, 1) or not jnp.issubdtype(block.dtype, jnp.inexact):
        raise ValueError(f"cost={cost!r} of two points gives {block}: expected one real number, of shape ().")
    if x.shape[0] * y.shape[0] > _DENSE_LIMIT:
        return cloud
    dense = cloud.dense()
    if _known(dense.matrix) and not bool(jnp.all(jnp.isfinite(dense.matrix))):
        raise ValueError(
            f"cost={cost!r} gives {_count_bad(dense.matrix)} costs that are not finite: expected finite ones. Mend the "
            f"function, or rescale points whose distances overflow {dense.dtype}."
        )
    return dense


def make_weights(name: str, weights: Any, count: int, dtype: Any, *, any_mass: bool) -> Float[Array, " n"]:
    """Weights that sum to one, or to anything; equal ones for None."""
    if weights is None:
        return jnp.full((count,), 1.0 / count, dtype)
    weights = _floating(name, weights)
    if weights.shape != (count,):
        raise ValueError(f"{name} has shape {weights.shape}: expected one weight per point, ({count},).")
    weights = weights.astype(dtype)
    if _known(weights):
        values = np.asarray(weights, np.float64)
        if not np.all(values >= 0) or not np.all(np.isfinite(values)):
            raise ValueError(f"{name} has weights that are negative or not finite: expected all of them >= 0.")
        if not values.sum() > 0:
            raise ValueError(f"{name} has weights that are all zero: expected some mass.")
        off = 0.0 if any_mass else abs(float(values.sum()) - 1.0)
        if off > 10 * count**0.5 * float(jnp.finfo(dtype).eps) + 1e-6:
            raise ValueError(
                f"{name} sums to {values.sum():.6g}: expected weights that sum to one. Divide them by their sum; for "
                "masses that differ pass marginal_strength as well, which charges for what is not moved."
            )
    return weights if any_mass else weights / jnp.sum(weights)


def make_marginals(strength: Any, dtype: Any) -> tuple[AbstractMarginal, AbstractMarginal]:
    """None, a number, or a pair of these."""
    pair = strength if isinstance(strength, tuple | list) else (strength, strength)
    if len(pair) != 2:
        raise ValueError(f"marginal_strength has {len(pair)} entries: expected a number, or one for each marginal.")
    return _marginal(pair[0], dtype), _marginal(pair[1], dtype)


def _marginal(strength: Any, dtype: Any) -> AbstractMarginal:
    return Exact() if strength is None else Soft(check_positive("marginal_strength", strength, dtype))


def make_points(name: str, points: Any) -> Float[Array, "n d"]:
    """Finite points, whole numbers made floating."""
    points = _floating(name, points)
    if points.ndim == 1:
        raise ValueError(f"{name} has shape {points.shape}: expected points (n, d). For a line pass {name}[:, None].")
    if points.ndim != 2 or 0 in points.shape:
        raise ValueError(f"{name} has shape {points.shape}: expected points (n, d) with n and d at least one.")
    if _known(points) and not np.all(np.isfinite(np.asarray(points))):
        raise ValueError(
            f"{name} has coordinates that are not finite: expected finite points. Drop or mend those rows."
        )
    return points


def _floating(name: str, value: Any) -> Array:
    array = as_array(name, value, "an array of real numbers")
    if jnp.issubdtype(array.dtype, jnp.integer):
        array = array.astype(jnp.result_type(float))
    if not jnp.issubdtype(array.dtype, jnp.floating):
        raise ValueError(f"{name} has dtype {array.dtype}: expected real numbers.")
    if jnp.finfo(array.dtype).bits < 32:
        raise ValueError(
            f"{name} has dtype {array.dtype}: expected float32 or float64, as fewer bits do not resolve a plan. "
            "Convert with astype(jnp.float32)."
        )
    return array


def make_start(initial: Any, count: int, dtype: Any) -> Float[Array, " m"] | None:
    """The potential g to start from."""
    if initial is None:
        return None
    start = _floating("initial", initial).astype(dtype)
    if start.shape != (count,):
        raise ValueError(f"initial has shape {start.shape}: expected the potential g, of shape ({count},).")
    if _known(start) and not np.all(np.isfinite(np.asarray(start))):
        raise ValueError(f"initial has {_count_bad(start)} entries that are not finite: expected a finite potential g.")
    return start


def _known(value: Array) -> bool:
    return not isinstance(value, jax.core.Tracer)


def _count_bad(array: Array) -> int:
    return int(np.sum(~np.isfinite(np.asarray(array))))
