"""Plain reparameterisation gradient."""

from __future__ import annotations

import jax
from jaxtyping import Array

from ...models import Target
from ...models._types import Batch, Key
from ...models.guides import AbstractGuide
from ..objectives import AbstractObjective
from ._base import AbstractGradient, Estimate, Parameters, derivatives, estimate, join, log_weights, split
from ._data import likelihood_gradient


class Reparam(AbstractGradient):
    """Pathwise gradient: sum_k F_k d l_k / d phi, with F_k = dF/dl_k and z_k = T_phi(eps_k).

    Unbiased for every differentiable objective. Its variance does not vanish at the optimum, because it contains the
    score of q, whose mean is zero. Cost: one value-and-gradient of target and guide per particle, and a second backward
    pass where model parameters follow another function than the guide.

    Reference: Kingma and Welling, Auto-encoding variational Bayes, arXiv:1312.6114, eq. 6.
    """

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
        if objective.draws is not None:
            return likelihood_gradient(key, objective, target, guide, num_particles, batch)
        parameters, static = split(target, guide)
        # The wake phase holds the law of the draws fixed: its guide's gradient is the explicit part only.
        law = jax.lax.stop_gradient(guide) if objective.fixed_draws else None

        def weights_of(parameters: Parameters) -> Array:
            joined_target, joined_guide = join(parameters, target, static)
            return log_weights(key, joined_target, joined_guide, num_particles, batch, law=law)

        weights, pull = jax.vjp(weights_of, parameters)
        (gradient,) = pull(-derivatives(objective.guide_gain, weights))
        if parameters.model and not objective.common:
            gradient = gradient._replace(model=pull(-derivatives(objective.model_gain, weights))[0].model)
        return estimate(objective, weights), gradient
