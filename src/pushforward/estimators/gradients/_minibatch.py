"""Which objectives may be estimated from minibatches."""

from __future__ import annotations

from typing import Any

import jax

from ...models import Target
from ...models.guides import ProgramGuide
from ..objectives import AbstractObjective
from ._quasi import is_mean
from ._terms import common, guide_terms, model_terms


def refuse_minibatch(objective: AbstractObjective, target: Target, guide: ProgramGuide | None = None) -> None:
    """Refuse a nonlinear function of a log-weight of which a minibatch gives an unbiased estimate only.

    The logarithm or power of an estimate is another objective, with another optimum. Where every term lies in the
    subsampled plates, the objective is applied per element and its sum over a minibatch is unbiased.

    Args:
        objective: what is differentiated.
        target: with or without minibatches.
        guide: a program, differentiated per site; None for guides that draw all latents at once.

    Raises:
        ValueError: naming the plates and what to use instead.
    """
    plates = {plate.name for plate in target.program.plates if plate.subsample_size is not None}
    if not plates or is_mean(objective) or objective.draws is not None:
        return
    outside = plates if guide is None else plates - _common_plates(target, guide)
    if outside:
        raise ValueError(
            f"{objective.label} with minibatches of the plate(s) {sorted(outside)}: the objective is not linear in the "
            "log-weights, and a minibatch gives an unbiased estimate of a log-weight, not of a function of it: the "
            "guide would end elsewhere, however many draws it takes. Expected pf.ELBO(), or all data (no "
            "subsample_size), or a pf.program_guide whose sites all lie in the plate, with a model without latents "
            "outside of it: there the objective is applied to every element."
        )


def _common_plates(target: Target, guide: ProgramGuide) -> set[str]:
    """The plates that every term of the log-weight lies in."""
    names: set[str] = set()

    def look(key: Any, batch: Any) -> None:
        trace = guide.trace(batch, key=key)
        latent = {site.name: trace[site.name]["value"] for site in target.program.latents}
        terms = {**guide_terms(trace), **model_terms(target, latent, batch)}
        names.update(frame.name for frame in common(terms.values()))

    key = jax.random.key(0)
    jax.eval_shape(look, key, jax.eval_shape(target.minibatch, key))
    return names
