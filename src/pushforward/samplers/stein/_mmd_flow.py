"""Gradient flow of the maximum mean discrepancy."""

from __future__ import annotations

from typing import Self

import equinox as eqx
import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int, PyTree

from ...models import Target
from ...models._layout import Layout
from ...models._types import Batch, Key
from .._ensemble import Evaluated, bound, particle_normals, require_bound
from ..pairs import RBF, AbstractRadialKernel, Median, stein_force
from ._flow import AbstractParticleFlow
from ._svgd import DEFAULT_PARTICLES, check_population
from ._update import AbstractUpdate, Optax


class MMDFlow(AbstractParticleFlow):
    """Particles that descend their maximum mean discrepancy from given draws: a cloud that stands for many draws.

    ``x_i -= eps grad f(x_i + beta_t xi)`` with the witness ``f(z) = mean_j k(z, x_j) - mean_m k(z, y_m)``. The noise
    beta_t, which falls linearly to zero, enters the gradient only: it carries the flow past flat stretches of f.

    Args:
        reference: draws y of the target as positions: a pytree like ``target.example`` with a leading axis, or a
            function of the target that gives one.
        num_particles: at least 2.
        kernel: its bandwidth rule sees the reference; by default `RBF` with h^2 the median squared distance.
        optimizer: an optax transformation of the ascent direction; plain descent by default.
        noise: beta_0, in units of the position.
        noise_steps: steps over which it falls to zero.

    Bias: of the reference; with n particles the discrepancy is that of n well placed points. The target's density is
    evaluated for its isolation of particles only. Cost: O(n (n + m) d) per step, m draws; memory O((n + m) d).

    Reference: Arbel, Korba, Salim and Gretton, Maximum mean discrepancy gradient flow, arXiv:1906.04370, eq. 17.
    """

    num_particles: int = eqx.field(static=True)
    reference: PyTree
    kernel: AbstractRadialKernel
    update: AbstractUpdate
    noise: Array
    noise_steps: int = eqx.field(static=True)
    target: Target | None
    layout: Layout | None

    def __init__(
        self,
        reference: PyTree,
        num_particles: int = DEFAULT_PARTICLES,
        *,
        kernel: AbstractRadialKernel | None = None,
        optimizer: optax.GradientTransformation | None = None,
        noise: float = 0.0,
        noise_steps: int = 1,
    ) -> None:
        if not noise >= 0 or noise_steps < 1:
            raise ValueError(
                f"MMDFlow(noise={noise}, noise_steps={noise_steps}): expected a non-negative noise that falls to zero "
                "over at least one step."
            )
        self.num_particles = check_population("MMDFlow", num_particles)
        self.reference = reference if callable(reference) else jax.tree.map(jnp.asarray, reference)
        self.kernel = RBF(Median(scale=1.0, log=False)) if kernel is None else kernel
        self.update = Optax(optax.sgd(1.0) if optimizer is None else optimizer)
        self.noise, self.noise_steps = jnp.asarray(noise, jnp.result_type(float)), noise_steps
        self.target, self.layout = None, None

    def bind(self, target: Target, num_warmup: int) -> Self:
        """See `AbstractSampler.bind`.

        Raises:
            ValueError: if the reference has not the structure of the target's positions.
        """
        example = target.example
        reference = self.reference(target) if callable(self.reference) else self.reference
        shapes = jax.tree.map(lambda x: jnp.shape(x)[1:], reference)
        if (
            jax.tree.structure(reference) != jax.tree.structure(example)  # type: ignore[operator]
            or shapes != jax.tree.map(jnp.shape, example)
            or len({jnp.shape(x)[:1] for x in jax.tree.leaves(reference)}) != 1
        ):
            raise ValueError(
                f"MMDFlow: the reference has shapes {jax.tree.map(jnp.shape, reference)}: expected draws as "
                f"positions of the target, {jax.tree.map(jnp.shape, example)} with one common leading axis."
            )
        sampler = bound(self, target)
        flat = jax.vmap(Layout.of(example).ravel)(reference)
        return eqx.tree_at(lambda s: s.reference, sampler, flat, is_leaf=lambda x: x is self.reference)

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
        require_bound(self)
        draws = self.reference.astype(particles.dtype)
        everyone = jnp.ones((draws.shape[0],), particles.dtype)
        fitted = self.kernel.fit(draws, everyone > 0)
        left = jnp.maximum(1.0 - step.astype(particles.dtype) / self.noise_steps, 0.0)
        probe = particles + self.noise.astype(particles.dtype) * left * particle_normals(key, particles)
        weight = at.alive.astype(particles.dtype)
        weight = weight.at[0].add(jnp.where(jnp.any(at.alive), 0.0, 1.0))
        # Without scores the Stein force is the gradient of a mean of kernels, with the sign of a repulsion.
        away = stein_force(self.kernel, fitted, particles, jnp.zeros_like(particles), weight, at=probe)
        towards = stein_force(self.kernel, fitted, draws, jnp.zeros_like(draws), everyone, at=probe)
        return away - towards, (), self.kernel.statistics(fitted)
