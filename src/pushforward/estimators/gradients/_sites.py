"""Gradients of program guides, one strategy per site."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array

from ...models import Target
from ...models._types import Batch, Key
from ...models.guides import AbstractGuide, ProgramGuide
from ..objectives import AbstractObjective
from ..sites import AbstractSiteStrategy, ScoreSite
from ._base import (
    AbstractGradient,
    Estimate,
    Parameters,
    derivatives,
    over_particles,
    particle_keys,
    second_derivatives,
    split,
)
from ._baselines import AbstractBaseline, LeaveOneOut
from ._checks import check_sites, is_reparam
from ._minibatch import refuse_minibatch
from ._plated import Plated
from ._quasi import is_mean
from ._site_program import Draw, SiteProgram, site_key
from ._terms import Frame, common, total


class Steps(NamedTuple):
    """Steps of what is learned alongside, by site."""

    strategies: dict[str, AbstractSiteStrategy]
    baselines: dict[str, AbstractBaseline]


class SiteGradients(AbstractGradient):
    """Every random site of a program guide is differentiated by its own strategy. Built by `resolve_gradient`.

    For site s of particle k the outcome is F(l) with l_k recomputed at a forced value of s, all other keys the same
    (sites drawn after s follow). In the path form F is replaced by F - F_k and log q enters at fixed parameters, which
    is the same gradient in expectation for every strategy: for reparameterised sites it is `Path`, for the score
    function the term F_k d log q.

    Where all terms of the log-weight lie in common plates the objective is applied to every plate element and summed,
    with the plates' scale. For objectives that are linear in the log-weights (the ELBO) a site's outcome is restricted
    to terms that depend on it, and to its own plate element (Rao-Blackwellisation); otherwise it is the objective of
    its plate element. ``Score(signal="global")`` does without either restriction.
    """

    strategies: dict[str, AbstractSiteStrategy]
    baselines: dict[str, AbstractBaseline]
    """Of the sites that use the score function."""
    default: AbstractSiteStrategy
    default_baseline: AbstractBaseline
    whole: bool = eqx.field(static=True, default=False)
    """Whether `bind` has given every site of the guide an entry."""

    def bind(self, target: Target, guide: AbstractGuide) -> SiteGradients:
        """One strategy, and one baseline, for every site of the guide."""
        names = _site_names(guide)
        strategies = {name: self.strategies.get(name, self.default) for name in names}
        baselines = {
            name: self.baselines.get(name, self.default_baseline)
            for name in names
            if isinstance(strategies[name], ScoreSite)
        }
        return SiteGradients(strategies, baselines, self.default, LeaveOneOut(), whole=True)

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
        own = self if self.whole else self.bind(target, guide)
        parameters, static = split(target, guide)
        keys = particle_keys(key, num_particles)
        linear = is_mean(objective)
        live = frozenset(name for name, s in own.strategies.items() if is_reparam(s))
        fixed = objective.fixed_draws and bool(live)
        plain = bool(live) and not linear
        program = SiteProgram(
            target,
            static,
            own.strategies,
            batch,
            frozenset(own.strategies) if plain else live,
            not (linear or plain),
            fixed,
        )

        def forward(parameters: Parameters) -> tuple[Any, Any]:
            draws: Draw = over_particles(lambda k: program.draw(parameters, k), keys)
            frames = _common_frames(draws)
            weights = over_particles(lambda d: total(d.terms.values(), frames), draws)
            laws, rest = eqx.partition(draws.laws, eqx.is_inexact_array)
            explicit = jnp.zeros_like(weights)
            if draws.explicit:
                explicit = explicit + over_particles(lambda d: total(d.explicit.values(), frames), draws)
            return (weights, explicit, laws), (jax.lax.stop_gradient(draws.terms), draws.values, rest)

        (weights, _, laws), pull, (terms, values, rest) = jax.vjp(forward, parameters, has_aux=True)
        scale = _plate_scale(target, _frames_of(terms), batch)
        plated = Plated(objective, weights / scale, scale, plain=plain)
        first = plated.each(derivatives)
        coefficients = first
        if not (plain or linear):
            second = plated.each(second_derivatives)
            coefficients = -second if objective.fixed_draws else first - second
        surrogates = _Surrogates(own, program, parameters, plated, terms, keys, linear)
        slopes = jax.tree.map(jnp.zeros_like, laws)
        steps = Steps({}, {})
        if laws and not fixed:
            slopes, steps = surrogates.gradients(laws, rest, values)
        (gradient,) = pull((-coefficients, -first, jax.tree.map(jnp.negative, slopes)))
        if parameters.model and not (objective.common and (linear or plain)):
            wanted = -plated.each(derivatives, objective.model_gain)
            gradient = gradient._replace(
                model=pull((wanted, jnp.zeros_like(wanted), jax.tree.map(jnp.zeros_like, laws)))[0].model
            )
        return plated.estimate(), gradient._replace(estimator=self._steps(steps))

    def _steps(self, steps: Steps) -> SiteGradients | None:
        if not (self.whole and any(steps)):
            return None
        zeros: SiteGradients = jax.tree.map(jnp.zeros_like, eqx.filter(self, eqx.is_inexact_array))
        return eqx.tree_at(
            lambda g: [*(g.strategies[n] for n in steps.strategies), *(g.baselines[n] for n in steps.baselines)],
            zeros,
            [*steps.strategies.values(), *steps.baselines.values()],
        )

    def check(self, objective: AbstractObjective, target: Target, guide: AbstractGuide, num_particles: int) -> None:
        """See `AbstractGradient.check`."""
        if not isinstance(guide, ProgramGuide):
            kinds = sorted({type(s).__name__ for s in [*self.strategies.values(), self.default]})
            raise ValueError(
                f"Strategies per site ({kinds}) need a guide with named random sites, and {type(guide).__name__} draws "
                "all latents at once: expected pf.program_guide(fn), or gradient=pf.Path(), pf.Reparam() or pf.Score() "
                "for this guide."
            )
        unknown = sorted(set(self.strategies) - set(_site_names(guide)))
        if unknown:
            raise ValueError(
                f"gradient names the site(s) {unknown}, which the guide does not draw: expected names among "
                f"{sorted(_site_names(guide))}."
            )
        own = self.bind(target, guide)
        check_sites(own.strategies, objective, guide, target, num_particles)
        refuse_minibatch(objective, target, guide)
        if not objective.fixed_draws:
            for baseline in own.baselines.values():
                baseline.check(num_particles)


class _Surrogates(NamedTuple):
    """The part of the gradient that does not go through values."""

    own: SiteGradients
    program: SiteProgram
    parameters: Parameters
    plated: Plated
    terms: dict[str, Any]
    keys: Key
    linear: bool

    def gradients(self, laws: Any, rest: Any, values: Any) -> tuple[Any, Steps]:
        """Derivatives of the surrogates with respect to the sites' distributions, and steps of what is learned."""
        stopped = jax.lax.stop_gradient(self.parameters)
        reach = self.program.downstream(stopped, self.keys[0]) if self.linear else {}
        steps = Steps({}, {})
        currents: dict[str, Array] = {}
        for name in self.program.surrogate_sites:
            currents[name], step = self._current(name, reach)
            if step is not None:
                steps.baselines[name] = step
        values = jax.lax.stop_gradient(values)
        shares = self.plated.shares()

        def arguments(name: str, index: Array, key: Key, fns: Any, values: Any, current: Any, share: Array) -> Any:
            def outcome(value: Array) -> Array:
                terms = self.program.draw(stopped, key, {name: value}).terms
                if self.linear:
                    chosen = [terms[t] for t in reach[name]]
                    return share * total(chosen, common(chosen))
                return self.plated.outcome(index, total(terms.values(), common(terms.values())))

            return site_key(key, name), fns[name], values[name], outcome, current[name]

        particles = (jnp.arange(self.keys.shape[0]), self.keys)

        def surrogate(laws: Any) -> Array:
            def one(index: Array, key: Key, laws: Any, rest: Any, *others: Any) -> Array:
                fns = eqx.combine(laws, rest)
                shares = [
                    self.program.strategies[name].surrogate(*arguments(name, index, key, fns, *others)) for name in fns
                ]
                return jnp.sum(jnp.stack(shares))

            return jnp.sum(jax.vmap(one)(*particles, laws, rest, values, currents, shares))

        for name in self.program.surrogate_sites:
            strategy = self.program.strategies[name]
            if not jax.tree.leaves(eqx.filter(strategy, eqx.is_inexact_array)):
                continue

            def learn(index: Array, key: Key, fns: Any, *others: Any, name: str = name) -> Any:
                return self.program.strategies[name].steps(*arguments(name, index, key, fns, *others))

            fns = jax.lax.stop_gradient(eqx.combine(laws, rest))
            moved = jax.vmap(learn)(*particles, fns, values, currents, shares)
            steps.strategies[name] = jax.tree.map(lambda x: jnp.mean(x, axis=0), moved)
        return jax.grad(surrogate)(laws), steps

    def _current(self, name: str, reach: Mapping[str, list[str]]) -> tuple[Array, AbstractBaseline | None]:
        """The outcome at the value drawn, minus the site's baseline, for every particle."""
        baseline, strategy = self.own.baselines.get(name), self.program.strategies[name]
        whole = isinstance(strategy, ScoreSite) and strategy.signal == "global"
        if not self.linear:
            outcomes, step = self.plated.current(baseline, self.program.batch)
            return (jnp.sum(outcomes, axis=tuple(range(1, outcomes.ndim))) if whole else outcomes), step
        chosen = list(self.terms.values()) if whole else [self.terms[t] for t in reach[name]]
        signal = jax.vmap(lambda terms: total(terms, () if whole else common(terms)))(chosen)
        return self.plated.linear_current(signal, baseline, self.program.batch)


def _common_frames(draws: Draw) -> tuple[Frame, ...]:
    return _frames_of(draws.terms)


def _frames_of(terms: Mapping[str, Any]) -> tuple[Frame, ...]:
    return common(terms.values())


def _plate_scale(target: Target, frames: tuple[Frame, ...], batch: Batch | None) -> float:
    """Product of N/B over the plates in which the objective is applied element by element."""
    inside = {frame.name for frame in frames}
    return math.prod(
        p.size / p.subsample_size
        for p in target.program.plates
        if p.name in inside and p.subsample_size is not None and batch is not None
    )


def _site_names(guide: Any) -> list[str]:
    return [site.name for site in guide.program.sites if site.kind in ("latent", "discrete")]
