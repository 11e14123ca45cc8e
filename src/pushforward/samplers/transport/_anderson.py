"""Anderson acceleration of Sinkhorn's updates.

Reference: Walker and Ni, Anderson acceleration for fixed-point iterations, doi:10.1137/10078356X, section 2 (the
unconstrained form in differences).
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from ._problem import Point, Problem
from ._sinkhorn import IDLE, Sweeps

_MEMORY = 8
_RIDGE = 1e-10


class _State(NamedTuple):
    point: Point
    error: Float[Array, ""]
    images: Float[Array, "k m"]
    """What the last updates of g gave."""
    changes: Float[Array, "k m"]
    """By how much they changed it."""
    least: Float[Array, ""]
    idle: Int[Array, ""]
    num_sweeps: Int[Array, ""]


def anderson(problem: Problem, point: Point, tolerance: Float[Array, ""], most: int | Array) -> Sweeps:
    """Sweeps whose next g is the combination of the last eight that would have changed least.

    A combination that lowers the dual value is dropped for the plain update, so that the whole converges as that does.
    Cost per sweep: that of a plain one and O(m), and once more where a combination is dropped.
    """

    def unfinished(state: _State) -> Array:
        return (state.error > tolerance) & (state.num_sweeps < most) & (state.idle < IDLE)

    def body(state: _State) -> _State:
        soft = state.point.g - problem.epsilon * state.point.log_columns
        image = problem.column_marginal.update(soft, problem.epsilon)
        change = jnp.where(problem.b > 0, image - state.point.g, 0.0)
        images = jnp.roll(state.images, 1, axis=0).at[0].set(image)
        changes = jnp.roll(state.changes, 1, axis=0).at[0].set(change)
        known = jnp.arange(_MEMORY) <= jnp.minimum(state.num_sweeps, _MEMORY - 1)
        mixed = problem.point(state.point.f, _combine(images, changes, known, problem.b))
        slack = 4.0 * jnp.finfo(image.dtype).eps * jnp.abs(state.point.value)
        worse = ~(mixed.value >= state.point.value - slack)
        point = jax.lax.cond(worse, lambda: problem.point(state.point.f, image), lambda: mixed)
        # What led there is forgotten.
        changes = jnp.where(worse, change[None, :], changes)
        images = jnp.where(worse, image[None, :], images)
        error = problem.error(point)
        idle = jnp.where(error < state.least, 0, state.idle + 1)
        return _State(point, error, images, changes, jnp.minimum(error, state.least), idle, state.num_sweeps + 1)

    nothing = jnp.zeros((_MEMORY, point.g.shape[0]), point.g.dtype)
    zero, error = jnp.zeros((), jnp.int32), problem.error(point)
    start = _State(point, error, nothing, nothing, error, zero, zero)
    end = jax.lax.while_loop(unfinished, body, start)
    return Sweeps(end.point, end.error, end.num_sweeps)


def _combine(
    images: Float[Array, "k m"], changes: Float[Array, "k m"], known: Array, weights: Float[Array, " m"]
) -> Float[Array, " m"]:
    """The combination of images, of sum one, whose change is least in the weighted mean square."""
    differences = jnp.where(known[1:, None], changes[:1] - changes[1:], 0.0) * jnp.sqrt(weights)[None, :]
    gram = differences @ differences.T
    right = differences @ (changes[0] * jnp.sqrt(weights))
    # Unknown ones have a row of zeros: one on their diagonal makes their share zero.
    size = jnp.where(known[1:], 0.0, 1.0) + _RIDGE * jnp.trace(gram) + jnp.finfo(gram.dtype).tiny
    shares = jnp.linalg.solve(gram + jnp.diag(size), right)
    return images[0] - shares @ jnp.where(known[1:, None], images[:1] - images[1:], 0.0)
