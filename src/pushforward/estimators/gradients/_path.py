"""Doubly reparameterised (path) gradient."""

from __future__ import annotations

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array

from ...models import Target
from ...models._types import Batch, Key
from ...models.guides import AbstractGuide
from ..objectives import AbstractObjective
from ..sites import PathSite
from ._base import (
    AbstractGradient,
    Estimate,
    Parameters,
    derivatives,
    estimate,
    join,
    over_particles,
    second_derivatives,
    split,
)
from ._checks import refuse_discrete
from ._data import forward_path_gradient
from ._minibatch import refuse_minibatch
from ._moving import refuse_moving_guide
from ._quasi import check_draws, particle_noise, resolve_draws


class Path(AbstractGradient):
    """Path gradient: sum_k (F_k - F_kk) (d l_k / d z_k) (d z_k / d phi), the score of q removed in expectation.

    F_k and F_kk are the first and second derivatives of the objective in l_k. For the ELBO it is sticking-the-landing,
    for the IWELBO DReG, and the same for Renyi, CUBO, VIS and the wake phase of `ForwardKL`, where it is
    -sum_k F_kk (d l_k / d z_k) (d z_k / d phi). Where q equals the posterior it is exactly zero, draw by draw.
    Learnable model parameters get the plain gradient
    sum_k F_k d log p_k / d theta.

    Unbiased for every twice differentiable objective and reparameterised guide whose support does not move with its
    parameters (others are refused). Far from the optimum its variance can
    exceed that of `Reparam`. Cost: that of `Reparam` plus one gradient of log q per particle (flows carry it along with
    the draw), and a second backward pass when the model itself has learnable parameters.

    Args:
        draws: ``"random"``, or ``"sobol"``: scrambled Sobol points, randomised anew in every step, instead of
            independent draws. Unbiased for the ELBO; for smooth log p in few dimensions the variance falls faster than
            1/K. Best with a power of two as ``num_particles``.

    Reference: Roeder et al., Sticking the landing, arXiv:1703.09194, eq. 5; Tucker et al., Doubly reparameterized
    gradient estimators, arXiv:1810.04152, eqs. 8 and 10; Bauer and Mnih, arXiv:2101.11046;
    Buchholz et al., Quasi-Monte Carlo variational inference, arXiv:1807.01604.
    """

    draws: str = eqx.field(static=True)

    def __init__(self, *, draws: str = "random") -> None:
        self.draws = resolve_draws("Path", draws)

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
            return forward_path_gradient(key, objective, target, guide, num_particles, batch)
        parameters, static = split(target, guide)
        noise = particle_noise(self.draws, key, guide, num_particles)

        def weights_of(parameters: Parameters) -> Array:
            joined_target, joined_guide = join(parameters, target, static)

            def one(key: Key) -> Array:
                position, log_q, force = joined_guide.sample_and_force(key, batch)
                log_p = joined_target.logdensity(position, batch, jacobian=guide.jacobian)
                # Value log q, derivative force . dz: the explicit dependence of log q on its parameters is left out.
                moved = jax.tree.map(lambda f, z: jnp.vdot(f, z - jax.lax.stop_gradient(z)), force, position)
                return log_p - (jax.lax.stop_gradient(log_q) + sum(jax.tree.leaves(moved)))

            return over_particles(one, noise)

        weights, pull = jax.vjp(weights_of, parameters)
        first = derivatives(objective.guide_gain, weights)
        second = second_derivatives(objective.guide_gain, weights)
        (gradient,) = pull(second if objective.fixed_draws else second - first)
        if parameters.model:
            gradient = gradient._replace(model=pull(-derivatives(objective.model_gain, weights))[0].model)
        return estimate(objective, weights), gradient

    def check(self, objective: AbstractObjective, target: Target, guide: AbstractGuide, num_particles: int) -> None:
        """See `AbstractGradient.check`."""
        refuse_discrete("Path()", guide)
        if objective.draws is None:
            refuse_moving_guide(PathSite(), guide, target)
        refuse_minibatch(objective, target)
        check_draws("Path", self.draws, objective, target, guide)
        if not objective.smooth and num_particles > 1:
            raise ValueError(
                f"Path() with {objective.label}: the derivative of this objective in a log-weight jumps (at a "
                "minimum, a sort or a kink), which second derivatives do not see, so the gradient would be biased. "
                "Expected pf.Reparam() or pf.Score(), or a smooth objective."
            )
