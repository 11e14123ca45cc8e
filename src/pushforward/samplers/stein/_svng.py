"""Stein variational natural gradient."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int

from ...models import Target
from ...models._layout import Layout
from ...models._types import Batch, Key
from .._ensemble import Evaluated, require_bound
from ..engine._pairs import reduce_pairs
from ..pairs import AbstractRadialKernel
from ..pairs._distance import product, squared_distances
from ._flow import AbstractParticleFlow
from ._mirrored import check_radial
from ._svgd import DEFAULT_PARTICLES, check_population
from ._svmd import adaptive_roots, check_adaptive
from ._update import AbstractUpdate, Optax


class SVNG(AbstractParticleFlow):
    """Stein variational natural gradient: `SVMD` with any metric in place of a mirror map's Hessian.

    On unconstrained space, with G(x) a positive-definite matrix such as a Fisher information: the kernel is
    ``mean_c k^1/2(x, x_c) G(x_c) k^1/2(x_c, y)``, the operator has drift ``G^-1 grad log p + div G^-1``, and the
    direction is mapped back by G^-1.

    Args:
        metric: G, a function of a position (a pytree, as `Target.example`) giving a (d, d) matrix over the flat
            position; differentiable.
        num_particles: at least 2.
        kernel: k; by default `IMQ` with the median rule.
        optimizer: an optax transformation of the ascent direction.
        cutoff: share of the Gram matrix' trace that the eigenfunctions kept stand for.
        damping: added to the diagonal of G.

    Bias: directions outside the eigenfunctions kept are not moved. Cost: n gradients, n d derivatives of G,
    O(n^2 d^2 + n^3 + n d^3) time and O(n^2 + n d^2) memory.

    Reference: Shi, Liu and Mackey, Sampling with mirrored Stein operators, arXiv:2106.12506, section 5.
    """

    num_particles: int = eqx.field(static=True)
    metric: Callable[[Any], Array] = eqx.field(static=True)
    kernel: AbstractRadialKernel
    update: AbstractUpdate
    cutoff: Array
    damping: Array
    target: Target | None
    layout: Layout | None

    def __init__(
        self,
        metric: Callable[[Any], Array],
        num_particles: int = DEFAULT_PARTICLES,
        *,
        kernel: AbstractRadialKernel | None = None,
        optimizer: optax.GradientTransformation | None = None,
        cutoff: float = 0.98,
        damping: float = 1e-2,
    ) -> None:
        if not callable(metric):
            raise ValueError(
                f"SVNG(metric={metric!r}): expected a function of a position that gives a (d, d) positive-definite "
                "matrix, such as the Fisher information of the likelihood plus the prior's precision."
            )
        self.metric = metric
        self.num_particles = check_population("SVNG", num_particles)
        self.kernel = check_radial("SVNG", kernel)
        self.update = Optax(optax.adagrad(0.1) if optimizer is None else optimizer)
        self.cutoff, self.damping = check_adaptive("SVNG", cutoff, damping)
        self.target, self.layout = None, None

    def direction(
        self,
        key: Key,
        particles: Float[Array, "n d"],
        at: Evaluated,
        step: Int[Array, ""],
        memory: tuple[()],
        batch: Batch | None,
    ) -> tuple[Float[Array, "n d"], tuple[()], dict[str, Array]]:
        """See `AbstractParticleFlow.direction`."""
        _, layout = require_bound(self)
        dim = particles.shape[1]

        def damped(x: Array) -> Array:
            matrix = self.metric(layout.unravel(x)).astype(particles.dtype)
            if matrix.shape != (dim, dim):
                raise ValueError(f"SVNG: metric returns shape {matrix.shape}: expected ({dim}, {dim}).")
            return matrix + self.damping.astype(particles.dtype) * jnp.eye(dim, dtype=particles.dtype)

        def inverse(x: Array) -> Array:
            return jnp.linalg.inv(damped(x))

        matrices, inverses = jax.vmap(damped)(particles), jax.vmap(inverse)(particles)
        divergence = jax.vmap(lambda x: jnp.einsum("mcm->c", jax.jacfwd(inverse)(x)))(particles)
        drift = jnp.where(at.alive[:, None], _apply(inverses, at.scores) + divergence, 0.0)
        weight = at.alive.astype(particles.dtype)
        weight = weight.at[0].add(jnp.where(jnp.any(at.alive), 0.0, 1.0))
        fitted = self.kernel.fit(particles, at.alive)
        centred = particles - (weight @ particles) / jnp.sum(weight)
        columns = (centred, drift, inverses)
        plain = reduce_pairs(_term, (self.kernel, fitted), centred, columns, weight=weight) / jnp.sum(weight)
        up, down, rank = adaptive_roots(self.kernel, particles, at.alive, self.cutoff.astype(particles.dtype))
        adapted = up(jnp.where(at.alive[:, None], _apply(matrices, down(plain)), 0.0))
        return _apply(inverses, adapted), (), {**self.kernel.statistics(fitted), "rank": rank}


def _apply(matrices: Float[Array, "n d d"], vectors: Float[Array, "n d"]) -> Float[Array, "n d"]:
    return jnp.einsum("ncd,nd->nc", matrices, vectors, precision=jax.lax.Precision.HIGHEST)


def _term(parameters: tuple[AbstractRadialKernel, Array], x: Array, column: tuple[Array, ...], weight: Array) -> Array:
    kernel, squared_bandwidth = parameters
    y, drift, inverses = column
    profile = kernel.profile(squared_distances(x, y), squared_bandwidth)
    coefficient = 2.0 * profile.first * weight[None, :]
    at_columns = product(coefficient, _apply(inverses, y))
    summed = product(coefficient, inverses.reshape(inverses.shape[0], -1)).reshape(x.shape[0], *inverses.shape[1:])
    return product(profile.value, weight[:, None] * drift) + at_columns - _apply(summed, x)
