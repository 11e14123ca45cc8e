"""The maximum-likelihood fit of a light Schroedinger bridge, by matching component by component.

The loss ``E_x log c(x) - E_y log v(y)`` is stationary where, for every component k, the points x and the points y that
belong to it have the same mass, and ``S_k C_x S_k + epsilon S_k = C_y``, ``r_k = m_y - S_k m_x`` with the means and
covariances of those points: an entropic transport between two Gaussians, known in closed form. So each step matches the
components' moments, and one Newton step sets the masses; a step that does not lower the loss is shortened. With one
component the first step is exact. No learning rate, and no scale but the data's own.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from ..engine._blocks import padded_blocks
from ._component_matrices import features, inner, inverse, log_det, matching, outer, packed, times, unpacked
from ._matrices import product

_BLOCK = 2**21
"""Numbers in a block of points with its products."""
_DECAY = 3.0
_RUNG_STEPS = 6
"""Steps at each epsilon above the wanted one."""
_SHORTEST = 1e-4
_TELLING = 0.25
"""Length of a step from which on its gain says how far the optimum is."""
_FARTHEST = 5.0
"""Change of a log-weight in one step."""
_PATIENCE = 3
"""Steps in a row that must gain less than the tolerance."""


class Parameters(NamedTuple):
    """Potential ``v(y) = sum_k exp(log_weights_k) N(y; locations_k, epsilon scales_k)``."""

    log_weights: Float[Array, " k"]
    locations: Float[Array, "k d"]
    scales: Array
    """(k, d, d), or diagonals (k, d)."""


class Side(NamedTuple):
    """Moments of the points of one side that belong to each component."""

    mass: Float[Array, " k"]
    mean: Float[Array, "k d"]
    second: Array
    """Second moment without the prior."""
    covariance: Array
    """With the prior."""


class Prior(NamedTuple):
    """What every component has seen before the data: pairs of a plan between two covariances.

    It keeps a component with fewer points than dimensions invertible, and is in the units of the data at any epsilon.
    """

    share: Float[Array, ""]
    """Their number, as a share of all data."""
    first: Array
    second: Array


class Fit(NamedTuple):
    """Parameters and how they were reached."""

    parameters: Parameters
    loss: Float[Array, ""]
    num_steps: Int[Array, ""]
    converged: Bool[Array, ""]


class _Point(NamedTuple):
    parameters: Parameters
    loss: Float[Array, ""]
    sides: tuple[Side, Side]
    shift: Float[Array, " k"]
    """Newton's step of the log-weights."""


class _State(NamedTuple):
    point: _Point
    target: Parameters
    epsilon: Float[Array, ""]
    length: Float[Array, ""]
    steps: Int[Array, ""]
    rung_steps: Int[Array, ""]
    small: Int[Array, ""]
    done: Bool[Array, ""]


def fit_mixture(
    x: Float[Array, "n d"],
    y: Float[Array, "m d"],
    a: Float[Array, " n"],
    b: Float[Array, " m"],
    assigned: Float[Array, "m k"],
    epsilon: Float[Array, ""],
    tolerance: Float[Array, ""],
    max_steps: Int[Array, ""],
    *,
    full: bool,
) -> Fit:
    """Fit to centred points of unit scale, starting from clusters of y.

    Args:
        x: centred points.
        y: centred points.
        a: weights of x that sum to one.
        b: weights of y.
        assigned: one-hot cluster of each y.
        epsilon: in the points' units.
        tolerance: gain in the loss, in nats, below which a step counts as the end.
        max_steps: most steps at the wanted epsilon, after those on the way to it.
        full: full matrices, or diagonals.
    """
    prior = _prior(x, y, a, b, assigned, full=full)
    xs, ys = (padded_blocks((points, w), _block_size(points, assigned, full=full)) for points, w in ((x, a), (y, b)))

    def evaluate(parameters: Parameters, epsilon: Array) -> _Point:
        return _evaluate(parameters, xs, ys, prior, epsilon)

    # From far above: there every x belongs to every component alike.
    first = jnp.maximum(epsilon, 1.0)
    start = _start(x, y, a, b, assigned, prior, first, full=full)
    shapes = jax.eval_shape(evaluate, start, first)
    nothing = jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), shapes)
    zero = jnp.asarray(0)
    state = _State(
        # The first step is taken whatever it brings.
        point=nothing._replace(parameters=start, loss=jnp.full_like(epsilon, jnp.inf)),
        target=start,
        epsilon=first,
        length=jnp.ones_like(epsilon),
        steps=zero,
        rung_steps=zero,
        small=zero,
        done=jnp.asarray(False),
    )

    def step(state: _State) -> _State:
        old, length = state.point, state.length
        candidate = jax.tree.map(lambda u, v: u + length * (v - u), old.parameters, state.target)
        point = evaluate(candidate, state.epsilon)
        lower = jnp.isfinite(point.loss) & (point.loss <= old.loss)
        kept = jax.tree.map(lambda u, v: jnp.where(lower, u, v), point, old)
        # A short step gains little wherever it is taken.
        level = (jnp.abs(old.loss - point.loss) <= tolerance) & (length >= _TELLING)
        small = jnp.where(level, state.small + 1, jnp.where(lower, 0, state.small))
        length = jnp.where(lower, jnp.minimum(1.0, 2.0 * length), 0.5 * length)
        ended = (small >= _PATIENCE) | (length < _SHORTEST)
        last = state.epsilon <= epsilon
        descend = ~last & (ended | (state.rung_steps + 1 >= _RUNG_STEPS))
        lower_epsilon = jnp.where(descend, jnp.maximum(state.epsilon / _DECAY, epsilon), state.epsilon)
        return _State(
            # Losses at different epsilon are not compared.
            point=kept._replace(loss=jnp.where(descend, jnp.inf, kept.loss)),
            target=_target(kept, state.epsilon, lower_epsilon),
            epsilon=lower_epsilon,
            length=jnp.where(descend, 1.0, length),
            steps=state.steps + 1,
            rung_steps=jnp.where(descend, 0, state.rung_steps + 1),
            small=jnp.where(descend, 0, small),
            done=last & ended,
        )

    def unfinished(state: _State) -> Array:
        return ~state.done & ((state.epsilon > epsilon) | (state.rung_steps < max_steps))

    state = jax.lax.while_loop(unfinished, step, state)
    return Fit(state.point.parameters, state.point.loss, state.steps, state.done & (state.small >= _PATIENCE))


