"""Fixed steps of Runge-Kutta rules, for any state."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal, TypeAlias, cast, get_args

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PyTree

from ._points import check_moved

Rule: TypeAlias = Literal["euler", "heun", "rk4"]
Velocity: TypeAlias = Callable[[Array, PyTree], PyTree]
"""``velocity(t, state)`` of one time and a state, all of whose leaves move."""


def check_rule(rule: Any) -> Rule:
    """The name of a Runge-Kutta rule."""
    if rule not in get_args(Rule):
        raise ValueError(
            f"rule={rule!r}: expected one of {list(get_args(Rule))}, or in `flow` a multistep rule such as DPMSolver()."
        )
    return cast(Rule, rule)


def integrate(velocity: Velocity, state: PyTree, grid: Float[Array, " step"], rule: Rule) -> PyTree:
    """Runge-Kutta steps between the times of a grid, which may fall."""
    check_rule(rule)

    def plus(state: PyTree, step: Array, slope: PyTree) -> PyTree:
        return jax.tree.map(lambda x, v: x + step * v, state, slope)

    def advance(state: PyTree, interval: tuple[Array, Array]) -> tuple[PyTree, None]:
        t, end = interval
        h = end - t
        first = velocity(t, state)
        if rule == "euler":
            return plus(state, h, first), None
        if rule == "heun":
            second = velocity(end, plus(state, h, first))
            return plus(state, 0.5 * h, jax.tree.map(jnp.add, first, second)), None
        middle = t + 0.5 * h
        second = velocity(middle, plus(state, 0.5 * h, first))
        third = velocity(middle, plus(state, 0.5 * h, second))
        fourth = velocity(end, plus(state, h, third))
        slope = jax.tree.map(lambda a, b, c, d: (a + 2.0 * (b + c) + d) / 6.0, first, second, third, fourth)
        return plus(state, h, slope), None

    return jax.lax.scan(advance, state, (grid[:-1], grid[1:]))[0]


def over_points(field: Callable[..., Array], t: Array, points: Array, condition: PyTree) -> Array:
    """A field at one time and many points, each with its own condition."""
    if condition is None:
        found = jax.vmap(field, (None, 0))(t, points)
    else:
        found = jax.vmap(field, (None, 0, 0))(t, points, condition)
    check_moved(found, points)
    return found
