"""Sites of a guide whose support moves with what is learned."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import equinox as eqx
import jax

from ...models import Target
from ...models._types import Batch
from ...models.guides import AbstractGuide, ProgramGuide
from ..sites import AbstractSiteStrategy, PathSite, ReparamSite, ScoreSite
from ..sites._support import is_point, support_ends
from ._dependence import NONE, dependence

_LEARNED = "learned"
Trace = Mapping[str, Any]


def refuse_moving(
    strategies: Mapping[str, AbstractSiteStrategy], guide: ProgramGuide, trace: Trace, batch: Batch | None
) -> None:
    """Refuse what takes the score of q to have mean zero where the support of q moves.

    The support of all sites together moves where the ends of one are computed from what is learned. Where they are
    computed from other sites it moves only if those are differentiated through while this one is held fixed.
    """
    ends = {name: support_ends(trace[name]["fn"]) for name in strategies if not _plain(strategies[name])}
    ends = {name: found for name, found in ends.items() if found}
    if not ends:
        return
    sources = _sources(guide, trace, list(ends), batch)
    pathwise = {"site:" + name for name, strategy in strategies.items() if strategy.pathwise}
    for name, strategy in strategies.items():
        point = name in ends and is_point(trace[name]["fn"])
        bad = (NONE if point else {_LEARNED}) if strategy.pathwise else {_LEARNED, *pathwise}
        found = sources.get(name, NONE) & bad
        if not found:
            continue
        label = {PathSite: "Path", ScoreSite: "Score"}.get(type(strategy), type(strategy).__name__)
        by = "the parameters" if _LEARNED in found else f"{sorted(s.removeprefix('site:') for s in found)}"
        if point:
            raise ValueError(
                f"{label}() at site '{name}' (Delta): a point mass that depends on {by} has no score, so that the "
                f"gradient would be lost. Expected pf.Path() for this site, e.g. gradient={{'{name}': pf.Path()}}."
            )
        instead = "a distribution whose ends stay where they are"
        if trace[name]["fn"].has_rsample:
            better = "pf.Reparam()" if _LEARNED in found else "pf.Path() or pf.Reparam()"
            instead = f"{better} for this site, e.g. gradient={{'{name}': pf.Reparam()}}, or {instead}"
        raise ValueError(
            f"{label}() at site '{name}': the support of this site moves with {by}, so that the score of q has not "
            f"mean zero and the gradient would be biased. Expected {instead}."
        )


def refuse_moving_guide(strategy: AbstractSiteStrategy, guide: AbstractGuide, target: Target) -> None:
    """`refuse_moving` for an estimator that treats all sites of a program guide alike."""
    if not isinstance(guide, ProgramGuide) or guide.program is None:
        return
    strategies = {site.name: strategy for site in guide.program.sites if site.kind in ("latent", "discrete")}
    in_trace(guide, target, lambda trace, batch: refuse_moving(strategies, guide, trace, batch))


def in_trace(guide: ProgramGuide, target: Target, check: Any) -> None:
    """Call ``check(trace, batch)`` on a run of the guide in which nothing is computed."""
    batch = jax.eval_shape(target.minibatch, jax.random.key(0)) if target.subsampled else None
    refusals: list[ValueError] = []

    def look(key: Any, batch: Any) -> None:
        trace = guide.trace(batch, key=key)
        try:
            check(trace, batch)
        except ValueError as error:
            refusals.append(error)

    jax.eval_shape(look, jax.random.key(0), batch)
    # Raised out here: JAX adds a remark on its own traceback to whatever passes through it.
    for refusal in refusals:
        raise refusal


def _plain(strategy: AbstractSiteStrategy) -> bool:
    return isinstance(strategy, ReparamSite) and not isinstance(strategy, PathSite)


def _sources(guide: ProgramGuide, trace: Trace, names: list[str], batch: Batch | None) -> dict[str, frozenset[str]]:
    """What the ends of these sites are computed from: learned parameters, and values of sites."""
    learned, static = eqx.partition(guide, guide.trainable())
    values = {"site:" + name: site["value"] for name, site in trace.items() if site["type"] == "sample"}

    def ends_of(inputs: Any) -> dict[str, Any]:
        given = {name.removeprefix("site:"): x for name, x in inputs.items() if name != _LEARNED}
        again = eqx.combine(inputs[_LEARNED], static).trace(batch, values=given)
        return {name: support_ends(again[name]["fn"]) for name in names}

    return dependence(ends_of, {_LEARNED: learned, **values})
