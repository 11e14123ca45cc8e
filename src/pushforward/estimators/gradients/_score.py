"""Score-function gradient with baselines."""

from __future__ import annotations

import equinox as eqx
import jax
from jaxtyping import Array

from ...models import Target
from ...models._types import Batch, Key
from ...models.guides import AbstractGuide
from ..objectives import AbstractObjective
from ..sites import ScoreSite
from ._base import AbstractGradient, Estimate, Parameters, derivatives, estimate, join, log_weights, split
from ._baselines import AbstractBaseline, resolve_baseline
from ._data import likelihood_gradient
from ._minibatch import refuse_minibatch
from ._moving import refuse_moving_guide


class Score(AbstractGradient):
    """Score-function gradient: sum_k (F - b_k) d log q(z_k) / d phi + sum_k F_k d l_k / d phi at fixed z_k.

    Needs no reparameterisation and no gradient of the model in z: discrete latents and models with jumps work. With the
    leave-one-out baseline b_k = F with l_k replaced by the mean of the others it is leave-one-out REINFORCE for the
    ELBO and VIMCO for the IWELBO.

    Args:
        baseline: ``"leave-one-out"`` (needs two particles), ``"none"``, ``"average"`` (running mean of F),
            `LearnedBaseline`, a number, or a function ``batch -> number``.
        signal: what a site of a program guide learns from. ``"local"``: what can depend on the site, which is its own
            plate element and, for the ELBO, the terms downstream of it (Rao-Blackwellisation). ``"global"``: the
            objective of the whole draw, which is the plain estimator; `compare_estimators` then measures what locality
            is worth. Guides that draw all latents at once have one signal, the global one.

    Unbiased for every objective and guide with a density whose support does not move with the parameters
    (others are refused); a baseline may not depend on its own draw. Variance grows with the number of latents. Cost:
    one density of target and guide per particle, no gradient in z.

    Reference: Williams, Simple statistical gradient-following algorithms, 1992; Mnih and Rezende, Variational inference
    for Monte Carlo objectives, arXiv:1602.06725, eqs. 9 and 13; Mnih and Gregor, arXiv:1402.0030, section 2.3, and
    Ranganath et al., Black box variational inference, arXiv:1401.0118, section 3.1, for local signals.
    """

    baseline: AbstractBaseline
    signal: str = eqx.field(static=True)

    def __init__(self, baseline: object = "leave-one-out", *, signal: str = "local") -> None:
        if signal not in ("local", "global"):
            raise ValueError(
                f"Score(signal={signal!r}): expected 'local' (a site learns from what depends on it) or 'global' (from "
                "the whole objective, with more variance)."
            )
        self.baseline, self.signal = resolve_baseline(baseline), signal

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
        law = jax.lax.stop_gradient(guide)

        def weights_of(parameters: Parameters) -> Array:
            joined_target, joined_guide = join(parameters, target, static)
            return log_weights(key, joined_target, joined_guide, num_particles, batch, law=law)

        weights, pull = jax.vjp(weights_of, parameters)
        gain = objective.guide_gain
        # At fixed draws d l_k = -d log q(z_k): both parts of the gradient are one pull through the log-weights.
        coefficients = -derivatives(gain, weights)
        step = None
        if not objective.fixed_draws:
            control, step = self.baseline(gain, weights, batch)
            coefficients = coefficients + (gain(weights) - control)
        (gradient,) = pull(coefficients)
        if parameters.model:
            gradient = gradient._replace(model=pull(-derivatives(objective.model_gain, weights))[0].model)
        return estimate(objective, weights), gradient._replace(estimator=self._step(step))

    def _step(self, step: AbstractBaseline | None) -> Score | None:
        return None if step is None else Score(step, signal=self.signal)

    def check(self, objective: AbstractObjective, target: Target, guide: AbstractGuide, num_particles: int) -> None:
        """See `AbstractGradient.check`."""
        if not guide.has_density:
            raise ValueError(
                f"Score() differentiates log q, which {type(guide).__name__} does not have: expected pf.Reparam() or "
                "pf.Path() for a point mass."
            )
        refuse_minibatch(objective, target)
        if objective.draws is None and not objective.sleeps:
            refuse_moving_guide(ScoreSite(), guide, target)
        if not objective.fixed_draws:
            self.baseline.check(num_particles)
