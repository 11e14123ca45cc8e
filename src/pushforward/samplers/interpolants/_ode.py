"""From one end of an interpolant to the other along its velocity, without noise."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal, TypeAlias, get_args

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PyTree

from ._fields import AbstractFields
from ._times import make_times

Rule: TypeAlias = Literal["euler", "heun", "rk4"]
Velocity: TypeAlias = Callable[[Array, PyTree], PyTree]
"""``velocity(t, state)`` of one time and a state, all of whose leaves move."""


def flow(
    fields: AbstractFields,
    x: Float[Array, "n *event"],
    *,
    num_steps: int = 100,
    times: Any = None,
    rule: Rule = "heun",
    reverse: bool = False,
    condition: PyTree = None,
) -> Float[Array, "n *event"]:
    """Move points along ``dX = b(t, X) dt`` in fixed steps.

    Args:
        fields: fields of an interpolant.
        x: points at the first time: draws of the base, or with ``reverse`` of the target.
        num_steps: steps from 0 to 1, unless ``times`` are given.
        times: increasing times in [0, 1], their first and last where the points begin and end.
        rule: "euler" (order 1), "heun" (2, two evaluations a step) or "rk4" (4, four evaluations).
        reverse: from the last time to the first.
        condition: passed on to the fields, one leading entry per point.

    Returns:
        The points at the last time. Deterministic; the error falls with the order of the rule.

    Reference: Albergo, Boffi, Vanden-Eijnden, Stochastic interpolants, arXiv:2303.08797, eq. 2.31.
    """
    x = jnp.asarray(x)
    grid = make_times(times, num_steps, x.dtype, reverse=reverse)
    return _flow(fields, x, grid, condition, rule)


@eqx.filter_jit
def _flow(fields: AbstractFields, x: Array, grid: Array, condition: PyTree, rule: Rule) -> Array:
    def velocity(t: Array, points: Array) -> Array:
        return over_points(fields.velocity, t, points, condition)

    return integrate(velocity, x, grid, rule)


def integrate(velocity: Velocity, state: PyTree, grid: Float[Array, " step"], rule: Rule) -> PyTree:
    """Runge-Kutta steps between the times of a grid, which may fall."""
    if rule not in get_args(Rule):
        raise ValueError(f"rule={rule!r}: expected one of {list(get_args(Rule))}.")

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
        return jax.vmap(field, (None, 0))(t, points)
    return jax.vmap(field, (None, 0, 0))(t, points, condition)
