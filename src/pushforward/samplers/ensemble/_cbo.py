"""Consensus-based optimisation: the mode without gradients."""

from __future__ import annotations

from typing import ClassVar, Literal, NamedTuple, Self, get_args

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, PyTree

from ...models import Target
from ...models._layout import Layout
from ...models._types import Batch, Key
from .._ensemble import AbstractEnsemble, EnsembleInfo, EnsembleState, bound, particle_normals, require_bound
from .._tempering import largest_power
from ..stein._svgd import check_population
from ._moments import logdensities, moments, softmax_weights, uniform_weights

Exploration = Literal["cloud", "component", "isotropic"]


class CBOMemory(NamedTuple):
    """What consensus has been reached."""

    consensus: Float[Array, " d"]
    spread: Float[Array, ""]
    """Root mean square distance of the particles from it."""
    first_spread: Float[Array, ""]


class CBO(AbstractEnsemble):
    """Consensus-based optimisation: particles drift to their weighted mean and explore as widely as they disagree.

    ``dx_i = -drift (x_i - c) dt + noise D_i dW_i`` with c the mean under weights ``p(x_i)^a``. Needs no gradient, so
    densities may be discontinuous or black boxes; the cloud can leave local modes until it has contracted. The result
    is a point estimate: the posterior mode in the user's space, as `Delta` gives it.

    Args:
        num_particles: at least 2; hundreds for densities with many modes.
        ess_fraction: a is chosen at every step so that the weights keep this effective fraction of the particles: the
            pull towards the best does not fade as the cloud contracts.
        inverse_temperature: a fixed a instead.
        step_size: dt.
        drift: rate of contraction.
        noise: strength of exploration; the cloud contracts while ``noise^2 < 2 drift - drift^2 dt`` (with "isotropic"
            ``dim noise^2``).
        exploration: what D_i is. "cloud": the root mean square over particles of x - c, by coordinate. "component":
            the particle's own x_i - c, by coordinate, and "isotropic": its length, in all directions alike, as in the
            papers; with these, distances from c become log-normal, and most particles stand still long before the
            cloud as a whole has contracted.
        tolerance: the run ends when the cloud has contracted by this factor.
        jacobian: find the mode on unconstrained space instead.

    Cost: n densities and O(n d) per step.

    Reference: Pinnau, Totzeck, Tse and Martin, A consensus-based model for global optimization, arXiv:1604.05648;
    noise by component: Carrillo, Jin, Li and Zhu, arXiv:1909.09249.
    """

    optimizes: ClassVar[bool] = True
    differentiates: ClassVar[bool] = False
    num_particles: int = eqx.field(static=True)
    ess_fraction: Array
    inverse_temperature: Array | None
    step_size: Array
    drift: Array
    noise: Array
    tolerance: Array
    exploration: Exploration = eqx.field(static=True)
    jacobian: bool = eqx.field(static=True)
    target: Target | None
    layout: Layout | None

    def __init__(
        self,
        num_particles: int = 200,
        *,
        ess_fraction: float = 0.1,
        inverse_temperature: float | None = None,
        step_size: float = 0.1,
        drift: float = 1.0,
        noise: float = 1.2,
        exploration: Exploration = "cloud",
        tolerance: float = 1e-6,
        jacobian: bool = False,
    ) -> None:
        self.num_particles = check_population("CBO", num_particles)
        for name, value in (("step_size", step_size), ("drift", drift), ("tolerance", tolerance)):
            if not value > 0:
                raise ValueError(f"CBO({name}={value}): expected a positive number.")
        if not 0 < ess_fraction < 1:
            raise ValueError(f"CBO(ess_fraction={ess_fraction}): expected a number strictly between 0 and 1.")
        if not noise >= 0 or not noise**2 < 2 * drift - drift**2 * step_size:
            raise ValueError(
                f"CBO(noise={noise}, drift={drift}, step_size={step_size}): the cloud would not contract. Expected "
                f"0 <= noise^2 < 2 drift - drift^2 step_size = {2 * drift - drift**2 * step_size:.3g}."
            )
        if inverse_temperature is not None and not inverse_temperature > 0:
            raise ValueError(f"CBO(inverse_temperature={inverse_temperature}): expected a positive number, or None.")
        if exploration not in get_args(Exploration):
            raise ValueError(f"CBO(exploration={exploration!r}): expected one of {list(get_args(Exploration))}.")
        default = jnp.result_type(float)
        self.ess_fraction = jnp.asarray(ess_fraction, default)
        self.inverse_temperature = None if inverse_temperature is None else jnp.asarray(inverse_temperature, default)
        self.step_size, self.drift, self.noise = (jnp.asarray(x, default) for x in (step_size, drift, noise))
        self.tolerance = jnp.asarray(tolerance, default)
        self.exploration, self.jacobian = exploration, jacobian
        self.target, self.layout = None, None

    def bind(self, target: Target, num_warmup: int) -> Self:
        """See `AbstractSampler.bind`.

        Raises:
            ValueError: if isotropic noise would drive the cloud apart in this dimension.
        """
        step, drift, noise = (float(v) for v in (self.step_size, self.drift, self.noise))
        limit = (2 * drift - drift**2 * step) / target.dim
        if self.exploration == "isotropic" and not noise**2 < limit:
            raise ValueError(
                f"CBO(noise={noise:.3g}, exploration='isotropic') for a target of {target.dim} unconstrained "
                "dimensions: the cloud would not contract. Expected noise^2 < (2 drift - drift^2 step_size) / dim = "
                f"{limit:.3g}, or exploration='cloud', whose noise does not grow with the dimension."
            )
        return bound(self, target)

    def prepare(self, key: Key, particles: Float[Array, "n d"]) -> CBOMemory:
        """See `AbstractEnsemble.prepare`."""
        # Without the copies that fill up the last device.
        weights = uniform_weights(jnp.arange(particles.shape[0]) < self.num_particles, particles.dtype)
        cloud = moments(particles, weights)
        spread = jnp.sqrt(jnp.sum(weights[:, None] * cloud.deviations**2))
        return CBOMemory(cloud.mean, spread, spread)

    def step(self, key: Key, state: EnsembleState, batch: Batch | None = None) -> tuple[EnsembleState, EnsembleInfo]:
        """One step; nothing once consensus is reached (where other clouds go on)."""
        new, info = super().step(key, state, batch)
        over = self.done(state)
        return jax.tree.map(lambda a, b: jnp.where(over, b, a), new, state), info

    def move(
        self, key: Key, state: EnsembleState, alive: Bool[Array, " n"], batch: Batch | None
    ) -> tuple[Float[Array, "n d"], CBOMemory, Bool[Array, " n"], dict[str, Array]]:
        """See `AbstractEnsemble.move`."""
        target, layout = require_bound(self)
        x = state.particles
        dtype = x.dtype
        value, alive = logdensities(target, layout, x, alive, batch, jacobian=self.jacobian)
        logits = jnp.where(alive, value, -jnp.inf).astype(dtype)
        if self.inverse_temperature is None:
            power = largest_power(logits, self.ess_fraction.astype(dtype), 1.0 / float(jnp.finfo(dtype).eps))
        else:
            power = self.inverse_temperature.astype(dtype)
        finite = jnp.isfinite(logits)
        weights = softmax_weights(jnp.where(finite, power * jnp.where(finite, logits, 0.0), -jnp.inf), alive)
        consensus = moments(x, weights).mean
        away = x - consensus
        share = uniform_weights(alive, dtype)[:, None]
        squares = jnp.sum(jnp.where(alive[:, None], share * away**2, 0.0), axis=0)
        spread = jnp.sqrt(jnp.sum(squares))
        if self.exploration == "cloud":
            width = jnp.broadcast_to(jnp.sqrt(squares), x.shape)
        elif self.exploration == "component":
            width = away
        else:
            width = jnp.sqrt(jnp.sum(away**2, axis=1, keepdims=True))
        step, drift, noise = (v.astype(dtype) for v in (self.step_size, self.drift, self.noise))
        moved = x - drift * step * away + noise * jnp.sqrt(step) * width * particle_normals(key, x)
        statistics = {
            "spread": spread,
            "inverse_temperature": power,
            "best_lp": jnp.max(logits),
        }
        # Density zero everywhere: there is nothing to agree on.
        sound = alive & jnp.any(finite)
        return moved, CBOMemory(consensus, spread, state.memory.first_spread), sound, statistics

    def done(self, state: EnsembleState) -> Array:
        """See `AbstractKernel.done`."""
        return state.memory.spread <= self.tolerance.astype(state.particles.dtype) * state.memory.first_spread

    def outcome(self, state: EnsembleState) -> dict[str, Array]:
        """See `AbstractEnsemble.outcome`."""
        return {"converged": self.done(state)}

    def estimate(self, state: EnsembleState) -> Float[Array, " d"]:
        """See `AbstractEnsemble.estimate`."""
        return state.memory.consensus

    def summary(self, records: PyTree) -> dict[str, str]:
        """Best log-density and spread of the last step shown."""
        if records["spread"].shape[0] == 0:
            return {}
        last = {name: float(np.mean(records[name][-1])) for name in ("best_lp", "spread")}
        return {"best log p": f"{last['best_lp']:.4g}", "spread": f"{last['spread']:.2g}"}
