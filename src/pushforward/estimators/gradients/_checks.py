"""Which strategies fit which sites and objectives."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ...models import Target
from ...models.guides import AbstractGuide, ProgramGuide
from ..objectives import AbstractObjective
from ..sites import AbstractSiteStrategy, PathSite, ReparamSite
from ._dependence import dependence
from ._moving import in_trace, refuse_moving
from ._quasi import is_mean
from ._terms import guide_terms


def refuse_discrete(estimator: str, guide: AbstractGuide) -> None:
    """Refuse an estimator that differentiates through every site where a site has no derivative."""
    if isinstance(guide, ProgramGuide) and guide.program is not None:
        for site in guide.program.sites:
            if site.kind == "discrete":
                raise ValueError(
                    f"{estimator} differentiates through the draws, and site '{site.name}' of the guide is discrete: "
                    "expected pf.Score(), or a strategy for this site, e.g. "
                    f"gradient={{'{site.name}': pf.MeasureValued()}}."
                )


def is_reparam(strategy: AbstractSiteStrategy) -> bool:
    """Whether log q is differentiated in its own parameters."""
    return isinstance(strategy, ReparamSite) and not isinstance(strategy, PathSite)


def check_sites(
    strategies: Mapping[str, AbstractSiteStrategy],
    objective: AbstractObjective,
    guide: ProgramGuide,
    target: Target,
    num_particles: int,
) -> None:
    """Refuse strategies that cannot be used at their sites or together.

    Raises:
        ValueError: naming the site and what to use instead.
    """
    reparam = sorted(name for name, s in strategies.items() if is_reparam(s))
    path = sorted(name for name, s in strategies.items() if s.pathwise and not is_reparam(s))
    mixed = sorted(name for name, s in strategies.items() if not is_reparam(s))
    name = objective.label
    if not is_mean(objective) and reparam and path:
        raise ValueError(
            f"{name} is not linear in the log-weights, so that pf.Reparam() at {reparam} and pf.Path() at {path} give "
            "different weights to the same draw and their sum is biased: expected one of the two for all "
            "reparameterised sites. With pf.ELBO() they can be mixed."
        )
    if not objective.smooth and num_particles > 1 and mixed and not reparam:
        raise ValueError(
            f"{name} at the sites {mixed}: the derivative of this objective in a log-weight jumps, which second "
            "derivatives do not see, so that the path form would be biased. Expected pf.Reparam() at the "
            "reparameterised sites, which turns to the plain form for all, or a smooth objective."
        )
    if objective.draws is not None:
        raise ValueError(
            f"{name}(draws=...) takes its draws from outside, so that no site of the guide is drawn: expected "
            "pf.Score(), pf.Path() or pf.Reparam() for the whole guide."
        )
    if objective.fixed_draws and reparam and mixed:
        raise ValueError(
            f"{name} holds the draws fixed under pf.Reparam() (sites {reparam}), which leaves nothing to differentiate "
            f"for the strategies at {mixed}: expected pf.Path() instead of pf.Reparam()."
        )

    def look(trace: Mapping[str, Any], batch: Any) -> None:
        _check_each(strategies, trace)
        refuse_moving(strategies, guide, trace, batch)
        _refuse_jumps(strategies, guide, trace, batch)

    in_trace(guide, target, look)


def _check_each(strategies: Mapping[str, AbstractSiteStrategy], trace: Mapping[str, Any]) -> None:
    for site, strategy in strategies.items():
        entry = trace[site]
        if entry.get("_control_flow_done") and not (strategy.pathwise and entry["fn"].has_rsample):
            raise ValueError(
                f"Site '{site}' lies inside a scan and is met once for all steps: expected a reparameterised site "
                "with pf.Path() or pf.Reparam() there; write the loop in Python to give it another strategy."
            )
        strategy.check(site, entry["fn"])


def _refuse_jumps(
    strategies: Mapping[str, AbstractSiteStrategy], guide: ProgramGuide, trace: Mapping[str, Any], batch: Any
) -> None:
    """Refuse to differentiate an outcome in a value on which draws that cannot move with it depend."""
    smooth = [name for name, strategy in strategies.items() if strategy.differentiates(trace[name]["fn"])]
    if not smooth:
        return
    values = {name: site["value"] for name, site in trace.items() if site["type"] == "sample"}
    needs = dependence(lambda values: guide_terms(guide.trace(batch, values=values)), values)
    for site in smooth:
        touched, size = {site}, 0
        while len(touched) > size:
            size = len(touched)
            touched |= {term[2:] for term, sources in needs.items() if term.startswith("q:") and sources & touched}
        stuck = sorted(n for n in touched - {site} if n in strategies and not strategies[n].pathwise)
        if stuck:
            raise ValueError(
                f"{type(strategies[site]).__name__} at site '{site}' differentiates the outcome in a relaxed value, "
                f"but the site(s) {stuck} are drawn from laws that depend on it and do not move with it: the outcome "
                "would jump and the gradient be biased. Expected pf.Enumerate(), pf.MeasureValued() or pf.Score() for "
                f"'{site}', or pf.Path() at {stuck} where they can be reparameterised."
            )
