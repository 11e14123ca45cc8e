"""From what the user says about gradients to an estimator."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ...models.guides import AbstractGuide, ProgramGuide
from ..objectives import AbstractObjective, ForwardKL
from ..sites import AbstractSiteStrategy, PathSite, ReparamSite, ScoreSite
from ._base import AbstractGradient
from ._baselines import AbstractBaseline, LeaveOneOut
from ._path import Path
from ._reparam import Reparam
from ._score import Score
from ._sites import SiteGradients
from ._sleep import Sleep


def resolve_gradient(
    gradient: Any, guide: AbstractGuide, objective: AbstractObjective, where: str = "gradient"
) -> AbstractGradient:
    """An estimator from an estimator, a site strategy, or a dictionary of either by site name.

    For a program guide the estimators `Path`, `Reparam` and `Score` mean that strategy at every site.

    Args:
        gradient: as given by the user; None is `Path`.
        guide: bound guide.
        objective: what it differentiates; one that takes its draws from outside leaves no site to draw.
        where: what the user calls it, for messages.

    Raises:
        ValueError: if it is none of these.
    """
    if isinstance(objective, ForwardKL) and objective.sleeps:
        return _asleep(gradient, objective, where)
    if gradient is None:
        gradient = Path()
    if isinstance(gradient, type) and issubclass(gradient, AbstractGradient | AbstractSiteStrategy):
        gradient = gradient()
    if isinstance(gradient, Mapping):
        chosen = {str(name): _strategy(value, f"{where}[{name!r}]") for name, value in gradient.items()}
        baselines = {name: b for name, (_, b) in chosen.items() if b is not None}
        return SiteGradients({name: s for name, (s, _) in chosen.items()}, baselines, PathSite(), LeaveOneOut())
    plain = isinstance(gradient, AbstractSiteStrategy)
    if plain or (isinstance(guide, ProgramGuide) and _by_site(gradient) and objective.draws is None):
        strategy, baseline = _strategy(gradient, where)
        return SiteGradients({}, {}, strategy, LeaveOneOut() if baseline is None else baseline)
    if isinstance(gradient, AbstractGradient):
        return gradient
    raise ValueError(
        f"{where}={gradient!r}: expected pf.Path(), pf.Reparam(), pf.Score(), a site strategy such as "
        "pf.MeasureValued(), a dictionary {site: strategy}, or 'auto'."
    )


def _asleep(gradient: Any, objective: ForwardKL, where: str) -> AbstractGradient:
    """The one estimator of the sleep phase, in which no site of the guide is drawn."""
    kind = gradient if isinstance(gradient, type) else type(gradient)
    if gradient is None or (kind in (Reparam, Score) and (kind is gradient or _by_site(gradient))):
        return Sleep(objective.data, objective.phase == "wake-sleep")
    if isinstance(gradient, Sleep):
        return gradient
    raise ValueError(
        f"{where}={gradient!r} with ForwardKL(phase={objective.phase!r}): the guide learns from draws of the model by "
        "maximum likelihood, so that no site of it is drawn and its noise is not known. Expected no gradient, "
        "pf.Reparam() or pf.Score(), which are the same here."
    )


def _by_site(gradient: Any) -> bool:
    """Whether an estimator for a whole guide means the same strategy at every site."""
    if type(gradient) is Reparam:
        return gradient.draws == "random" and gradient.entropy == "sampled"
    return type(gradient) is Score or (type(gradient) is Path and gradient.draws == "random")


def _strategy(value: Any, where: str) -> tuple[AbstractSiteStrategy, AbstractBaseline | None]:
    if isinstance(value, type) and issubclass(value, AbstractGradient | AbstractSiteStrategy):
        value = value()
    if isinstance(value, AbstractSiteStrategy):
        return value, None
    if type(value) is Path and _by_site(value):
        return PathSite(), None
    if type(value) is Reparam and _by_site(value):
        return ReparamSite(), None
    if type(value) is Score:
        return ScoreSite(value.signal), value.baseline
    if isinstance(value, AbstractGradient):
        raise ValueError(
            f"{where}={value!r} is an estimator for all draws of a guide at once, which says nothing about one site: "
            "expected pf.Path() or pf.Reparam() without options, pf.Score(), pf.Enumerate() or another site strategy."
        )
    raise ValueError(
        f"{where}={value!r}: expected a strategy for one site, e.g. pf.Path(), pf.Reparam(), pf.Score(), "
        "pf.Enumerate() or pf.MeasureValued()."
    )