def forward_logits(parameters: Parameters, x: Float[Array, "n d"], epsilon: Array) -> Float[Array, "n k"]:
    """Log-weights of the components of the plan given x, up to one constant per x."""
    quadratic = _quadratic(x, parameters.scales) + 2.0 * product(x, parameters.locations.T)
    return parameters.log_weights + quadratic / (2.0 * epsilon)


def backward_logits(parameters: Parameters, y: Float[Array, "m d"], epsilon: Array) -> Float[Array, "m k"]:
    """Logarithms of the terms of v(y)."""
    precision = inverse(parameters.scales)
    linear = times(precision, parameters.locations)
    constant = jnp.sum(parameters.locations * linear, axis=1) / epsilon
    constant = constant + log_det(parameters.scales) + y.shape[1] * jnp.log(2.0 * jnp.pi * epsilon)
    quadratic = _quadratic(y, precision) - 2.0 * product(y, linear.T)
    return parameters.log_weights - 0.5 * constant - quadratic / (2.0 * epsilon)


def loss_of(
    parameters: Parameters, x: Array, y: Array, a: Array, b: Array, epsilon: Float[Array, ""]
) -> Float[Array, ""]:
    """The loss of weighted points, without the prior."""
    rows = jax.nn.logsumexp(forward_logits(parameters, x, epsilon), axis=1)
    columns = jax.nn.logsumexp(backward_logits(parameters, y, epsilon), axis=1)
    return product(a, rows) - product(b, columns)


def _quadratic(points: Array, matrices: Array) -> Float[Array, "n k"]:
    return product(features(points, full=matrices.ndim == 3), packed(matrices).T)


def _evaluate(
    parameters: Parameters, xs: tuple[Array, Array], ys: tuple[Array, Array], prior: Prior, epsilon: Array
) -> _Point:
    """Loss with the prior's share, moments, and the step of the log-weights."""
    num_components, full = parameters.locations.shape[0], parameters.scales.ndim == 3

    def over(blocks: tuple[Array, Array], logits_of: object, *, overlap: bool) -> tuple[Array, ...]:
        def visit(total: tuple[Array, ...], block: tuple[Array, Array]) -> tuple[tuple[Array, ...], None]:
            points, weights = block
            logits = logits_of(parameters, points, epsilon)  # type: ignore[operator]
            normaliser = jax.nn.logsumexp(logits, axis=1)
            shares = jnp.exp(logits - normaliser[:, None])
            held = shares * weights[:, None]
            found = (
                jnp.sum(weights * normaliser),
                jnp.sum(held, axis=0),
                product(held.T, points),
                product(held.T, features(points, full=full)),
                product(held.T, shares) if overlap else jnp.zeros(()),
            )
            return jax.tree.map(lambda t, f: t + f.astype(t.dtype), total, found), None

        shapes = jax.eval_shape(lambda block: visit(_nothing(), block)[0], jax.tree.map(lambda v: v[0], blocks))
        return jax.lax.scan(visit, jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), shapes), blocks)[0]

    def _nothing() -> tuple[Array, ...]:
        return tuple(jnp.zeros((), parameters.locations.dtype) for _ in range(5))

    normaliser_x, *sums_x, overlap = over(xs, forward_logits, overlap=True)
    normaliser_y, *sums_y, _ = over(ys, backward_logits, overlap=False)
    sides = _side(sums_x, prior.first, prior.share), _side(sums_y, prior.second, prior.share)
    scales = parameters.scales
    penalty = inner(scales, jnp.broadcast_to(prior.first, scales.shape)) / epsilon + log_det(scales)
    penalty = penalty + inner(inverse(scales), jnp.broadcast_to(prior.second, scales.shape)) / epsilon
    mass = sides[0].mass
    # The curvature in the log-weights; the loss does not see their sum.
    curvature = jnp.diag(1.001 * mass + 1e-5 / num_components) - overlap
    shift = jnp.linalg.solve(curvature, sides[1].mass - mass)
    # Where a component has lost all its points, the curvature says nothing.
    shift = jnp.clip(shift, -_FARTHEST, _FARTHEST)
    loss = normaliser_x - normaliser_y + 0.5 * prior.share * jnp.sum(penalty)
    return _Point(parameters, jnp.where(jnp.isfinite(loss), loss, jnp.inf), sides, shift)


