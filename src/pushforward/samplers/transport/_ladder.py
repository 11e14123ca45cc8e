"""Falling regularisation: from where anything converges to where the problem is."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from ._anchored import begin
from ._anderson import anderson
from ._marginals import Exact
from ._newton import AbstractSystem, newton
from ._problem import Point, Problem
from ._sinkhorn import sinkhorn

_DECAY = 0.25
"""Ratio of rungs."""
_LOOSE = 0.05
"""Marginal error, as a share of the mass, with which a rung is left."""
_STEPS = 3
"""Newton steps on a rung, at most."""


class Descent(NamedTuple):
    """The foot of a ladder."""

    f: Float[Array, " n"]
    g: Float[Array, " m"]
    error: Float[Array, ""]
    num_sweeps: Int[Array, ""]
    num_newton_steps: Int[Array, ""]


class _Rung(NamedTuple):
    epsilon: Float[Array, ""]
    f: Float[Array, " n"]
    g: Float[Array, " m"]
    above: Float[Array, ""]
    """Regularisation of the rung above, infinite on the first."""
    slope: Float[Array, " m"]
    """How g changed with the regularisation on the last rung."""
    error: Float[Array, ""]
    num_sweeps: Int[Array, ""]
    num_steps: Int[Array, ""]


def descend(
    problem: Problem,
    g: Float[Array, " m"],
    start: Float[Array, ""],
    tolerance: Float[Array, ""],
    system: AbstractSystem,
    worth: float,
    accelerated: int,
    max_sweeps: int,
    max_steps: int,
) -> Descent:
    """One sweep, and Newton steps where that is not enough, on each rung ``start / 4^k`` above the problem's epsilon.

    At the foot sweeps go on while they promise to end soon, and Newton steps to the tolerance. The first sweeps forget
    where they began: whatever g is, after one sweep its range is at most twice that of the costs. Each rung starts from
    the line through the last two: where the regularisation is small, optimal potentials are linear in it but for what
    is exponentially small. Where a sweep is as dear as an iteration of the linear solver, accelerated sweeps do most of
    the work, and Newton steps only what those leave.

    Args:
        problem: the problem at the foot.
        g: initial potential.
        start: regularisation of the first rung.
        tolerance: of the marginal error at the foot.
        system: for Newton steps.
        worth: sweeps at the foot that are not dearer than Newton steps in their place.
        accelerated: most accelerated sweeps on a rung; zero for plain ones.
        max_sweeps: most sweeps of the whole ladder.
        max_steps: most Newton steps of the whole ladder.
    """
    balanced = isinstance(problem.row_marginal, Exact) and isinstance(problem.column_marginal, Exact)

    def centred(point: Point) -> Point:
        # A constant common to both, as large as the user's initial potentials, would cost digits.
        if not balanced:
            return point
        shift = 0.5 * (jnp.sum(problem.a * point.f) - jnp.sum(problem.b * point.g)) / jnp.sum(problem.b)
        return point._replace(f=point.f - shift, g=point.g + shift)

    def body(state: _Rung) -> _Rung:
        foot = state.epsilon <= problem.epsilon
        rung = problem.at(state.epsilon)
        step = jnp.where(jnp.isfinite(state.above), state.above - state.epsilon, 0.0)
        enough = jnp.where(foot, tolerance, _LOOSE)
        sweeps, steps = max_sweeps - state.num_sweeps, max_steps - state.num_steps
        here, begun = begin(rung, state.f, state.g - step * state.slope)
        if accelerated:
            swept = anderson(here, begun, enough, jnp.minimum(accelerated, sweeps))
        else:
            # On a rung one sweep is made even where nothing is asked of it.
            aim = jnp.where(foot, tolerance, 0.0)
            swept = sinkhorn(here, begun, aim, jnp.where(foot, sweeps, jnp.minimum(1, sweeps)), worth)
        found = newton(rung, system, centred(swept.point), enough, jnp.where(foot, steps, jnp.minimum(_STEPS, steps)))
        point = centred(found.point)
        slope = jnp.where(jnp.isfinite(state.above), (state.g - point.g) / jnp.where(step > 0, step, 1.0), 0.0)
        return _Rung(
            epsilon=jnp.where(foot, 0.0, jnp.maximum(state.epsilon * _DECAY, problem.epsilon)),
            f=point.f,
            g=point.g,
            above=state.epsilon,
            slope=slope,
            error=found.error,
            num_sweeps=state.num_sweeps + swept.num_sweeps,
            num_steps=state.num_steps + found.num_steps,
        )

    zero = jnp.zeros((), jnp.int32)
    first = jnp.maximum(start, problem.epsilon)
    nowhere = jnp.full_like(first, jnp.inf)
    state = _Rung(first, jnp.zeros_like(problem.a), g, nowhere, jnp.zeros_like(g), nowhere, zero, zero)
    last = jax.lax.while_loop(lambda state: state.epsilon > 0, body, state)
    return Descent(last.f, last.g, last.error, last.num_sweeps, last.num_steps)
