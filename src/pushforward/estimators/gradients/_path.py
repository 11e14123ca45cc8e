"""Doubly reparameterised (path) gradient."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from ...models import Target
from ...models._types import Batch, Key
from ...models.guides import AbstractGuide
from ..objectives import AbstractObjective
from ._base import AbstractGradient, Estimate, Parameters, join, log_weights, split


class Path(AbstractGradient):
    """Path gradient: sum_k (F_k - F_kk) (d l_k / d z_k) (d z_k / d phi), the score of q removed in expectation.

    F_k and F_kk are the first and second derivatives of the objective in l_k. For the ELBO it is sticking-the-landing:
    the gradient is exactly zero, draw by draw, where q equals the posterior. Learnable model parameters get the plain
    gradient sum_k F_k d log p_k / d theta.

    Unbiased for every twice differentiable objective and reparameterised guide. Far from the optimum its variance can
    exceed that of `Reparam`. Cost: that of `Reparam` plus one evaluation of log q per particle, and a second backward
    pass when the model itself has learnable parameters.

    Reference: Roeder et al., Sticking the landing, arXiv:1703.09194, eq. 5; Tucker et al., Doubly reparameterized
    gradient estimators, arXiv:1810.04152, eq. 8.
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
        stopped = jax.lax.stop_gradient(parameters)

        def weights_of(parameters: Parameters) -> Array:
            joined_target, joined_guide = join(parameters, target, static)
            _, density = join(stopped, target, static)
            return log_weights(key, joined_target, joined_guide, num_particles, batch, density=density)

        weights, pull = jax.vjp(weights_of, parameters)
        value, first = jax.value_and_grad(objective)(weights)
        (gradient,) = pull(-(first - _second_derivatives(objective, weights)))
        if parameters.model:
            gradient = gradient._replace(model=pull(-first)[0].model)
        return Estimate(value, weights), gradient


def _second_derivatives(objective: AbstractObjective, weights: Float[Array, " k"]) -> Float[Array, " k"]:
    """Diagonal of the Hessian of the objective."""
    basis = jnp.eye(weights.size, dtype=weights.dtype)

    def along(direction: Array) -> Array:
        return jax.jvp(jax.grad(objective), (weights,), (direction,))[1] @ direction

    return jax.vmap(along)(basis)