def _side(sums: list[Array], prior: Array, count: Array) -> Side:
    mass, first, second = sums
    safe = jnp.maximum(mass, jnp.finfo(mass.dtype).tiny ** 0.5)
    mean = first / safe[:, None]
    second = unpacked(second, mean.shape[1], full=prior.ndim == 2)
    column = jnp.reshape(mass, (-1,) + (1,) * prior.ndim)
    centred = second - column * outer(mean, full=prior.ndim == 2)
    return Side(mass, mean, second / jnp.reshape(safe, column.shape), (centred + count * prior) / (column + count))


def _target(point: _Point, epsilon: Array, new: Array) -> Parameters:
    """Where the point's moments are matched at an epsilon; ``new`` may be below that of the point."""
    (first, second), old = point.sides, point.parameters
    scales = matching(first.covariance, second.covariance, new)
    locations = second.mean - times(scales, first.mean)

    def potential(scales: Array, locations: Array) -> Array:
        return 0.5 * inner(scales, first.second) + jnp.sum(locations * first.mean, axis=1)

    # Each component keeps its mean logit (times epsilon), so that new matrices leave the masses about as they were.
    kept = epsilon * (old.log_weights + point.shift) + potential(old.scales, old.locations)
    log_weights = (kept - potential(scales, locations)) / new
    return Parameters(log_weights - jnp.mean(log_weights), locations, scales)


def _start(
    x: Array, y: Array, a: Array, b: Array, assigned: Array, prior: Prior, epsilon: Array, *, full: bool
) -> Parameters:
    """Every component between all of x and its cluster of y."""
    num_components = assigned.shape[1]
    spread = _spread(x, a, full=full) + prior.share * prior.first
    held = assigned * b[:, None]
    mass = jnp.sum(held, axis=0)
    side = _side([mass, product(held.T, y), product(held.T, features(y, full=full))], prior.second, prior.share)
    spreads = jnp.broadcast_to(spread, (num_components, *spread.shape))
    scales = matching(spreads, side.covariance, epsilon)
    log_weights = jnp.log(mass + prior.share) - inner(scales, spreads) / (2.0 * epsilon)
    log_weights = log_weights - 0.5 * jnp.sum(side.mean * times(spreads, side.mean), axis=1) / epsilon**2
    return Parameters(log_weights - jnp.mean(log_weights), side.mean, scales)


def _prior(x: Array, y: Array, a: Array, b: Array, assigned: Array, *, full: bool) -> Prior:
    """As many pairs as dimensions, as wide as the clusters of y are on average."""
    dim, dtype = x.shape[1], x.dtype
    held = assigned * b[:, None]
    mass = jnp.sum(held, axis=0)
    centres = product(held.T, y) / jnp.where(mass > 0, mass, 1.0)[:, None]
    unit = jnp.eye(dim, dtype=dtype) if full else jnp.ones((dim,), dtype)

    def floor(points: Array, weights: Array) -> Array:
        # No direction is left without any width.
        variance = jnp.sum(weights * jnp.sum(points**2, axis=1)) / dim
        return 1e-4 * jnp.where(variance > 0, variance, 1.0) * unit

    total = _spread(y, b, full=full) + floor(y, b)
    within = _spread(y - product(assigned, centres), b, full=full) + floor(y, b)
    share = _total(within) / _total(total)
    count = jnp.asarray(dim / min(x.shape[0], y.shape[0]), dtype)
    return Prior(count, (_spread(x, a, full=full) + floor(x, a)) * share, within)


def _spread(points: Array, weights: Array, *, full: bool) -> Array:
    return unpacked(product(weights, features(points, full=full))[None], points.shape[1], full=full)[0]


def _total(matrix: Array) -> Array:
    return jnp.trace(matrix) if matrix.ndim == 2 else jnp.sum(matrix)


def _block_size(points: Array, assigned: Array, *, full: bool) -> int:
    count, dim = points.shape
    width = (dim * (dim + 1) // 2 if full else dim) + 3 * assigned.shape[1]
    blocks = -(-count // max(_BLOCK // width, 1))
    return -(-count // blocks)
