"""Moves of single columns, all the rows following: what is left to do where the plan is nearly an assignment.

With f optimal for g, column j moved by s epsilon has the mass ``sum_i a_i p_ij e^s / (1 - p_ij + p_ij e^s)``, where
``p_ij = P_ij / a_i``. Where a row gives a column most of its mass that is far from ``e^s`` (Sinkhorn's update) and from
its tangent (Newton's): a column with what it gets from other rows, I, and what its own rows give elsewhere, O, is
balanced at ``s = log(O / I) / 2``, whereas Newton's step for it is at most one, however small both have to become.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from ._anchored import Anchored
from ._marginals import Exact
from ._problem import Point, Problem

_ROUNDS = 3
_SHARES = (1.0, 0.5)
"""Columns that trade with each other both move: together they go too far by up to two."""
_NEAR = 0.1
"""Moves, in units of epsilon, that Newton's method makes as well."""
_FAR = 20.0


def balanced(problem: Problem, point: Point, tolerance: Float[Array, ""]) -> Point:
    """Up to three rounds of moves of all columns at once, each taken as far as it lowers the marginal error.

    Cost: a few passes over the kernel a round, no exponentials. Only of stored costs and exact marginals; otherwise
    the point as it is.

    Args:
        problem: seen from near the point, see `anchored`.
        point: where to start.
        tolerance: marginal error below which nothing is done.

    Reference: for the update Osborne, On pre-conditioning of matrices, 1960, which it is for a plan near a permutation.
    """
    exact = isinstance(problem.row_marginal, Exact) and isinstance(problem.column_marginal, Exact)
    if not (exact and isinstance(problem.geometry, Anchored)):
        return point

    def body(state: tuple[Point, Array, Array]) -> tuple[Point, Array, Array]:
        point, moves, count = state
        best = point
        for share in _SHARES:
            new = problem.point(point.f, point.g + share * problem.epsilon * moves)
            better = problem.error(new) < problem.error(best)
            best = jax.tree.map(lambda a, b, better=better: jnp.where(better, a, b), new, best)
        stuck = problem.error(best) >= problem.error(point)
        return best, column_moves(problem, best), jnp.where(stuck, _ROUNDS, count + 1)

    def unfinished(state: tuple[Point, Array, Array]) -> Array:
        point, moves, count = state
        return (problem.error(point) > tolerance) & (count < _ROUNDS) & (jnp.max(jnp.abs(moves)) > _NEAR)

    def moved() -> Point:
        start = point, column_moves(problem, point), jnp.zeros((), jnp.int32)
        return jax.lax.while_loop(unfinished, body, start)[0]

    return jax.lax.cond(problem.error(point) > tolerance, moved, lambda: point)


def column_moves(problem: Problem, point: Point) -> Float[Array, " m"]:
    """What would fill each column if it moved alone, in units of epsilon.

    The rows that give a column more than half of theirs count as one, of their mean odds rho; the others as far from
    saturation. With ``x = e^s`` that leaves ``I x + A x / (rho + x) = b``, a quadratic equation.
    """
    a, b = problem.a, problem.b
    geometry = problem.geometry
    assert isinstance(geometry, Anchored)
    plan = geometry.plan_rows(a, b, point.f, point.g, jnp.arange(a.shape[0]))
    own = plan > 0.5 * a[:, None]
    others = jnp.where(own, 0.0, plan)
    elsewhere = jnp.sum(others, axis=1)
    gets = jnp.sum(others, axis=0)
    keeps = jnp.sum(jnp.where(own, plan, 0.0), axis=0)
    gives = jnp.sum(jnp.where(own, elsewhere[:, None], 0.0), axis=0)
    has = jnp.sum(jnp.where(own, a[:, None], 0.0), axis=0)
    tiny = jnp.finfo(b.dtype).tiny
    odds = jnp.where(keeps > 0, gives / jnp.where(keeps > 0, keeps, 1.0), 1.0)
    # Of the two forms of the root the one without cancellation.
    linear = gets * odds + (has - b)
    root = jnp.sqrt(linear**2 + 4.0 * gets * b * odds)
    full = jnp.where(
        linear > 0,
        2.0 * b * odds / jnp.maximum(linear + root, tiny),
        (root - linear) / jnp.maximum(2.0 * gets, tiny),
    )
    moves = jnp.clip(jnp.log(jnp.maximum(full, tiny)), -_FAR, _FAR)
    return jnp.where(b > 0, moves, 0.0)
