"""Consensus-based sampling: a Gaussian cloud without gradients."""

from __future__ import annotations

from typing import ClassVar, Self

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, PyTree

from ...models import Target
from ...models._layout import Layout
from ...models._types import Batch, Key
from .._ensemble import AbstractEnsemble, EnsembleState, bound, particle_normals, require_bound
from .._tempering import largest_power
from ..pairs._distance import product
from ..stein._svgd import check_population
from ._langevin import check_exceeds_dim, check_step_size
from ._moments import logdensities, lower_root, moments, softmax_weights


class CBS(AbstractEnsemble):
    """Consensus-based sampling: a Gaussian approximation of the target, without gradients.

    ``x_i <- m + a (x_i - m) + sqrt((1 - a^2) (1 + b)) C^(1/2) noise`` with a = exp(-step_size), m and C the mean and
    covariance under weights ``p(x_i)^b``. For a Gaussian target the factor 1 + b undoes exactly what the weights do to
    the covariance. Every particle is a draw at every step. Affine invariant: no scales need to be known.

    Args:
        num_particles: more than dim + 1; ten times dim or more, because C is estimated.
        step_size: time between refreshes.
        ess_fraction: b is lowered where the weights would keep less than this effective fraction of the particles, as
            at the start.
        inverse_temperature: largest b.

    Bias: none for Gaussian targets as n grows; a Gaussian near the mode for others. Of order 1/n from the estimated C.
    Cost: n densities, O(n d^2 + d^3) per step.

    Reference: Carrillo, Hoffmann, Stuart and Vaes, Consensus based sampling, arXiv:2106.02519, section 2.
    """

    ergodic: ClassVar[bool] = True
    differentiates: ClassVar[bool] = False
    num_particles: int = eqx.field(static=True)
    step_size: Array
    ess_fraction: Array
    inverse_temperature: Array
    target: Target | None
    layout: Layout | None

    def __init__(
        self,
        num_particles: int = 200,
        *,
        step_size: float | Array = 0.2,
        ess_fraction: float = 0.5,
        inverse_temperature: float = 1.0,
    ) -> None:
        self.num_particles = check_population("CBS", num_particles, 3)
        self.step_size = check_step_size("CBS", step_size)
        if not 0 < ess_fraction < 1 or not inverse_temperature > 0:
            raise ValueError(
                f"CBS(ess_fraction={ess_fraction}, inverse_temperature={inverse_temperature}): expected a fraction "
                "strictly between 0 and 1, and a positive number."
            )
        self.ess_fraction = jnp.asarray(ess_fraction, jnp.result_type(float))
        self.inverse_temperature = jnp.asarray(inverse_temperature, jnp.result_type(float))
        self.target, self.layout = None, None

    def bind(self, target: Target, num_warmup: int) -> Self:
        """See `AbstractSampler.bind`.

        Raises:
            ValueError: unless there are more than dim + 1 particles.
        """
        check_exceeds_dim("CBS", self.num_particles, target.dim, "whose covariance it draws from")
        return bound(self, target)

    def prepare(self, key: Key, particles: Float[Array, "n d"]) -> tuple[()]:
        """See `AbstractEnsemble.prepare`."""
        return ()

    def move(
        self, key: Key, state: EnsembleState, alive: Bool[Array, " n"], batch: Batch | None
    ) -> tuple[Float[Array, "n d"], tuple[()], Bool[Array, " n"], dict[str, Array]]:
        """See `AbstractEnsemble.move`."""
        target, layout = require_bound(self)
        x = state.particles
        dtype = x.dtype
        value, alive = logdensities(target, layout, x, alive, batch)
        logits = jnp.where(alive, value, -jnp.inf).astype(dtype)
        power = largest_power(logits, self.ess_fraction.astype(dtype), self.inverse_temperature.astype(dtype))
        finite = jnp.isfinite(logits)
        weights = softmax_weights(jnp.where(finite, power * jnp.where(finite, logits, 0.0), -jnp.inf), alive)
        cloud = moments(x, weights)
        # Unbiased for given weights.
        lost = 1.0 - jnp.sum(weights**2)
        covariance = cloud.covariance / jnp.where(lost > 0, lost, 1.0)
        keep = jnp.exp(-self.step_size.astype(dtype))
        noise = product(particle_normals(key, x), lower_root(covariance).T)
        moved = cloud.mean + keep * (x - cloud.mean) + jnp.sqrt((1.0 - keep**2) * (1.0 + power)) * noise
        # Density zero everywhere: there is nothing to draw from.
        sound = alive & jnp.any(finite)
        return moved, (), sound, {"inverse_temperature": power, "ess": 1.0 / jnp.maximum(1.0 - lost, 1e-30)}

    def summary(self, records: PyTree) -> dict[str, str]:
        """Effective sample size of the weights, of the last step shown."""
        return {} if records["ess"].shape[0] == 0 else {"ess": f"{float(np.mean(records['ess'][-1])):.3g}"}
