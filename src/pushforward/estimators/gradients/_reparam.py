"""Plain reparameterisation gradient."""

from __future__ import annotations

import jax
from jaxtyping import Array

from ...models import Target
from ...models._types import Batch, Key
from ...models.guides import AbstractGuide
from ..objectives import AbstractObjective
from ._base import AbstractGradient, Estimate, Parameters, join, log_weights, split


class Reparam(AbstractGradient):
    """Pathwise gradient: sum_k F_k d l_k / d phi, with F_k = dF/dl_k and z_k = T_phi(eps_k).

    Unbiased for every differentiable objective. Its variance does not vanish at the optimum, because it contains the
    score of q, whose mean is zero. Cost: one value-and-gradient of target and guide per particle.

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
        parameters, static = split(target, guide)

        def loss(parameters: Parameters) -> tuple[Array, Array]:
            weights = log_weights(key, *join(parameters, target, static), num_particles, batch)
            return -objective(weights), weights

        (value, weights), gradient = jax.value_and_grad(loss, has_aux=True)(parameters)
        return Estimate(-value, weights), gradient
