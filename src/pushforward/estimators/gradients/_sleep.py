"""Sleep phase of wake-sleep: an amortised guide learns from latents and data that the model itself draws."""

from __future__ import annotations

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array

from ...models import Target
from ...models._types import Batch, Key
from ...models.guides import AbstractGuide
from ..objectives import IWELBO, AbstractObjective
from ..sites import ScoreSite
from ._base import AbstractGradient, Estimate, Parameters, join, over_particles, particle_keys, split
from ._baselines import NoBaseline
from ._simulated import Places, check_guide, check_model, find_places, log_guide, log_joint, simulate
from ._sites import SiteGradients


class Sleep(AbstractGradient):
    """Maximum likelihood on simulated data: the mean of d log q(z_k | x_k) / d phi, (z_k, x_k) drawn from the model.

    What `Reparam` and `Score` mean under ``ForwardKL(phase="sleep")``; built by `resolve_gradient`. The gradient of
    E_p(x) KL(p(z | x) || q(z | x)): unbiased with any number of draws, no weights, no derivative in z. In subsampled
    plates a minibatch is simulated, whose N/B-scaled terms estimate those of all data without bias.

    Learnable model parameters get zero; with ``wake``, the gradient of the IWELBO of draws of the guide at the observed
    data, per plate element where there is one.

    Cost: one simulation of the model and one density of guide and model per draw. Reference: Hinton et al., The
    wake-sleep algorithm, Science 268, 1995.
    """

    named: tuple[tuple[str, str], ...] = eqx.field(static=True, default=())
    """Arguments that carry data, where the user names them."""
    wake: bool = eqx.field(static=True, default=False)
    """Whether model parameters move."""
    places: Places | None = eqx.field(static=True, default=None)
    """Where data goes, once `bind` has found it."""

    def bind(self, target: Target, guide: AbstractGuide) -> Sleep:
        """The estimator that knows which arguments carry the data."""
        return Sleep(self.named, self.wake, find_places(dict(self.named), target, guide))

    def value_and_grad(
        self,
        key: Key,
        objective: AbstractObjective,
        target: Target,
        guide: AbstractGuide,
        num_particles: int,
        batch: Batch | None = None,
    ) -> tuple[Estimate, Parameters]:
        """See `AbstractGradient.value_and_grad`."""
        places = find_places(dict(self.named), target, guide) if self.places is None else self.places
        parameters, static = split(target, guide)
        keys = particle_keys(key, num_particles)
        draws = over_particles(lambda k: simulate(jax.random.fold_in(k, 0), target, batch), keys)

        def log_q_of(parameters: Parameters) -> Array:
            joined = join(parameters, target, static)[1]
            return over_particles(lambda d: log_guide(joined, target, places, d, batch), draws)

        log_q, pull = jax.vjp(log_q_of, parameters)
        (gradient,) = pull(jnp.full_like(log_q, -1.0 / num_particles))
        if self.wake:
            awake = jax.vmap(lambda k: jax.random.fold_in(k, 1))(keys)
            score = SiteGradients({}, {}, ScoreSite(), NoBaseline())
            bound, steps = score.value_and_grad(awake, IWELBO(), target, guide, num_particles, batch)
            return bound, gradient._replace(model=steps.model)
        weights = over_particles(lambda d: log_joint(target, places, d, batch), draws) - log_q
        mean = jnp.mean(weights)
        return Estimate(mean, weights, mean), gradient

    def check(self, objective: AbstractObjective, target: Target, guide: AbstractGuide, num_particles: int) -> None:
        """See `AbstractGradient.check`."""
        if not objective.sleeps:
            raise ValueError(
                f"Sleep() with {type(objective).__name__}: this estimator simulates data instead of drawing from the "
                'guide. Expected objective=pf.ForwardKL(phase="sleep").'
            )
        check_model(target, guide)
        check_guide(target, guide, find_places(dict(self.named), target, guide))
