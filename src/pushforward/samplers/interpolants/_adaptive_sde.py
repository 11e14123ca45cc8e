"""Noise with steps that each particle chooses for itself, along one Brownian path whatever the steps are."""

from __future__ import annotations

from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, PyTree

from ...models._types import Key
from .._checks import check_count, check_positive
from ._fields import AbstractFields
from ._points import check_moved, check_points
from ._sde import Diffusion, diffusion_at, make_diffusion
from ._times import check_arrived, check_span

SAFETY, POWER, LARGEST_CHANGE = 0.9, 0.9, 5.0
"""Factor and power of the error in the next step, and the most that a step changes by."""
PIECES = 16
"""Refused steps kept in memory. Each halves what is left at least, so that the last would be 2e-5 of the first."""


class Adaptive(NamedTuple):
    """Points moved with steps of their own.

    Attributes:
        points: shape (n, *event).
        evaluations: evaluations of the drift for each point, shape (n,). Together they take as long as the slowest.
        refused: steps that were tried again for each point, shape (n,).
    """

    points: Float[Array, "n *event"]
    evaluations: Int[Array, " n"]
    refused: Int[Array, " n"]


class _State(NamedTuple):
    t: Array
    x: Array
    trial: Array
    h: Array
    key: Array
    lengths: Array
    increments: Array
    pieces: Array
    tried: Array
    refused: Array


def diffuse_adaptive(
    key: Key,
    fields: AbstractFields,
    x: Float[Array, "n *event"],
    *,
    epsilon: Diffusion = 1.0,
    rtol: Any = 0.01,
    atol: Any = 0.01,
    first_step: Any = 0.01,
    start: float = 0.0,
    end: float = 1.0,
    max_steps: int = 10_000,
    condition: PyTree = None,
) -> Adaptive:
    """Move points along ``dX = (b + epsilon s) dt + sqrt(2 epsilon) dW``, each with steps as long as its error allows.

    A step is Euler's and, with the same noise, Heun's; their difference is the error, and Heun's point is kept. A step
    is accepted where the root mean square of error over ``max(atol, rtol |x|)`` is at most one. A refused step's noise
    is not thrown away: the shorter step gets a part of it, drawn from the Brownian bridge, and the rest waits for the
    steps that follow. Drawing afresh instead, as the published sampler does, prefers small noise.

    Each particle has a key of its own and sees nothing of the others, so that the result does not depend on how the
    particles are put into batches.

    Args:
        key: one typed key, of which particle i gets ``jax.random.fold_in(key, i)``; or an array of n typed keys.
        fields: fields of an interpolant.
        x: points at ``start``.
        epsilon: how much noise, a number or a function of time; zero for none.
        rtol: error allowed, as a share of the point.
        atol: error allowed, in units of the points.
        first_step: length of the first step tried, in units of time.
        start: first time.
        end: last time; before ``start`` for the way back.
        max_steps: steps, refused ones included, after which a particle that has not arrived is an error.
        condition: passed on to the fields, one leading entry per point.

    Returns:
        Points at ``end``, and what each cost: two evaluations a step. Memory: 16 times that of the points, for noise
        that waits.

    Raises:
        ValueError: for bad settings.
        FloatingPointError: where a particle does not arrive: fields that are not finite, or too small a tolerance.

    Reference: Jolicoeur-Martineau et al., Gotta go fast when generating data, arXiv:2105.14080, algorithm 1; bridges in
    place of its fresh noise: Rackauckas, Nie, Adaptive methods for SDEs via natural embeddings, arXiv:1608.05370.
    """
    x, condition = check_points(fields, x, condition)
    check_span(start, end)
    keys = _keys(key, len(x))
    rules = {
        "rtol": check_positive("rtol", rtol, x.dtype, "no units", zero=True),
        "atol": check_positive("atol", atol, x.dtype, "units of the points"),
        "first": check_positive("first_step", first_step, x.dtype, "units of time"),
        "start": jnp.asarray(start, x.dtype),
        "end": jnp.asarray(end, x.dtype),
    }
    most = check_count("max_steps", max_steps, 1)
    points, arrived, tried, refused = _adaptive(
        keys, fields, x, make_diffusion(epsilon, x.dtype), rules, condition, most
    )
    check_arrived(arrived, end, most)
    return Adaptive(points, 2 * tried, refused)


def _keys(key: Any, count: int) -> Array:
    if not (isinstance(key, jax.Array) and jnp.issubdtype(key.dtype, jax.dtypes.prng_key)) or key.ndim > 1:
        raise ValueError(f"key={key!r}: expected one typed key, jax.random.key(0), or an array of {count} of them.")
    if key.ndim == 0:
        return jax.vmap(jax.random.fold_in, (None, 0))(key, jnp.arange(count))
    if len(key) != count:
        raise ValueError(f"{len(key)} keys for {count} points: expected one each, or one key for all.")
    return key


