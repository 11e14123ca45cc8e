"""Ways to solve Newton's linear system."""

from __future__ import annotations

from collections.abc import Callable

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from ..pairs._distance import product
from ._anchored import Anchored
from ._marginals import Exact
from ._newton import AbstractSystem, Diagonals
from ._problem import Point, Problem

_BATCH = 2**20
"""Entries of the plan in sight at once while the largest are looked for."""
_RESOLVED = 1e3
"""Curvature, in units of the dtype's epsilon, from which on a factorisation resolves it."""


class Direct(AbstractSystem):
    """Cholesky factorisation of the whole system. Cost: O(n m^2 + m^3 / 3); memory of three n x m matrices."""

    def solve(
        self,
        problem: Problem,
        point: Point,
        diagonals: Diagonals,
        residual: Float[Array, " m"],
        ridge: Float[Array, ""],
        accuracy: Float[Array, ""],
    ) -> Float[Array, " m"]:
        """See `AbstractSystem.solve`."""
        scaled = _scaled_rows(problem, point, diagonals, jnp.arange(problem.a.shape[0]))
        used = jnp.where(problem.b > 0, 1.0, 0.0)
        root = jnp.sqrt(diagonals.columns)
        null = _null(problem, point, diagonals)
        gram = product(scaled.T, scaled)
        gram = gram - jnp.diag(jnp.diag(gram))
        # The diagonal as a sum of what is not negative: in a difference weakly coupled columns would drown.
        soft = jnp.where(problem.a > 0, 1.0 - point.rows / diagonals.rows, 0.0) * jnp.sqrt(diagonals.rows)
        surplus = diagonals.columns - problem.columns(point)
        diagonal = used * (surplus / root + soft @ scaled + gram @ root) / root + (1.0 - used)
        matrix = jnp.diag(diagonal + ridge) - gram + null[:, None] * null[None, :]
        factor = jax.scipy.linalg.cho_factor(matrix, lower=True)
        return used * jax.scipy.linalg.cho_solve(factor, used * residual / root) / root


class ConjugateGradients(AbstractSystem):
    """Conjugate gradients, the plan applied twice per iteration. Streams: memory linear in n + m for clouds."""

    most: int = eqx.field(static=True, default=400)

    def solve(
        self,
        problem: Problem,
        point: Point,
        diagonals: Diagonals,
        residual: Float[Array, " m"],
        ridge: Float[Array, ""],
        accuracy: Float[Array, ""],
    ) -> Float[Array, " m"]:
        """See `AbstractSystem.solve`."""
        forward, backward = _scaled_products(problem, point, diagonals)
        return _conjugate_gradients(
            lambda v: v - backward(forward(v)), problem, point, diagonals, residual, ridge, accuracy, self.most
        )[0]


class Hybrid(AbstractSystem):
    """Conjugate gradients, and a factorisation where those do not get there.

    Attributes:
        most: iterations of conjugate gradients.
    """

    most: int = eqx.field(static=True, default=200)

    def solve(
        self,
        problem: Problem,
        point: Point,
        diagonals: Diagonals,
        residual: Float[Array, " m"],
        ridge: Float[Array, ""],
        accuracy: Float[Array, ""],
    ) -> Float[Array, " m"]:
        """See `AbstractSystem.solve`."""
        forward, backward = _scaled_products(problem, point, diagonals)
        step, left = _conjugate_gradients(
            lambda v: v - backward(forward(v)), problem, point, diagonals, residual, ridge, accuracy, self.most
        )
        # Not the residual of the recurrence but the true one; NaN counts as not there.
        there = left <= 2.0 * accuracy
        direct = Direct()
        given = problem, point, diagonals, residual, ridge, accuracy
        return jax.lax.cond(there, lambda: step, lambda: direct.solve(*given))


