"""Where to start and in which coordinates: damped Newton from many points, judged by the ELBO of the local Gaussian."""

from __future__ import annotations

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from ..models import Target
from ..models._layout import Layout
from ..models._types import Batch, Key

_ITERATIONS = 60
_ELBO_DRAWS = 32
_DECREMENT = 1e-12
"""Nats below which a Newton step is not worth taking."""
_BLOCK_ELEMENTS = 2**20
DENSE_LIMIT = 100
"""Dimensions up to which Hessians are formed; beyond, coordinates are left as they are."""


class _Climb(NamedTuple):
    """State of one climb."""

    step: Array
    x: Array
    damping: Array
    best_x: Array
    best_size: Array
    best_vectors: Array
    best_elbo: Array
    settled: Array


class Starts(NamedTuple):
    """Local Gaussian approximations, one per starting point."""

    loc: Float[Array, "start dim"]
    scale: Float[Array, "start dim dim"]
    """Lower-triangular square roots of the local covariances."""
    elbo: Float[Array, " start"]
    """ELBO of each Gaussian, in nats; -inf where no finite point was found."""


def newton_starts(
    key: Key,
    target: Target,
    positions: Float[Array, "start dim"],
    batch: Batch | None,
    *,
    jacobian: bool = True,
    mode: bool = False,
) -> Starts:
    """Climb from each position by damped Newton steps on |Hessian|; keep the best Gaussian met on the way.

    The covariance at a point is the inverse of the negative Hessian with its eigenvalues replaced by their absolute
    values (at least 1e-8 of the largest), so saddles and flat directions are no obstacle. Keeping the point of highest
    ELBO rather than the mode matters where there is no mode (funnels). For a Gaussian target the result is exact after
    one step.

    Args:
        key: a key, for the ELBO draws.
        target: density.
        positions: flat starting positions.
        batch: a fixed minibatch where the target subsamples; its curvature is then right on average.
        jacobian: as in `Target.logdensity`.
        mode: judge points by their density instead of their ELBO (for point masses).

    Returns:
        One Gaussian per starting point.

    Cost: about 60 (dim + 32) gradients per starting point; O(dim**2) memory per start. Reference for judging by the
    ELBO along an optimisation path: Zhang et al., Pathfinder, arXiv:2108.03782, algorithm 1.
    """
    layout = Layout.of(target.example)
    eps = jax.random.normal(key, (_ELBO_DRAWS, layout.dim), layout.dtype)
    return _climb(target, layout, positions, eps, batch, jacobian, mode)


def num_elements(target: Target) -> int:
    """Numbers that one evaluation on all data reads."""
    return max(1, sum(int(x.size) for x in jax.tree.leaves(target)))


