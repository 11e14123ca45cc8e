"""Plain reparameterisation gradient."""

from __future__ import annotations

import equinox as eqx
import jax
from jaxtyping import Array, Float

from ...models import Target
from ...models._types import Batch, Key
from ...models.guides import AbstractGuide
from ..objectives import AbstractObjective
from ._base import (
    AbstractGradient,
    Estimate,
    Parameters,
    derivatives,
    estimate,
    join,
    log_weights,
    over_particles,
    split,
)
from ._checks import refuse_discrete
from ._data import likelihood_gradient
from ._minibatch import refuse_minibatch
from ._quasi import check_draws, is_mean, particle_noise, resolve_draws


class Reparam(AbstractGradient):
    """Pathwise gradient: sum_k F_k d l_k / d phi, with F_k = dF/dl_k and z_k = T_phi(eps_k).

    Unbiased for every differentiable objective. Its variance does not vanish at the optimum, because it contains the
    score of q, whose mean is zero. Cost: one value-and-gradient of target and guide per particle, and a second backward
    pass where model parameters follow another function than the guide.

    Args:
        draws: ``"random"``, or ``"sobol"``: scrambled Sobol points, randomised anew in every step, instead of
            independent draws. Unbiased for the ELBO; for smooth log p in few dimensions the variance falls faster than
            1/K. Best with a power of two as ``num_particles``.
        entropy: ``"sampled"``, or ``"closed"``: the guide's exact entropy, for the ELBO of Gaussian guides.

    Reference: Kingma and Welling, Auto-encoding variational Bayes, arXiv:1312.6114, eq. 6;
    Buchholz et al., Quasi-Monte Carlo variational inference, arXiv:1807.01604.
    """

    draws: str = eqx.field(static=True)
    entropy: str = eqx.field(static=True)

    def __init__(self, *, draws: str = "random", entropy: str = "sampled") -> None:
        self.draws = resolve_draws("Reparam", draws)
        if entropy not in ("sampled", "closed"):
            raise ValueError(f"Reparam(entropy={entropy!r}): expected 'sampled' or 'closed'.")
        self.entropy = entropy

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

        noise = particle_noise(self.draws, key, guide, num_particles)

        def weights_of(parameters: Parameters) -> Array:
            joined_target, joined_guide = join(parameters, target, static)
            if self.entropy == "closed":
                return _closed_weights(noise, joined_target, joined_guide, batch)
            return log_weights(noise, joined_target, joined_guide, num_particles, batch, law=law)

        weights, pull = jax.vjp(weights_of, parameters)
        (gradient,) = pull(-derivatives(objective.guide_gain, weights))
        if parameters.model and not objective.common:
            gradient = gradient._replace(model=pull(-derivatives(objective.model_gain, weights))[0].model)
        return estimate(objective, weights), gradient

    def check(self, objective: AbstractObjective, target: Target, guide: AbstractGuide, num_particles: int) -> None:
        """See `AbstractGradient.check`."""
        refuse_discrete("Reparam()", guide)
        refuse_minibatch(objective, target)
        check_draws("Reparam", self.draws, objective, target, guide)
        if self.entropy == "closed" and (not is_mean(objective) or guide.entropy() is None):
            raise ValueError(
                f"Reparam(entropy='closed') with {objective.label}() and {type(guide).__name__}: expected the "
                "ELBO and a Gaussian guide, whose entropy is known. Use entropy='sampled'."
            )


def _closed_weights(noise: Key, target: Target, guide: AbstractGuide, batch: Batch | None) -> Float[Array, " k"]:
    """Log-weights whose values are those of the draws, and whose mean has the derivative of E[log p] + entropy."""
    entropy = guide.entropy()
    moved = entropy - jax.lax.stop_gradient(entropy)  # type: ignore[operator]

    def one(key: Key) -> Array:
        position, log_q = guide.sample_and_log_prob(key, batch)
        return target.logdensity(position, batch, jacobian=guide.jacobian) - jax.lax.stop_gradient(log_q) + moved

    return over_particles(one, noise)