class Sparse(AbstractSystem):
    """Conjugate gradients on the largest entries of each row of the plan, while those carry nearly all of it.

    The diagonals stay exact: what is left out acts as a ridge, so that the step is an ascent direction whatever is left
    out. Where a row would lose more than the given share, all entries are used for that step.

    Attributes:
        neighbours: entries kept per row. Memory: n times this.
        lost: share of a row's mass that may be left out.
        most: iterations of conjugate gradients.
    """

    neighbours: int = eqx.field(static=True, default=64)
    lost: float = eqx.field(static=True, default=1e-3)
    most: int = eqx.field(static=True, default=1000)

    def solve(
        self,
        problem: Problem,
        point: Point,
        diagonals: Diagonals,
        residual: Float[Array, " m"],
        ridge: Float[Array, ""],
        accuracy: Float[Array, ""],
    ) -> Float[Array, " m"]:
        """See `AbstractSystem.solve`."""
        n, m = problem.geometry.shape
        count = min(self.neighbours, m)

        def largest(index: Array) -> tuple[Array, Array, Array]:
            row = _scaled_rows(problem, point, diagonals, index[None])[0]
            values, indices = jax.lax.top_k(row, count)
            mass = row * jnp.sqrt(diagonals.columns)
            return values, indices, 1.0 - jnp.sum(mass[indices]) / jnp.maximum(jnp.sum(mass), jnp.finfo(row.dtype).tiny)

        values, indices, lost = jax.lax.map(largest, jnp.arange(n), batch_size=max(1, _BATCH // m))

        def sparse() -> Array:
            def apply(v: Array) -> Array:
                pushed = jnp.sum(values * v[indices], axis=1)
                return v - jnp.zeros_like(v).at[indices].add(values * pushed[:, None])

            return _conjugate_gradients(apply, problem, point, diagonals, residual, ridge, accuracy, self.most)[0]

        def full() -> Array:
            whole = ConjugateGradients(self.most)
            return whole.solve(problem, point, diagonals, residual, ridge, accuracy)

        return jax.lax.cond(jnp.max(jnp.where(problem.a > 0, lost, 0.0)) <= self.lost, sparse, full)


def _null(problem: Problem, point: Point, diagonals: Diagonals) -> Float[Array, " m"]:
    """The direction in which the system has no curvature, a constant moved between f and g, scaled to length one.

    Zero where soft marginals give it some: a term along it would hold back just the step that finds the mass.
    """
    used = jnp.where(problem.b > 0, 1.0, 0.0)
    whole = jnp.sum(used * diagonals.columns)
    null = used * jnp.sqrt(diagonals.columns / whole)
    if isinstance(problem.row_marginal, Exact) and isinstance(problem.column_marginal, Exact):
        return null
    rows = problem.a * problem.row_marginal.curvature(point.f) * jnp.where(problem.a > 0, point.rows, 0.0)
    curvature = jnp.sum(rows / diagonals.rows) + jnp.sum(problem.b * problem.column_marginal.curvature(point.g))
    resolved = problem.epsilon * curvature > _RESOLVED * jnp.finfo(null.dtype).eps * whole
    return jnp.where(resolved, 0.0, null)


def _scaled_rows(problem: Problem, point: Point, diagonals: Diagonals, index: Int[Array, " k"]) -> Float[Array, "k m"]:
    """Rows of the plan over the square roots of both diagonals."""
    if isinstance(problem.geometry, Anchored):
        left, right = problem.a / jnp.sqrt(diagonals.rows), problem.b / jnp.sqrt(diagonals.columns)
        return problem.geometry.plan_rows(left, right, point.f, point.g, index)
    logits = (point.f[index, None] + point.g[None, :] - problem.geometry.cost_rows(index)) / problem.epsilon
    left = problem.log_a - 0.5 * jnp.log(diagonals.rows)
    right = problem.log_b - 0.5 * jnp.log(diagonals.columns)
    return jnp.exp(left[index, None] + right[None, :] + logits)


def _scaled_products(
    problem: Problem, point: Point, diagonals: Diagonals
) -> tuple[Callable[[Array], Array], Callable[[Array], Array]]:
    if isinstance(problem.geometry, Anchored):
        plan = _scaled_rows(problem, point, diagonals, jnp.arange(problem.a.shape[0]))
        return lambda v: product(plan, v[:, None])[:, 0], lambda u: product(u[None, :], plan)[0]
    left = problem.a / jnp.sqrt(diagonals.rows)
    right = problem.b / jnp.sqrt(diagonals.columns)
    over, under = jnp.sqrt(diagonals.rows), jnp.sqrt(diagonals.columns)

    def forward(v: Array) -> Array:
        vectors = (v / under)[:, None]
        return left * problem.geometry.push(point.f, point.g, problem.log_b, problem.epsilon, vectors)[:, 0]

    def backward(u: Array) -> Array:
        vectors = (u / over)[:, None]
        transposed = problem.geometry.transposed
        return right * transposed.push(point.g, point.f, problem.log_a, problem.epsilon, vectors)[:, 0]

    return forward, backward


def _conjugate_gradients(
    laplacian: Callable[[Array], Array],
    problem: Problem,
    point: Point,
    diagonals: Diagonals,
    residual: Array,
    ridge: Array,
    accuracy: Array,
    most: int,
) -> tuple[Array, Array]:
    """The step, and the relative residual that is left."""
    used = jnp.where(problem.b > 0, 1.0, 0.0)
    root = jnp.sqrt(diagonals.columns)
    null = _null(problem, point, diagonals)

    def apply(v: Array) -> Array:
        return laplacian(v) + ridge * v + null * jnp.sum(null * v)

    right = used * residual / root
    solution, _ = jax.scipy.sparse.linalg.cg(apply, right, tol=accuracy, maxiter=most)
    left = jnp.linalg.norm(apply(solution) - right) / jnp.linalg.norm(right)
    return used * solution / root, left
