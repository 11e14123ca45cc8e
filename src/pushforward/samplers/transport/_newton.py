"""Newton's method on the dual, one potential eliminated.

With f optimal for g the dual is a concave function of g alone. Its gradient is what the column marginal lacks and its
negative Hessian the Schur complement ``S = D_b - P^T D_a^{-1} P / epsilon^2`` of the full one, where
``D_a = rows / epsilon - a phi''`` and likewise ``D_b``. For exact marginals S is the Laplacian of a weighted graph on
the columns: positive semidefinite, with the constants as null direction.

Reference: Tang et al., Accelerating Sinkhorn algorithm with sparse Newton iterations, arXiv:2401.12253 (Newton on both
potentials; a fixed share of the entries is kept there).
"""

from __future__ import annotations

import abc
from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from ._anchored import anchored
from ._balance import balanced
from ._problem import Point, Problem

_TRIALS = 30
_SLOPE = 0.1
_FALL = 0.25
_RIDGE = 1e-2
_INEXACT = 0.1
_QUICK = 0.01
_PATIENCE = 3


class Diagonals(NamedTuple):
    """The diagonal blocks of the Hessian, times epsilon."""

    rows: Float[Array, " n"]
    columns: Float[Array, " m"]


class AbstractSystem(eqx.Module):
    """A way to solve ``(S + ridge D_b) step = residual``."""

    @abc.abstractmethod
    def solve(
        self,
        problem: Problem,
        point: Point,
        diagonals: Diagonals,
        residual: Float[Array, " m"],
        ridge: Float[Array, ""],
        accuracy: Float[Array, ""],
    ) -> Float[Array, " m"]:
        """The step of g; columns of weight zero get none."""


class Steps(NamedTuple):
    """Where Newton's method ended."""

    point: Point
    error: Float[Array, ""]
    num_steps: Int[Array, ""]
    stalled: Int[Array, ""]
    """Steps since the error last fell by a tenth."""


def diagonals(problem: Problem, point: Point) -> Diagonals:
    """The diagonal blocks of the Hessian, one where a weight is zero."""
    rows = point.rows + problem.epsilon * problem.a * problem.row_marginal.curvature(point.f)
    # For a column that is far too empty the exponential is nothing like its tangent: the chord from here to where the
    # column has what its potential asks for gives Sinkhorn's step for it, and the tangent again at the solution.
    limits = jnp.finfo(point.g.dtype)
    asked = jnp.clip(problem.column_marginal.slope(point.g), limits.tiny, limits.max)
    log = point.log_columns - jnp.log(asked)
    small = jnp.abs(log) < 1e-4
    chord = jnp.where(small, 1.0 + 0.5 * log, jnp.expm1(log) / jnp.where(small, 1.0, log))
    columns = problem.b * jnp.maximum(jnp.exp(point.log_columns), asked * chord)
    columns = columns + problem.epsilon * problem.b * problem.column_marginal.curvature(point.g)
    return Diagonals(jnp.where(problem.a > 0, rows, 1.0), jnp.where(problem.b > 0, columns, 1.0))


def newton(
    problem: Problem, system: AbstractSystem, point: Point, tolerance: Float[Array, ""], most: int | Array
) -> Steps:
    """Newton steps with line search until the marginal error is at most ``tolerance`` or no longer falls.

    Each step ends with moves of single columns, see `balanced`, which are counted with it.
    """

    def unfinished(state: Steps) -> Array:
        return (state.error > tolerance) & (state.num_steps < most) & (state.stalled < _PATIENCE)

    def body(state: Steps) -> Steps:
        here = anchored(problem, state.point)
        residual = here.residual(state.point)
        # Far from the solution weakly coupled groups of columns would be thrown far apart. Nothing is gained by a step
        # that is more exact than the error it leaves, or than what is asked for.
        accuracy = _INEXACT * jnp.clip(tolerance / state.error, state.error, 1.0)
        scaled = diagonals(here, state.point)
        step = problem.epsilon * system.solve(here, state.point, scaled, residual, _RIDGE * state.error, accuracy)
        point = _line_search(here, state.point, step, jnp.sum(residual * step))
        # Where the step has done its work single columns need no help.
        point = balanced(here, point, jnp.maximum(tolerance, _QUICK * state.error))
        error = problem.error(point)
        rose = point.value > state.point.value + 4.0 * jnp.finfo(error.dtype).eps * jnp.abs(point.value)
        better = error < state.error
        point = jax.tree.map(lambda a, b: jnp.where(better | rose, a, b), point, state.point)
        stalled = jnp.where((error < 0.9 * state.error) | rose, 0, state.stalled + 1)
        return Steps(point, problem.error(point), state.num_steps + 1, stalled)

    zero = jnp.zeros((), jnp.int32)
    return jax.lax.while_loop(unfinished, body, Steps(point, problem.error(point), zero, zero))


class _Search(NamedTuple):
    length: Float[Array, ""]
    low: Float[Array, ""]
    """The longest step known to be too short."""
    high: Float[Array, ""]
    """The shortest known to be too long; infinite while none is."""
    slope: Float[Array, ""]
    point: Point
    trials: Int[Array, ""]


def _line_search(problem: Problem, point: Point, step: Float[Array, " m"], slope: Float[Array, ""]) -> Point:
    """A step along which the dual's slope has fallen to a tenth, or the marginal error to a quarter.

    The dual is concave, so its slope along the step falls: it is bracketed by doubling, then halving the bracket.
    Values are no guide near the solution, where they differ by less than their rounding; slopes are for longer, and the
    error to the end.
    """
    enough = _FALL * problem.error(point)

    def trial(length: Array, low: Array, high: Array, count: Array) -> _Search:
        new = problem.point(point.f, point.g + length * step)
        return _Search(length, low, high, jnp.sum(problem.residual(new) * step), new, count)

    def unfinished(state: _Search) -> Array:
        steep = ~((jnp.abs(state.slope) <= _SLOPE * slope) | (problem.error(state.point) <= enough))
        return steep & (state.trials < _TRIALS) & (slope > 0)

    def bracket(state: _Search) -> _Search:
        short = state.slope > 0
        low, high = jnp.where(short, state.length, state.low), jnp.where(short, state.high, state.length)
        length = jnp.where(jnp.isfinite(high), 0.5 * (low + high), 2.0 * low)
        return trial(length, low, high, state.trials + 1)

    one, zero = jnp.ones((), step.dtype), jnp.zeros((), step.dtype)
    start = trial(one, zero, jnp.full((), jnp.inf, step.dtype), jnp.zeros((), jnp.int32))
    return jax.lax.while_loop(unfinished, bracket, start).point
