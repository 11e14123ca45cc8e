"""A plan that meets its marginals, made from dual potentials, and how far it can be from optimal.

For a feasible plan the distance to the optimum is at most primal minus dual. Both are large beside their difference;
it is a sum of divergences, none negative, and is computed as such: ``epsilon KL(P' | P)`` for the rounded plan P'
beside the plan P of the potentials where marginals are exact, ``strength KL(p | a phi'(f))`` for a soft marginal p.
"""

from __future__ import annotations

from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Float, PyTree

from ._anchored import anchored
from ._geometry import bounded_exponent
from ._grid import Separable
from ._marginals import AbstractMarginal, Soft
from ._problem import Point, Problem
from ._separable_rounding import rounded_parts


class Certificate(NamedTuple):
    """What is known about a dual point."""

    dual: Float[Array, ""]
    """Dual value: a lower bound on the optimum."""
    primal: Float[Array, ""]
    """Objective of the rounded plan: an upper bound."""
    linear: Float[Array, ""]
    """``<C, P'>`` of the rounded plan."""
    gap: Float[Array, ""]
    """Primal minus dual, with an allowance for rounding."""
    row_error: Float[Array, ""]
    """Summed deviation of the row sums from what the potentials ask for, over the mass."""
    column_error: Float[Array, ""]
    size: Float[Array, ""]
    """Size of the potentials and costs that the plan's entries are differences of, a mean over the mass."""


def certify(problem: Problem, point: Point) -> Certificate:
    """Round the plan and bound its distance to the optimum. Four passes over all pairs; two over stored costs.

    Rows, then columns, that carry too much are shrunk, and what is then missing is spread as a product measure. A soft
    marginal asks for nothing: nothing is shrunk for it, and what the other lacks is spread along its weights.

    Reference for the rounding: Altschuler, Weed and Rigollet, Near-linear time approximation algorithms for optimal
    transport via Sinkhorn iteration, arXiv:1705.09634, algorithm 2.
    """
    problem = anchored(problem, point)
    a, b, f, g, epsilon = problem.a, problem.b, point.f, point.g, problem.epsilon
    geometry = problem.geometry
    rows, columns = a * jnp.exp(problem.log_rows(f, g)), problem.columns(point)
    row_scale = _shrink(problem.row_marginal, a, rows)
    left = b * geometry.transposed.push(g, f, problem.log_a, epsilon, row_scale[:, None])[:, 0]
    column_scale = _shrink(problem.column_marginal, b, left)
    kept = a * row_scale * geometry.push(f, g, problem.log_b, epsilon, column_scale[:, None])[:, 0]
    short_rows = _short(problem.row_marginal, a, kept)
    short_columns = _short(problem.column_marginal, b, column_scale * left)
    soft = isinstance(problem.row_marginal, Soft), isinstance(problem.column_marginal, Soft)
    # What one side must still get the soft other side can give anywhere.
    if soft == (True, False):
        short_rows = a * (jnp.sum(short_columns) / jnp.sum(a))
    elif soft == (False, True):
        short_columns = b * (jnp.sum(short_rows) / jnp.sum(b))
    missing = jnp.sum(short_rows)
    spread = (f, row_scale, _ratio(short_rows, a)), (g, b, column_scale, _ratio(short_columns, b) / _or_one(missing))
    if isinstance(geometry, Separable):
        parts = rounded_parts(geometry, epsilon, *spread)
    else:
        parts = geometry.reduce(_rounded_term, epsilon, *spread)
    linear, entropy, divergence, mass = (jnp.sum(a * part) for part in parts)
    moved = (kept + short_rows, column_scale * left + short_columns)
    penalty = _penalty(problem.row_marginal, a, moved[0]) + _penalty(problem.column_marginal, b, moved[1])
    slack = _slack(problem.row_marginal, a, f, moved[0]) + _slack(problem.column_marginal, b, g, moved[1])
    asked = a * problem.row_marginal.slope(f), b * problem.column_marginal.slope(g)
    whole = problem.mass(point)
    # A soft marginal may ask for more than the weights, and its value counts even where it asks for nothing.
    terms = jnp.maximum(a, asked[0]) * jnp.abs(f), jnp.maximum(b, asked[1]) * jnp.abs(g)
    rounded_off = jnp.sum(terms[0]) + jnp.sum(terms[1]) + jnp.abs(linear)
    rounded_off = rounded_off + epsilon * jnp.maximum(mass, jnp.sum(a) * jnp.sum(b))
    return Certificate(
        dual=point.value,
        primal=linear + epsilon * entropy + penalty,
        linear=linear,
        gap=epsilon * divergence + slack + 8.0 * jnp.finfo(f.dtype).eps * rounded_off,
        row_error=jnp.sum(jnp.abs(asked[0] - rows)) / whole,
        column_error=jnp.sum(jnp.abs(asked[1] - columns)) / whole,
        size=(jnp.sum(asked[0] * jnp.abs(f)) + jnp.sum(asked[1] * jnp.abs(g)) + jnp.abs(linear)) / whole,
    )


def _or_one(x: Array) -> Array:
    return jnp.where(x > 0, x, 1.0)


def _ratio(part: Array, whole: Array) -> Array:
    return jnp.where(whole > 0, part / _or_one(whole), 0.0)


def _shrink(marginal: AbstractMarginal, weights: Array, sums: Array) -> Array:
    if isinstance(marginal, Soft):
        return jnp.ones_like(weights)
    return jnp.where(sums > weights, weights / _or_one(sums), 1.0)


def _short(marginal: AbstractMarginal, weights: Array, sums: Array) -> Array:
    return jnp.zeros_like(weights) if isinstance(marginal, Soft) else jnp.maximum(weights - sums, 0.0)


def _divergence(weights: Array, share: Array, reference: Array) -> Array:
    """``sum weights KL(share | reference)`` of non-negative numbers."""
    log = jnp.log(_or_one(share)) - jnp.log(_or_one(reference))
    return jnp.sum(weights * (jnp.where(share > 0, share * log, 0.0) - share + reference))


def _penalty(marginal: AbstractMarginal, weights: Array, sums: Array) -> Array:
    if not isinstance(marginal, Soft):
        return jnp.zeros((), weights.dtype)
    share = _ratio(sums, weights)
    return marginal.strength * _divergence(weights, share, jnp.ones_like(share))


def _slack(marginal: AbstractMarginal, weights: Array, potential: Array, sums: Array) -> Array:
    if not isinstance(marginal, Soft):
        return jnp.zeros((), weights.dtype)
    return marginal.strength * _divergence(weights, _ratio(sums, weights), marginal.slope(potential))


def _rounded_term(epsilon: Array, cost: Array, row: PyTree, column: PyTree, weight: Array) -> PyTree:
    """Cost, entropy, divergence from the plan of the potentials, and mass of the rounded plan, per row weight."""
    f, row_scale, left = row
    g, b, column_scale, right = column
    logits = bounded_exponent(epsilon, cost, f, g)
    density = jnp.exp(logits)
    rounded = row_scale[:, None] * column_scale[None, :] * density + left[:, None] * right[None, :]
    positive = rounded > 0
    log_rounded = jnp.log(jnp.where(positive, rounded, 1.0))
    each = (weight * b)[None, :]
    return (
        jnp.sum(each * rounded * cost, axis=1),
        jnp.sum(each * (rounded * log_rounded - rounded + 1.0), axis=1),
        jnp.sum(each * (jnp.where(positive, rounded * (log_rounded - logits), 0.0) - rounded + density), axis=1),
        jnp.sum(each * rounded, axis=1),
    )
