"""Samplers whose particles move together."""

from __future__ import annotations

import abc
from typing import Any, ClassVar, NamedTuple, Self, TypeVar

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, PyTree

from ..models import Target
from ..models._layout import Layout
from ..models._types import Batch, Key
from ._base import AbstractSampler
from .engine._mesh import shard_particles

S = TypeVar("S", bound=Any)
_ALIVE, FILLING = -1, -2


class EnsembleState(NamedTuple):
    """A cloud of particles."""

    particles: Float[Array, "n d"]
    failed_step: Int[Array, " n"]
    """First step at which a particle met a value that is not finite; -1 while it lives. It then rests where it was,
    and the others no longer see it. -2 marks places that only fill up the last device."""
    step: Int[Array, ""]
    memory: Any
    """What the algorithm carries from step to step."""


class EnsembleInfo(NamedTuple):
    """One step of a cloud."""

    statistics: dict[str, Array]
    """Scalars under the names that `AbstractEnsemble.statistics` reports."""


class Evaluated(NamedTuple):
    """The cloud, looked at once per step."""

    logdensity: Float[Array, " n"]
    scores: Float[Array, "n d"]
    """Gradients of the log-density; zero for particles that do not count."""
    alive: Bool[Array, " n"]


class AbstractEnsemble(AbstractSampler):
    """A sampler of ``num_particles`` interacting particles. Particle i draws its noise with ``fold_in(key, i)``.

    A particle whose density, gradient or move is not finite is isolated: it keeps its last good position, counts no
    longer, and is named in the result. It is never put back.
    """

    num_particles: eqx.AbstractVar[int]
    target: eqx.AbstractVar[Target | None]
    layout: eqx.AbstractVar[Layout | None]
    ergodic: ClassVar[bool] = False
    """Whether the particles are draws at every step (Langevin systems), not only at the end (flows)."""
    optimizes: ClassVar[bool] = False
    """Whether the cloud looks for a point, which `estimate` gives, instead of for a distribution."""
    differentiates: ClassVar[bool] = True
    """Whether gradients are looked at, which must then be finite where particles start."""

    @abc.abstractmethod
    def prepare(self, key: Key, particles: Float[Array, "n d"]) -> Any:
        """The memory at the start."""

    @abc.abstractmethod
    def move(
        self, key: Key, state: EnsembleState, alive: Bool[Array, " n"], batch: Batch | None
    ) -> tuple[Float[Array, "n d"], Any, Bool[Array, " n"], dict[str, Array]]:
        """New particles, new memory, which particles are still sound, and statistics (scalars) of one step."""

    def bind(self, target: Target, num_warmup: int) -> Self:
        """See `AbstractSampler.bind`."""
        return bound(self, target)

    def draw_start(self, key: Key, target: Target, count: int) -> Float[Array, "count d"] | None:
        """Where particles start when the user does not say; None for random points of finite density.

        For algorithms that go from one distribution to another, whose start is part of the method.
        """
        return None

    def starting_from(self, guide: Any) -> Self:
        """This sampler, told that its particles start at draws of a fitted guide."""
        return self

    def outcome(self, state: EnsembleState) -> dict[str, Array]:
        """Scalars of the final state that belong to the result (an evidence, whether it ``converged``)."""
        return {}

    def estimate(self, state: EnsembleState) -> Float[Array, " d"]:
        """The point found, for samplers that optimise."""
        raise NotImplementedError(type(self).__name__)

    def init(self, key: Key, position: PyTree, batch: Batch | None = None) -> EnsembleState:
        """The state at particles of shape (n, dim)."""
        require_bound(self)
        count = position.shape[0]
        beyond = jnp.arange(count) >= self.num_particles
        failed, zero = jnp.where(beyond, FILLING, _ALIVE).astype(jnp.int32), jnp.zeros((), jnp.int32)
        return EnsembleState(shard_particles(position), failed, zero, self.prepare(key, position))

    def step(self, key: Key, state: EnsembleState, batch: Batch | None = None) -> tuple[EnsembleState, EnsembleInfo]:
        """See `AbstractKernel.step`."""
        alive = state.failed_step == _ALIVE
        particles, memory, sound, statistics = self.move(key, state, alive, batch)
        good = alive & sound & jnp.all(jnp.isfinite(particles), axis=1)
        particles = jnp.where(good[:, None], particles, state.particles)
        failed = jnp.where(alive & ~good, state.step, state.failed_step)
        return EnsembleState(shard_particles(particles), failed, state.step + 1, memory), EnsembleInfo(statistics)

    def position(self, state: EnsembleState) -> Array:
        """All particles, of shape (n, dim)."""
        return state.particles[: self.num_particles]

    def statistics(self, state: EnsembleState, info: EnsembleInfo) -> dict[str, Array]:
        """See `AbstractSampler.statistics`."""
        return info.statistics

    def record(self, state: EnsembleState, info: EnsembleInfo) -> PyTree:
        """Statistics; the particles too where every step of them is a draw."""
        return super().record(state, info) if self.ergodic else self.statistics(state, info)

    def minibatch(self, key: Key) -> Batch | None:
        """One minibatch per step, shared by the particles."""
        assert self.target is not None
        return self.target.minibatch(key) if self.target.subsampled else None

    def health(self, state: EnsembleState, info: EnsembleInfo) -> PyTree:
        """Finite as long as one particle lives."""
        return jnp.where(jnp.all(state.failed_step != _ALIVE), jnp.nan, 0.0)

    def evaluate(self, particles: Float[Array, "n d"], alive: Bool[Array, " n"], batch: Batch | None) -> Evaluated:
        """Log-density and its gradient at every particle: exactly one gradient each."""
        target, layout = require_bound(self)

        def logdensity(x: Array) -> Array:
            return target.logdensity(layout.unravel(x), batch)

        value, scores = jax.vmap(jax.value_and_grad(logdensity))(particles)
        fine = alive & jnp.isfinite(value) & jnp.all(jnp.isfinite(scores), axis=1)
        return Evaluated(value, jnp.where(fine[:, None], scores, 0.0), fine)


def particle_keys(key: Key, count: int) -> Key:
    """One key per particle: adding particles changes none."""
    return jax.vmap(lambda i: jax.random.fold_in(key, i))(jnp.arange(count))


def particle_normals(key: Key, particles: Float[Array, "n d"]) -> Float[Array, "n d"]:
    """Standard normal noise for every particle."""
    keys = particle_keys(key, particles.shape[0])
    return jax.vmap(lambda k: jax.random.normal(k, particles.shape[1:], particles.dtype))(keys)


def bound(sampler: S, target: Target) -> S:
    """The sampler with its fields ``target`` and ``layout`` set."""
    where = lambda s: (s.target, s.layout)  # noqa: E731
    return eqx.tree_at(where, sampler, (target, Layout.of(target.example)), is_leaf=lambda x: x is None)


def require_bound(sampler: Any) -> tuple[Target, Layout]:
    """Target and layout of a bound sampler.

    Raises:
        ValueError: if it is not bound.
    """
    if sampler.target is None or sampler.layout is None:
        name = type(sampler).__name__
        raise ValueError(
            f"{name}() is not bound to a target. Expected pf.sample(target, pf.{name}(), ...), which binds it."
        )
    return sampler.target, sampler.layout
