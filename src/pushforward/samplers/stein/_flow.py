"""Deterministic particle flows: a direction for every particle, and a rule for how far to go."""

from __future__ import annotations

import abc
from typing import Any, NamedTuple

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, PyTree

from ...models._types import Batch, Key
from .._ensemble import AbstractEnsemble, EnsembleState, Evaluated, require_bound
from ._update import AbstractUpdate


class FlowMemory(NamedTuple):
    """What a flow carries."""

    update: Any
    """State of the update rule."""
    direction: Any
    """What the direction carries."""


class AbstractParticleFlow(AbstractEnsemble):
    """Particles that follow a direction computed from all of them."""

    update: eqx.AbstractVar[AbstractUpdate]

    @abc.abstractmethod
    def direction(
        self,
        key: Key,
        particles: Float[Array, "n d"],
        at: Evaluated,
        step: Int[Array, ""],
        memory: Any,
        batch: Batch | None,
    ) -> tuple[Float[Array, "n d"], Any, dict[str, Array]]:
        """Direction of every particle, memory, and statistics of the step. Particles not ``at.alive`` weigh nothing."""

    def logdensity(self, x: Float[Array, " d"], batch: Batch | None) -> Float[Array, ""]:
        """The target's log-density at one particle, for directions that need its curvature."""
        target, layout = require_bound(self)
        return target.logdensity(layout.unravel(x), batch)

    def begin(self, particles: Float[Array, "n d"]) -> Any:
        """Memory of the direction at the start."""
        return ()

    def prepare(self, key: Key, particles: Float[Array, "n d"]) -> FlowMemory:
        """See `AbstractEnsemble.prepare`."""
        return FlowMemory(self.update.init(particles), self.begin(particles))

    def move(
        self, key: Key, state: EnsembleState, alive: Bool[Array, " n"], batch: Batch | None
    ) -> tuple[Float[Array, "n d"], FlowMemory, Bool[Array, " n"], dict[str, Array]]:
        """See `AbstractEnsemble.move`."""
        at = self.evaluate(state.particles, alive, batch)
        direction, memory, statistics = self.direction(
            key, state.particles, at, state.step, state.memory.direction, batch
        )
        direction = jnp.where(at.alive[:, None], direction, 0.0)
        particles, update = self.update(state.particles, direction, state.memory.update)
        shown = {**flow_statistics(at, state.particles, direction, exact=batch is None), **statistics}
        return particles, FlowMemory(update, memory), at.alive, shown

    def summary(self, records: PyTree) -> dict[str, str]:
        """Mean log-density and mean length of the direction, of the last step shown."""
        return flow_summary(records)


def flow_statistics(
    at: Evaluated, points: Float[Array, "n d"], direction: Float[Array, "n d"], *, exact: bool
) -> dict[str, Array]:
    """Mean log-density and root mean squared length of the direction, over the living.

    With scores of all data (``exact``) also two of Stein's identities, which need no more than those scores: under the
    target ``-E (x - E x) . s / d`` is one (``stein_scale``; of a Gaussian, the cloud's variance over the target's) and
    ``E s`` is zero (``stein_shift``: its size per coordinate, in standard deviations of the cloud).
    """
    count = jnp.maximum(jnp.sum(at.alive), 1).astype(direction.dtype)
    shown = {
        "mean_lp": jnp.sum(jnp.where(at.alive, at.logdensity, 0.0)) / count,
        "direction_norm": jnp.sqrt(jnp.sum(direction**2) / count),
    }
    if not exact:
        return shown
    living = jnp.where(at.alive[:, None], points, 0.0)
    centred = jnp.where(at.alive[:, None], points - jnp.sum(living, axis=0) / count, 0.0)
    scale = -jnp.sum(centred * at.scores) / (count * points.shape[1])
    pull = jnp.sum(at.scores, axis=0) / count * jnp.sqrt(jnp.sum(centred**2, axis=0) / count)
    return {**shown, "stein_scale": scale, "stein_shift": jnp.sqrt(jnp.mean(pull**2))}


def flow_summary(records: PyTree) -> dict[str, str]:
    """The same figures of the last step shown, as text."""
    if records["mean_lp"].shape[0] == 0:
        return {}
    last = {name: float(np.mean(records[name][-1])) for name in ("mean_lp", "direction_norm")}
    return {"log p": f"{last['mean_lp']:.4g}", "direction": f"{last['direction_norm']:.2g}"}
