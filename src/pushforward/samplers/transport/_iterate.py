"""From a problem to optimal potentials: which iterations, in which order, and when to stop."""

from __future__ import annotations

from typing import Literal, NamedTuple, TypeAlias

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from ._anchored import begin
from ._anderson import anderson
from ._geometry import Dense
from ._ladder import descend
from ._newton import AbstractSystem
from ._problem import Point, Problem
from ._sinkhorn import sinkhorn
from ._systems import ConjugateGradients, Hybrid, Sparse

Method: TypeAlias = Literal["auto", "sinkhorn", "anderson", "newton-cg", "newton-sparse"]

_DIRECT_LIMIT = 2048
"""Columns up to which Newton's system is factorised."""
_COARSEST = 0.2
"""Regularisation of the first rung, as a share of the mean absolute deviation of the costs."""
_WARM = 0.1
"""Marginal error, as a share of the mass, below which initial potentials need no ladder."""

_WORTH_STORED, _WORTH_STREAMED = 8.0, 60.0
"""Sweeps that cost as much as the Newton steps in their place: of streamed costs, an iteration of conjugate gradients
costs as much as a sweep."""
_ACCELERATED = 100
"""Accelerated sweeps over streamed costs, on each rung, before Newton steps are tried."""


class Settings(eqx.Module):
    """How a problem is solved."""

    method: Method = eqx.field(static=True)
    max_sweeps: int = eqx.field(static=True)
    max_newton_steps: int = eqx.field(static=True)


class Iterations(NamedTuple):
    """Where the iterations ended."""

    point: Point
    num_sweeps: Int[Array, ""]
    num_newton_steps: Int[Array, ""]


def iterate(
    problem: Problem,
    g: Float[Array, " m"],
    scale: Float[Array, ""],
    tolerance: Float[Array, ""],
    settings: Settings,
    *,
    warm: bool,
) -> Iterations:
    """Iterate until the marginal error is at most ``tolerance`` or nothing helps any more.

    Args:
        problem: what to solve.
        g: initial potential.
        scale: on which costs differ.
        tolerance: of the marginal error.
        settings: method and limits.
        warm: whether g may be near the solution.
    """
    f, zero = jnp.zeros_like(problem.a), jnp.zeros((), jnp.int32)
    if settings.method in ("sinkhorn", "anderson"):
        accelerated = anderson if settings.method == "anderson" else sinkhorn
        found = accelerated(*begin(problem, f, g), tolerance, settings.max_sweeps)
        return Iterations(_extended(problem, found.point.f, found.point.g), found.num_sweeps, zero)
    system = choose_system(problem, settings.method)
    coarsest = _COARSEST * scale
    if warm:
        near = problem.error(problem.point(f, g)) <= _WARM
        coarsest = jnp.where(near, problem.epsilon, coarsest)
    stored = isinstance(problem.geometry, Dense)
    worth = _WORTH_STORED if stored else _WORTH_STREAMED
    quick = _ACCELERATED if settings.method == "auto" and not stored else 0
    most = settings.max_sweeps, settings.max_newton_steps
    down = descend(problem, g, coarsest, tolerance, system, worth, quick, *most)

    def rest() -> tuple[Array, Array, Array]:
        """Where Newton's method has ended short of the tolerance, accelerated sweeps may still get on."""
        left = settings.max_sweeps - down.num_sweeps
        found = anderson(*begin(problem, down.f, down.g), tolerance, left)
        return found.point.f, found.point.g, found.num_sweeps

    f, g, more = jax.lax.cond(down.error <= tolerance, lambda: (down.f, down.g, zero), rest)
    return Iterations(_extended(problem, f, g), down.num_sweeps + more, down.num_newton_steps)


def _extended(problem: Problem, f: Float[Array, " n"], g: Float[Array, " m"]) -> Point:
    """With optimal potentials where weights are zero too, which no iteration looks at."""
    point = problem.point(f, g)

    def optimal() -> Array:
        soft = point.g - problem.epsilon * problem.log_columns(point.f, point.g)
        return jnp.where(problem.b > 0, point.g, problem.column_marginal.update(soft, problem.epsilon))

    return point._replace(g=jax.lax.cond(jnp.all(problem.b > 0), lambda: point.g, optimal))


def choose_system(problem: Problem, method: Method) -> AbstractSystem:
    """How a method solves Newton's linear system for a problem of this size."""
    if method == "newton-sparse":
        return Sparse()
    small = isinstance(problem.geometry, Dense) and problem.geometry.shape[1] <= _DIRECT_LIMIT
    return Hybrid() if method == "auto" and small else ConjugateGradients()
