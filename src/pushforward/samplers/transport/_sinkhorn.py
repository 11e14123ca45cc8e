"""Sinkhorn's alternating updates.

Reference: Cuturi, Sinkhorn distances, arXiv:1306.0895; with the updates of soft marginals of Chizat et al.,
arXiv:1607.05816.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from ._problem import Point, Problem

IDLE = 30
"""Sweeps without a new least error after which what is left is taken for rounding."""


class Sweeps(NamedTuple):
    """Where the sweeps ended."""

    point: Point
    error: Float[Array, ""]
    num_sweeps: Int[Array, ""]


class _State(NamedTuple):
    point: Point
    error: Float[Array, ""]
    least: Float[Array, ""]
    promised: Float[Array, ""]
    """Sweeps still needed at the rate of the last one."""
    idle: Int[Array, ""]
    num_sweeps: Int[Array, ""]


def sweep(problem: Problem, point: Point) -> Point:
    """One update of g and one of f."""
    soft = point.g - problem.epsilon * point.log_columns
    return problem.point(point.f, problem.column_marginal.update(soft, problem.epsilon))


def sinkhorn(
    problem: Problem, point: Point, tolerance: Float[Array, ""], most: int | Array, worth: float = jnp.inf
) -> Sweeps:
    """Sweeps until the marginal error is at most ``tolerance`` or falls no more.

    Args:
        problem: what to solve.
        point: where to start.
        tolerance: of the marginal error.
        most: sweeps at most.
        worth: from the second sweep on, stop when more than this many sweeps would be needed at the rate seen.
    """

    def unfinished(state: _State) -> Array:
        hopeless = (state.num_sweeps > 1) & ~(state.promised <= worth)
        return (state.error > tolerance) & (state.num_sweeps < most) & (state.idle < IDLE) & ~hopeless

    def body(state: _State) -> _State:
        point = sweep(problem, state.point)
        error = problem.error(point)
        promised = jnp.log(error / tolerance) / jnp.log(jnp.maximum(state.error / error, 1.0))
        idle = jnp.where(error < state.least, 0, state.idle + 1)
        return _State(point, error, jnp.minimum(error, state.least), promised, idle, state.num_sweeps + 1)

    zero, error = jnp.zeros((), jnp.int32), problem.error(point)
    end = jax.lax.while_loop(unfinished, body, _State(point, error, error, jnp.zeros_like(error), zero, zero))
    return Sweeps(end.point, end.error, end.num_sweeps)
