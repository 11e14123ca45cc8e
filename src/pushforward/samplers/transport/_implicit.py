"""Derivatives of the optimal potentials and of the optimal value, from the conditions that potentials meet.

Nothing of the iterations is kept. With ``r_i = sum_j b_j e_ij`` and ``c_j = sum_i a_i e_ij``, where
``e_ij = exp((f_i + g_j - C_ij) / epsilon)``, optimal potentials meet ``phi'(f_i) = r_i`` and ``psi'(g_j) = c_j``, also
where a weight is zero. They move by the solution of one linear system; the value, at its maximum over them, moves with
the problem alone.

Stored costs are differentiable forward and backward, any number of times; streamed ones backward only, because a
reduction over pairs is.
"""

from __future__ import annotations

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PyTree

from ._geometry import Dense
from ._marginals import Exact
from ._problem import Problem

Potentials = tuple[Float[Array, " n"], Float[Array, " m"]]

_MOST = 2000


def dual_value(problem: Problem, f: Float[Array, " n"], g: Float[Array, " m"]) -> Float[Array, ""]:
    """The dual at potentials near the optimal ones, differentiable in everything."""
    rows = problem.geometry.density(f, g, problem.b, problem.epsilon)
    return (
        jnp.sum(problem.a * problem.row_marginal.value(f))
        + jnp.sum(problem.b * problem.column_marginal.value(g))
        + problem.epsilon * (jnp.sum(problem.a) * jnp.sum(problem.b) - jnp.sum(problem.a * rows))
    )


def relative_residual(problem: Problem, f: Float[Array, " n"], g: Float[Array, " m"]) -> Potentials:
    """What optimal potentials make zero: per unit of weight, what each row and each column lacks."""
    rows = problem.geometry.density(f, g, problem.b, problem.epsilon)
    columns = problem.geometry.transposed.density(g, f, problem.a, problem.epsilon)
    return problem.row_marginal.slope(f) - rows, problem.column_marginal.slope(g) - columns


def differentiable(problem: Problem, f: Float[Array, " n"], g: Float[Array, " m"]) -> tuple[Potentials, Array]:
    """Potentials and dual value with the derivatives that optimal ones have.

    Args:
        problem: what to differentiate in.
        f: row potential at the solution, taken as a constant.
        g: column potential.
    """
    f, g = jax.lax.stop_gradient((f, g))
    leaves, static = eqx.partition(problem, eqx.is_inexact_array)
    if isinstance(problem.geometry, Dense):
        return _forward(static, leaves, f, g)
    return _backward(static, leaves, f, g)


@jax.custom_jvp
def _forward_leaves(packed: Any) -> Any:
    problem, f, g = packed
    return (f, g), dual_value(problem, f, g)


def _forward(static: PyTree, leaves: PyTree, f: Array, g: Array) -> tuple[Potentials, Array]:
    return _forward_leaves((eqx.combine(leaves, static), f, g))


@_forward_leaves.defjvp
def _forward_jvp(primals: Any, tangents: Any) -> Any:
    ((problem, f, g),), ((moved, _, _),) = primals, tangents
    # Found again with their own derivatives, so that second derivatives see them move.
    (f, g), value = _forward_leaves((problem, f, g))
    _, slope = jax.jvp(lambda p: dual_value(p, f, g), (problem,), (moved,))
    _, residual = jax.jvp(lambda p: relative_residual(p, f, g), (problem,), (moved,))
    return ((f, g), value), (_response(problem, f, g, residual), slope)


@jax.custom_vjp
def _backward_leaves(packed: Any) -> Any:
    problem, f, g = packed
    return (f, g), dual_value(problem, f, g)


def _backward(static: PyTree, leaves: PyTree, f: Array, g: Array) -> tuple[Potentials, Array]:
    return _backward_leaves((eqx.combine(leaves, static), f, g))


def _backward_saved(packed: Any) -> Any:
    return _backward_leaves(packed), packed


def _backward_pulled(saved: Any, cotangents: Any) -> Any:
    problem, f, g = saved
    (f, g), _ = _backward_leaves((problem, f, g))
    potentials, to_value = cotangents
    residual = _adjoint(problem, f, g, potentials)
    _, pull = jax.vjp(lambda p: (dual_value(p, f, g), relative_residual(p, f, g)), problem)
    return ((pull((to_value, residual))[0], jnp.zeros_like(f), jnp.zeros_like(g)),)


