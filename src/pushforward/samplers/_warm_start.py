"""Where to start and in which coordinates: damped Newton from many points, judged by the ELBO of the local Gaussian."""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from ..models import Target
from ..models._layout import Layout
from ..models._types import Batch, Key

_ITERATIONS = 60
_ELBO_DRAWS = 32
DENSE_LIMIT = 100
"""Dimensions up to which Hessians are formed; beyond, coordinates are left as they are."""


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

    def elbo(x: Array, size: Array, vectors: Array) -> Array:
        draws = x + (eps / jnp.sqrt(size)) @ vectors.T
        entropy = 0.5 * layout.dim * (1.0 + jnp.log(2 * jnp.pi)) - 0.5 * jnp.sum(jnp.log(size))
        return jnp.mean(jax.vmap(density)(draws)) + entropy

    def iterate(carry: Any, _: None) -> tuple[Any, None]:
        x, damping, best_x, best_size, best_vectors, best_elbo = carry
        value, gradient, size, vectors = local(x)
        here = value if mode else elbo(x, size, vectors)
        better = (here > best_elbo) & jnp.isfinite(here)
        best_x, best_elbo = jnp.where(better, x, best_x), jnp.where(better, here, best_elbo)
        best_size, best_vectors = jnp.where(better, size, best_size), jnp.where(better, vectors, best_vectors)
        # One damping ladder per step: the largest of a few steps that increases the density.
        ladder = damping * jnp.asarray([0.0, 0.1, 1.0, 10.0, 1000.0], x.dtype)
        projected = vectors.T @ jnp.nan_to_num(gradient)
        steps = (projected / (size + ladder[:, None])) @ vectors.T
        values = jax.vmap(density)(x + steps)
        values = jnp.where(jnp.isfinite(values), values, -jnp.inf)
        choice = jnp.argmax(values)
        climbs = values[choice] >= value
        damping = jnp.where(climbs, jnp.maximum(ladder[choice], 0.1 * damping), 100.0 * damping)
        damping = jnp.clip(damping, 1e-6 * jnp.max(size), 1e8 * jnp.max(size))
        return (jnp.where(climbs, x + steps[choice], x), damping, best_x, best_size, best_vectors, best_elbo), None

    def one(x: Array) -> Starts:
        _, _, size, vectors = local(x)
        start = (
            x,
            0.01 * jnp.max(size),
            x,
            jnp.ones_like(x),
            jnp.eye(layout.dim, dtype=x.dtype),
            jnp.asarray(-jnp.inf, x.dtype),
        )
        (_, _, best_x, best_size, best_vectors, best_elbo), _ = jax.lax.scan(iterate, start, None, length=_ITERATIONS)
        return Starts(best_x, triangular_root(best_size, best_vectors), best_elbo)

    return jax.lax.map(one, positions, batch_size=min(len(positions), max(1, 2000 // layout.dim)))


def triangular_root(size: Float[Array, " dim"], vectors: Float[Array, "dim dim"]) -> Float[Array, "dim dim"]:
    """Lower-triangular L with L L' = V diag(1 / size) V', by the QR factorisation of its square root."""
    upper = jnp.linalg.qr((vectors / jnp.sqrt(size)).T, mode="r")
    lower = upper.T
    return lower * jnp.where(jnp.diagonal(lower) < 0, -1.0, 1.0)


def distinct(starts: Starts, count: int, *, slack: float = 100.0) -> tuple[Array, Bool[Array, " count"]]:
    """Indices of ``count`` starts: the best first, then those farthest from the ones already taken.

    Distance is measured in local standard deviations. Starts more than ``slack`` nats below the best are passed over.

    Returns:
        Indices, and whether each is a new place (more than two standard deviations from those before it).
    """
    usable = starts.elbo >= jnp.max(starts.elbo) - slack
    first = int(jnp.argmax(starts.elbo))
    sd = jnp.sqrt(jnp.sum(starts.scale**2, -1))
    chosen, fresh = [first], [True]
    distance = jnp.full(starts.elbo.shape, jnp.inf)
    for _ in range(count - 1):
        last = chosen[-1]
        gap = jnp.max(jnp.abs(starts.loc - starts.loc[last]) / jnp.maximum(sd, sd[last]), axis=-1)
        distance = jnp.minimum(distance, gap)
        pick = int(jnp.argmax(jnp.where(usable, distance, -1.0)))
        is_new = bool(distance[pick] > 2.0)
        chosen.append(pick if is_new else first)
        fresh.append(is_new)
    return jnp.asarray(chosen), jnp.asarray(fresh)
