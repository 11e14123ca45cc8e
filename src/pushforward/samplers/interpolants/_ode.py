"""From one end of an interpolant to the other along its velocity, without noise."""

from __future__ import annotations

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PyTree

from ._coordinates import Chart, Coordinate, make_chart
from ._fields import AbstractFields
from ._multistep import AbstractMultistep, multistep
from ._points import check_points
from ._runge_kutta import Rule, check_rule, integrate, over_points
from ._times import make_times


def flow(
    fields: AbstractFields,
    x: Float[Array, "n *event"],
    *,
    num_steps: int = 100,
    times: Any = None,
    rule: Rule | AbstractMultistep = "heun",
    coordinate: Coordinate = "time",
    reverse: bool = False,
    condition: PyTree = None,
) -> Float[Array, "n *event"]:
    """Move points along ``dX = b(t, X) dt`` in fixed steps.

    Args:
        fields: fields of an interpolant.
        x: points at the first time: draws of the base, or with ``reverse`` of the target.
        num_steps: steps from 0 to 1, unless ``times`` are given.
        times: increasing times in [0, 1], their first and last where the points begin and end. For few steps of a
            diffusion see `spaced_times`.
        rule: "euler" (order 1), "heun" (2, two evaluations a step) or "rk4" (4, four evaluations); or one of the rules
            with one evaluation a step: `DPMSolver` for paths from noise, `AdamsBashforth`, `HeavyBall`, `GHVB`.
        coordinate: of which variable "euler", "heun" and the multistep rules take steps. "time"; for paths from noise
            also "noise", the ratio of noise to data, in which the slope of x over the coefficient of the data is the
            predicted noise (Heun's method in it is the deterministic sampler of Karras et al.); or "straight", the
            share of the noise, in which every path is ``u noise + (1 - u) data``, finite at both ends. Euler's method
            is the same in the last two: DDIM. To where no noise is left "heun" takes a step of Euler's.
        reverse: from the last time to the first.
        condition: passed on to the fields, one leading entry per point.

    Returns:
        The points at the last time. Deterministic; the error falls with the order of the rule.

    Raises:
        ValueError: for rules, coordinates or times that do not exist or do not go together.

    Reference: Albergo, Boffi, Vanden-Eijnden, Stochastic interpolants, arXiv:2303.08797, eq. 2.31.
    """
    x, condition = check_points(fields, x, condition)
    grid = make_times(times, num_steps, x.dtype, reverse=reverse)
    if isinstance(rule, AbstractMultistep):
        return _multistep(fields, x, make_chart(fields.path, grid, rule.kind or coordinate), condition, rule)
    if check_rule(rule) == "rk4" and coordinate != "time":
        raise ValueError(f"rule='rk4' with coordinate={coordinate!r}: expected coordinate='time' with this rule.")
    if coordinate == "time":
        return _flow(fields, x, grid, condition, rule)
    return _charted(fields, x, make_chart(fields.path, grid, coordinate), condition, rule == "heun")


@eqx.filter_jit
def _flow(fields: AbstractFields, x: Array, grid: Array, condition: PyTree, rule: Rule) -> Array:
    def velocity(t: Array, points: Array) -> Array:
        return over_points(fields.velocity, t, points, condition)

    return integrate(velocity, x, grid, rule)


@eqx.filter_jit
def _multistep(fields: AbstractFields, x: Array, chart: Chart, condition: PyTree, rule: AbstractMultistep) -> Array:
    return multistep(rule, fields, x, chart, condition)


@eqx.filter_jit
def _charted(fields: AbstractFields, x: Array, chart: Chart, condition: PyTree, correct: bool) -> Array:
    def advance(points: Array, step: tuple[Array, ...]) -> tuple[Array, None]:
        return charted_step(fields, chart, points, step, condition, correct), None

    table = (chart.grid[:-1], chart.grid[1:], chart.scale, chart.lift, jnp.diff(chart.u), chart.singular[1:])
    return jax.lax.scan(advance, x, table)[0]


def charted_step(
    fields: AbstractFields, chart: Chart, points: Array, step: tuple[Array, ...], condition: PyTree, correct: bool
) -> Array:
    """One step of Euler's method along a chart, or of Heun's except to where the slope has no value."""
    t, end, scale, lift, h, singular = step
    first = chart.slope(fields, t, points, condition)
    ahead = scale * points + lift * h * first
    if not correct:
        return ahead
    second = jnp.where(singular, first, chart.slope(fields, end, ahead, condition))
    return scale * points + lift * 0.5 * h * (first + second)