_backward_leaves.defvjp(_backward_saved, _backward_pulled)


def _adjoint(problem: Problem, f: Array, g: Array, cotangent: Potentials) -> Potentials:
    """`_response` transposed: what cotangents of the potentials are in terms of the relative residual."""
    geometry, a, b, epsilon = problem.geometry, problem.a, problem.b, problem.epsilon
    to_f, to_g = cotangent
    rows = geometry.density(f, g, b, epsilon) + epsilon * problem.row_marginal.curvature(f)
    columns = geometry.transposed.density(g, f, a, epsilon) + epsilon * problem.column_marginal.curvature(g)
    # Potentials at weights of zero follow the others and move nothing: columns first, rows next, then what is coupled.
    idle_g = jnp.where(b > 0, 0.0, to_g / columns)
    to_f = to_f - a * geometry.density(f, g, idle_g, epsilon)
    idle_f = jnp.where(a > 0, 0.0, to_f / rows)
    to_g = to_g - b * geometry.transposed.density(g, f, idle_f, epsilon)
    moved_f, moved_g = _response(problem, f, g, (_over(to_f, a), _over(to_g, b)))
    return (
        jnp.where(a > 0, a * moved_f, epsilon * idle_f),
        jnp.where(b > 0, b * moved_g, epsilon * idle_g),
    )


def _over(x: Array, weights: Array) -> Array:
    return jnp.where(weights > 0, x / jnp.where(weights > 0, weights, 1.0), 0.0)


def _response(problem: Problem, f: Array, g: Array, residual: Potentials) -> Potentials:
    """How the potentials move when the relative residual is raised: one potential eliminated, then the linear system.

    For exact marginals a constant may be moved between f and g; the one of weighted mean zero is taken for g.
    """
    geometry, a, b, epsilon = problem.geometry, problem.a, problem.b, problem.epsilon
    row_curvature = epsilon * problem.row_marginal.curvature(f)
    column_curvature = epsilon * problem.column_marginal.curvature(g)
    ones = jnp.ones_like(b)[:, None], jnp.ones_like(a)[:, None]

    def forward(v: Array) -> Array:
        return geometry.push(f, g, problem.log_b, epsilon, v[:, None])[:, 0]

    def backward(u: Array) -> Array:
        return geometry.transposed.push(g, f, problem.log_a, epsilon, u[:, None])[:, 0]

    rows = geometry.push(f, g, problem.log_b, epsilon, ones[0])[:, 0] + row_curvature
    columns = geometry.transposed.push(g, f, problem.log_a, epsilon, ones[1])[:, 0] + column_curvature
    free = isinstance(problem.row_marginal, Exact) and isinstance(problem.column_marginal, Exact)
    used = jnp.where(b > 0, 1.0, 0.0)
    root = jnp.sqrt(jnp.where(b > 0, b * columns, 1.0))
    null = used * root / jnp.sqrt(jnp.sum(used * root**2))

    def matvec(v: Array) -> Array:
        """Schur complement, scaled to have a unit diagonal but for what is eliminated."""
        inner = used * v / root
        applied = used * b * (columns * inner - backward(forward(inner) / rows)) / root + (1.0 - used) * v
        return applied + null * jnp.sum(null * v) if free else applied

    right = epsilon * (residual[1] - backward(residual[0] / rows))
    right = used * b * right / root
    # Without its part along the null direction the system has a solution.
    right = right - null * jnp.sum(null * right) if free else right
    scaled = jax.lax.custom_linear_solve(matvec, right, _solve, symmetric=True)
    inner = used * scaled / root
    moved_f = (epsilon * residual[0] - forward(inner)) / rows
    moved_g = jnp.where(b > 0, inner, (epsilon * residual[1] - backward(moved_f)) / columns)
    return moved_f, moved_g


def _solve(matvec: Any, right: Array) -> Array:
    tolerance = 10.0 * float(jnp.finfo(right.dtype).eps)
    return jax.scipy.sparse.linalg.cg(matvec, right, tol=tolerance, maxiter=_MOST)[0]
