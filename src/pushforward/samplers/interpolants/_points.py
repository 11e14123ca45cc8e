"""Points to be moved and the fields that move them: checked before anything is compiled."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PyTree

from .._checks import as_array


def check_points(
    fields: Any, x: Any, condition: PyTree = None, *, least: int = 1, finite: bool = True
) -> tuple[Float[Array, "n *event"], PyTree]:
    """Floating-point points (n, *event), and arrays of conditions with one leading entry per point.

    Whether the fields take points of that shape is seen where they are first evaluated, in `over_points`.

    Raises:
        ValueError: for what are no fields, or no points, or conditions of other points.
    """
    check_fields(fields)
    points = as_array("x", x, "an array of points, shape (n, *event)")
    if points.ndim < 2 or points.shape[0] < least or not jnp.issubdtype(points.dtype, jnp.floating):
        raise ValueError(
            f"x has shape {points.shape} and dtype {points.dtype}: expected at least {least} point(s), (n, *event), in "
            "floating-point numbers; points with one coordinate have shape (n, 1), integers convert with astype(float)."
        )
    if finite and not isinstance(points, jax.core.Tracer):
        good = np.isfinite(np.asarray(points)).reshape(points.shape[0], -1).all(axis=1)
        if not good.all():
            raise ValueError(
                f"x has entries that are not finite, the first in point {int(np.argmin(good))}: remove or repair those "
                "points."
            )
    return points, check_condition(condition, points.shape[0])


def check_condition(condition: PyTree, count: int) -> PyTree:
    """Arrays with one leading entry per point."""

    def one(leaf: Any) -> Array:
        found = as_array("An entry of condition", leaf, "an array with one leading entry per point")
        if found.shape[:1] != (count,):
            raise ValueError(
                f"condition has an array of shape {found.shape} for {count} points: expected one leading entry per "
                "point; repeat one that all points share with jnp.broadcast_to."
            )
        return found

    return jax.tree.map(one, condition)


def check_fields(fields: Any) -> None:
    """Something with a velocity."""
    if not callable(getattr(fields, "velocity", None)):
        raise ValueError(
            f"fields is {type(fields).__name__}: expected fields of an interpolant, such as MixtureFields(...), or the "
            "fields of a training, train(...).fields."
        )


def check_moved(found: Array, points: Float[Array, "n *event"]) -> None:
    """That a field gives one vector per point, of its shape and dtype."""
    if found.shape == points.shape and found.dtype == points.dtype:
        return
    raise ValueError(
        f"A field at points of shape {points.shape[1:]} and dtype {points.dtype} has shape {found.shape[1:]} and dtype "
        f"{found.dtype}: expected the same of both; convert the points with astype, or reshape them."
    )


def check_log_density(name: str, function: Callable[[Any], Any], shape: tuple[int, ...], dtype: Any) -> None:
    """That a function of one point gives one number; nothing is computed."""
    if not callable(function):
        raise ValueError(f"{name} is {type(function).__name__}: expected a function of one point that gives a number.")
    found = jax.eval_shape(function, jax.ShapeDtypeStruct(shape, dtype))
    if getattr(found, "shape", None) != ():
        raise ValueError(
            f"{name} of a point of shape {shape} has shape {getattr(found, 'shape', None)}: expected one number; sum "
            "over coordinates and observations."
        )