@eqx.filter_jit
def _adaptive(
    keys: Array,
    fields: AbstractFields,
    x: Array,
    epsilon: Any,
    rules: dict[str, Array],
    condition: PyTree,
    most: int,
) -> tuple[Array, Bool[Array, " n"], Array, Array]:
    distance = jnp.abs(rules["end"] - rules["start"])
    direction = jnp.sign(rules["end"] - rules["start"])
    shortest = 4.0 * jnp.finfo(x.dtype).eps

    def one(key: Array, x: Array, condition: PyTree = None) -> tuple[Array, Array, Array, Array]:
        def drift(elapsed: Array, x: Array) -> Array:
            t = jnp.clip(rules["start"] + direction * elapsed, 0.0, 1.0)
            level = direction * diffusion_at(epsilon, t)
            found = fields.drift(t, x, condition, level=level)
            check_moved(found[None], x[None])
            return direction * found

        def going(state: _State) -> Array:
            return (state.t < distance) & (state.tried < most)

        def step(state: _State) -> _State:
            key, draw = jax.random.split(state.key)
            h, noise, rest, pieces = _next_piece(state, distance, jax.random.normal(draw, x.shape, x.dtype))
            middle = jnp.clip(rules["start"] + direction * (state.t + 0.5 * h), 0.0, 1.0)
            shock = jnp.sqrt(2.0 * diffusion_at(epsilon, middle)) * noise
            euler = state.x + h * drift(state.t, state.x) + shock
            heun = 0.5 * (euler + state.x + h * drift(state.t + h, euler) + shock)
            allowed = jnp.maximum(rules["atol"], rules["rtol"] * jnp.maximum(jnp.abs(state.trial), jnp.abs(euler)))
            error = jnp.sqrt(jnp.mean(((heun - euler) / allowed) ** 2))
            error = jnp.where(jnp.isfinite(error), error, jnp.inf)
            # A full memory accepts what it cannot keep; steps at the resolution of time cannot be shortened.
            accept = (error <= 1.0) | (jnp.isfinite(error) & ((pieces >= PIECES) | (h <= shortest)))
            change = SAFETY * jnp.maximum(error, 1e-8) ** -POWER
            change = jnp.clip(change, 1.0 / LARGEST_CHANGE, jnp.where(accept, LARGEST_CHANGE, 0.5))
            lengths, increments = rest
            # A refused step is put on top of what waits.
            slot = jnp.where(accept, PIECES, pieces)
            return _State(
                t=jnp.where(accept, jnp.where(h >= distance - state.t, distance, state.t + h), state.t),
                x=jnp.where(accept, heun, state.x),
                trial=jnp.where(accept, euler, state.trial),
                h=h * change,
                key=key,
                lengths=lengths.at[slot].set(h, mode="drop"),
                increments=increments.at[slot].set(noise, mode="drop"),
                pieces=jnp.where(accept, pieces, pieces + 1),
                tried=state.tried + 1,
                refused=state.refused + (~accept).astype(int),
            )

        zero = jnp.zeros((), int)
        state = _State(
            t=jnp.zeros_like(distance),
            x=x,
            trial=x,
            h=jnp.minimum(rules["first"], distance),
            key=key,
            lengths=jnp.zeros(PIECES, x.dtype),
            increments=jnp.zeros((PIECES, *x.shape), x.dtype),
            pieces=zero,
            tried=zero,
            refused=zero,
        )
        state = jax.lax.while_loop(going, step, state)
        return state.x, state.t >= distance, state.tried, state.refused

    return jax.vmap(one)(keys, x) if condition is None else jax.vmap(one)(keys, x, condition)


def _next_piece(state: _State, distance: Array, normal: Array) -> tuple[Array, Array, tuple[Array, Array], Array]:
    """Length and noise of the next step (new noise, a waiting piece or the first part of one), and what waits after."""
    top = jnp.maximum(state.pieces - 1, 0)
    length, increment = state.lengths[top], state.increments[top]
    waiting = state.pieces > 0
    left = jnp.where(waiting, length, distance - state.t)
    # A remainder that is too short to matter is taken along.
    whole = state.h >= 0.99 * left
    h = jnp.where(whole, left, state.h)
    fresh = jnp.sqrt(h) * normal
    bridge = (h / left) * increment + jnp.sqrt(h * jnp.maximum(left - h, 0.0) / left) * normal
    noise = jnp.where(waiting, jnp.where(whole, increment, bridge), fresh)
    lengths = state.lengths.at[top].set(jnp.where(waiting, left - h, length))
    increments = state.increments.at[top].set(jnp.where(waiting, increment - noise, increment))
    return h, noise, (lengths, increments), jnp.where(waiting & whole, top, state.pieces)
