"""The path gradient with as much of the score of q put back as reduces its variance."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
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
    over_particles,
    particle_keys,
    power_of,
    second_derivatives,
    split,
)
from ._path import Path
from ._reparam import Reparam

_DECAY = 0.03
"""Weight of the newest step in the running moments: a memory of about 33 steps."""
_SEEN_FIRST = 10
"""Steps of plain `Reparam` before: moments of fewer draws say nothing, and guides that start narrow blow up `Path`."""


class Moments(NamedTuple):
    """Running moments of one block of parameters, of the path gradient g and of the difference c."""

    mean: Array
    """Of g, shaped like the block."""
    variance: Float[Array, ""]
    """Sum over the block of the variance of g."""
    covariance: Float[Array, ""]
    """Sum over the block of the covariance of g and c."""
    power: Float[Array, ""]
    """Sum over the block of the mean square of c."""


class Adaptive(AbstractGradient):
    """Path gradient g plus a multiple of c = (reparameterisation gradient) - g, which has mean zero.

    Each parameter block has its own multiple, -Cov(g, c) / E|c|^2 as seen in past steps. Multiple 0 is `Path`, 1 is
    `Reparam`; the best one has at most the variance of the better of the two, up to the error of a running mean of
    about 33 steps. It depends on the past only, so each step is unbiased given the past, and equal keys give equal
    bits.

    Far from the optimum the score of q in `Reparam` cancels noise, near it the score is nothing but noise: which holds
    where is measured along the way instead of guessed. Cost: that of `Path` and one more pull through the guide (and,
    for objectives other than the ELBO, through the model).

    Reference: Geffner and Domke, Using large ensembles of control variates for variational inference, arXiv:1810.12482,
    section 3; Roeder et al., arXiv:1703.09194, whose two estimators it mixes.
    """

    moments: Any = None
    """`Moments` per block of the guide's parameters; None before `bind`."""
    seen: Array | None = None
    """Total weight of the past in the moments."""

    def bind(self, target: Target, guide: AbstractGuide) -> Adaptive:
        """See `AbstractGradient.bind`: moments start at zero, steps at `Reparam`."""
        zero = jnp.zeros((), jnp.result_type(float))
        blocks = jax.tree.map(lambda p: Moments(jnp.zeros_like(p), zero, zero, zero), split(target, guide)[0].guide)
        return Adaptive(blocks, zero)

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
        if self.seen is None:
            return self.bind(target, guide).value_and_grad(key, objective, target, guide, num_particles, batch)
        parameters, static = split(target, guide)
        keys = particle_keys(key, num_particles)

        def draw(key: Key, guide: AbstractGuide) -> tuple[Any, Array, Array]:
            position, _, force = guide.sample_and_force(key, batch)
            _, log_q = guide.sample_and_log_prob(key, batch)
            moved = jax.tree.map(lambda f, z: jnp.vdot(f, z - jax.lax.stop_gradient(z)), force, position)
            return position, log_q, sum(jax.tree.leaves(moved))  # type: ignore[return-value]

        def path_weights(parameters: Parameters) -> Array:
            joined_target, joined_guide = join(parameters, target, static)

            def one(key: Key) -> Array:
                position, log_q, moved = draw(key, joined_guide)
                log_p = joined_target.logdensity(position, batch, jacobian=guide.jacobian)
                return log_p - (jax.lax.stop_gradient(log_q) + moved)

            return over_particles(one, keys)

        def scores(learned: Any) -> Array:
            # What is left of log q(z(phi); phi) without the part that goes through z: no inverse of a flow is needed.
            _, joined_guide = join(parameters._replace(guide=learned), target, static)

            def one(key: Key) -> Array:
                _, log_q, moved = draw(key, joined_guide)
                return log_q - moved

            return over_particles(one, keys)

        weights, pull = jax.vjp(path_weights, parameters)
        _, pull_score = jax.vjp(scores, parameters.guide)
        gain = objective.guide_gain
        first, second = derivatives(gain, weights), second_derivatives(gain, weights)
        known = power_of(gain)
        linear = known is not None and known[1] == 0.0
        (gradient,) = pull(second if objective.fixed_draws else second - first)
        (difference,) = pull_score(first)
        if not linear:
            curved = gradient if objective.fixed_draws else pull(second)[0]
            difference = jax.tree.map(jnp.subtract, difference, curved.guide)
        mixed, step = self._mix(gradient.guide, difference)
        if parameters.model:
            gradient = gradient._replace(model=pull(-derivatives(objective.model_gain, weights))[0].model)
        return estimate(objective, weights), gradient._replace(guide=mixed, estimator=step)

    def check(self, objective: AbstractObjective, target: Target, guide: AbstractGuide, num_particles: int) -> None:
        """See `AbstractGradient.check`: both gradients that it mixes must apply."""
        if objective.draws is not None:
            raise ValueError(
                "Adaptive() mixes gradients at draws of the guide, and this objective brings its own draws of the "
                "posterior: expected pf.Path() or pf.Reparam()."
            )
        Path().check(objective, target, guide, num_particles)
        Reparam().check(objective, target, guide, num_particles)

    def _mix(self, path: Any, difference: Any) -> tuple[Any, Adaptive]:
        """The gradient, and the steps of the moments."""
        seen = jnp.asarray(self.seen)
        started = seen >= 1.0 - (1.0 - _DECAY) ** (_SEEN_FIRST - 0.5)
        total = jnp.where(seen > 0, seen, 1.0)

        def blend(moments: Moments, g: Array, c: Array) -> Array:
            multiple = -moments.covariance / jnp.where(moments.power > 0, moments.power, 1.0)
            return g + jnp.where(started, multiple, 1.0).astype(g.dtype) * c

        def step(moments: Moments, g: Array, c: Array) -> Moments:
            # The mean of the past leaves the covariance's expectation alone, since c has mean zero, and takes most of
            # its noise away. The first step has no past and adds to the mean only.
            deviation = g - (moments.mean / total.astype(g.dtype))

            def product(a: Array, b: Array) -> Array:
                return jnp.where(seen > 0, jnp.sum(a * b), 0.0).astype(moments.power.dtype)

            new = Moments(g, product(deviation, deviation), product(deviation, c), product(c, c))
            return jax.tree.map(lambda old, value: _DECAY * (old - value), moments, new)

        def each(function: Any) -> Any:
            return jax.tree.map(function, self.moments, path, difference, is_leaf=lambda x: isinstance(x, Moments))

        return each(blend), Adaptive(each(step), _DECAY * (seen - 1.0))

    def judgement(self) -> dict[str, Array]:
        """What the past says: variance (trace) of `Path`, `Reparam` and the mixture, and the share of the score."""
        blocks: list[Moments] = jax.tree.leaves(self.moments, is_leaf=lambda x: isinstance(x, Moments))
        seen = jnp.asarray(self.seen)
        total = jnp.where(seen > 0, seen, 1.0)

        def added(terms: list[Array]) -> Array:
            return jnp.sum(jnp.stack(terms), axis=0) / total

        variance, covariance, power = (
            added([getattr(m, name) for m in blocks]) for name in ("variance", "covariance", "power")
        )
        saved = added([m.covariance**2 / jnp.where(m.power > 0, m.power, 1.0) for m in blocks])
        return {
            "path": variance,
            "reparam": variance + 2 * covariance + power,
            "adaptive": variance - saved,
            "share": -covariance / jnp.where(power > 0, power, 1.0),
        }