def evaluation_block(target: Target) -> int:
    """Points to evaluate at once: a vmapped density holds its data once per point, which must not outgrow the cache."""
    return int(min(256, max(1, _BLOCK_ELEMENTS // num_elements(target))))


@functools.partial(jax.jit, static_argnames=("layout", "jacobian", "mode"))
def _climb(
    target: Target,
    layout: Layout,
    positions: Array,
    eps: Array,
    batch: Batch | None,
    jacobian: bool,
    mode: bool,  # noqa: FBT001
) -> Starts:
    def density(x: Array) -> Array:
        return target.logdensity(layout.unravel(x), batch, jacobian=jacobian)

    def local(x: Array) -> tuple[Array, Array, Array, Array]:
        hessian = jax.hessian(density)(x)
        hessian = jnp.where(
            jnp.all(jnp.isfinite(hessian)), 0.5 * (hessian + hessian.T), -jnp.eye(layout.dim, dtype=x.dtype)
        )
        values, vectors = jnp.linalg.eigh(-hessian)
        size = jnp.abs(values)
        size = jnp.maximum(size, 1e-8 * jnp.max(size) + jnp.finfo(x.dtype).tiny)
        return density(x), jax.grad(density)(x), size, vectors

    block = evaluation_block(target)

    def densities(points: Array) -> Array:
        return jax.lax.map(density, points, batch_size=min(block, len(points)))

    def elbo(x: Array, size: Array, vectors: Array) -> Array:
        draws = x + (eps / jnp.sqrt(size)) @ vectors.T
        entropy = 0.5 * layout.dim * (1.0 + jnp.log(2 * jnp.pi)) - 0.5 * jnp.sum(jnp.log(size))
        return jnp.mean(densities(draws)) + entropy

    def iterate(climb: _Climb) -> _Climb:
        value, gradient, size, vectors = local(climb.x)
        here = value if mode else elbo(climb.x, size, vectors)
        better = (here > climb.best_elbo) & jnp.isfinite(here)
        # One damping ladder per step: the damping that increases the density most.
        ladder = climb.damping * jnp.asarray([0.0, 0.1, 1.0, 10.0, 1000.0], climb.x.dtype)
        projected = vectors.T @ jnp.nan_to_num(gradient)
        steps = (projected / (size + ladder[:, None])) @ vectors.T
        values = densities(climb.x + steps)
        values = jnp.where(jnp.isfinite(values), values, -jnp.inf)
        choice = jnp.argmax(values)
        climbs = values[choice] >= value
        damping = jnp.where(climbs, jnp.maximum(ladder[choice], 0.1 * climb.damping), 100.0 * climb.damping)
        return _Climb(
            climb.step + 1,
            jnp.where(climbs, climb.x + steps[choice], climb.x),
            jnp.clip(damping, 1e-6 * jnp.max(size), 1e8 * jnp.max(size)),
            jnp.where(better, climb.x, climb.best_x),
            jnp.where(better, size, climb.best_size),
            jnp.where(better, vectors, climb.best_vectors),
            jnp.where(better, here, climb.best_elbo),
            # Newton's decrement: twice what a full step promises. The point that promises nothing has been judged.
            jnp.sum(projected**2 / size) < _DECREMENT,
        )

    def one(x: Array) -> Starts:
        _, _, size, _ = local(x)
        nowhere = jnp.asarray(-jnp.inf, x.dtype)
        identity = jnp.eye(layout.dim, dtype=x.dtype)
        start = _Climb(
            jnp.asarray(0), x, 0.01 * jnp.max(size), x, jnp.ones_like(x), identity, nowhere, jnp.asarray(False)
        )
        end = jax.lax.while_loop(lambda c: (c.step < _ITERATIONS) & ~c.settled, iterate, start)
        return Starts(end.best_x, triangular_root(end.best_size, end.best_vectors), end.best_elbo)

    return jax.lax.map(one, positions, batch_size=min(len(positions), block, max(1, 2000 // layout.dim)))


def triangular_root(size: Float[Array, " dim"], vectors: Float[Array, "dim dim"]) -> Float[Array, "dim dim"]:
    """Lower-triangular L with L L' = V diag(1 / size) V', by the QR factorisation of its square root."""
    upper = jnp.linalg.qr((vectors / jnp.sqrt(size)).T, mode="r")
    lower = upper.T
    return lower * jnp.where(jnp.diagonal(lower) < 0, -1.0, 1.0)


def distinct(starts: Starts, count: int, *, slack: float = 100.0) -> tuple[np.ndarray, np.ndarray]:
    """Indices of ``count`` starts: the best first, then those farthest from the ones already taken.

    Distance is measured in local standard deviations. Starts more than ``slack`` nats below the best are passed over.

    Returns:
        Indices, and whether each is a new place (more than two standard deviations from those before it).
    """
    # A handful of numbers: NumPy, because every small JAX operation would be compiled on its own.
    loc, scale, elbo = (np.asarray(x) for x in starts)
    usable = elbo >= np.max(elbo) - slack
    first = int(np.argmax(elbo))
    sd = np.sqrt(np.sum(scale**2, -1))
    chosen, fresh = [first], [True]
    distance = np.full(elbo.shape, np.inf)
    for _ in range(count - 1):
        last = chosen[-1]
        gap = np.max(np.abs(loc - loc[last]) / np.maximum(sd, sd[last]), axis=-1)
        distance = np.minimum(distance, gap)
        pick = int(np.argmax(np.where(usable, distance, -1.0)))
        is_new = bool(distance[pick] > 2.0)
        chosen.append(pick if is_new else first)
        fresh.append(is_new)
    return np.asarray(chosen), np.asarray(fresh)
