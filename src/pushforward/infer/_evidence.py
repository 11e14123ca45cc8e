"""The evidence between its bounds, from the weights of a guide's draws."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from ..estimators._keywords import explain_keywords
from ..models import Target
from ..models._types import Key
from ..models.guides import AbstractGuide
from ._arguments import check_count, check_key, check_target
from ._places import is_bound
from ._posterior import Posterior
from ._starts import resolve_guide
from ._variational_checks import pareto_khat

_BLOCK = 256
"""Draws evaluated at once."""


@dataclasses.dataclass(frozen=True, repr=False)
class EvidenceBounds:
    """Bounds on log p(data), in nats, with Monte Carlo standard errors.

    All are power means of the same weights, so ``elbo <= iwelbo <= cubo`` holds draw by draw. The evidence lies between
    the expectations of the first and the last.
    """

    elbo: float
    elbo_error: float
    iwelbo: float
    """Log of the mean weight: the estimate of log p(data), low by about half its squared standard error."""
    iwelbo_error: float
    cubo: float
    cubo_error: float
    khat: float
    """Pareto tail index of the weights: E[w^r] is finite for r below 1 / k-hat."""
    num_draws: int
    order: float
    """Of the CUBO."""
    notes: tuple[str, ...]
    """What stands against taking the figures at face value."""

    @property
    def gap(self) -> float:
        """CUBO minus ELBO."""
        return self.cubo - self.elbo

    def __repr__(self) -> str:
        line = (
            f"ELBO {_figure(self.elbo, self.elbo_error)} <= log evidence <= CUBO "
            f"{_figure(self.cubo, self.cubo_error)} (order {self.order:g}); IWELBO with {self.num_draws} draws "
            f"{_figure(self.iwelbo, self.iwelbo_error)}; k-hat {self.khat:.2f}"
        )
        return "\n".join([line, *(f"  - {note}" for note in self.notes)])


@explain_keywords
def evidence_bounds(
    target: Any, guide: Any = None, *, key: Key, num_draws: int = 16_384, order: float = 2.0
) -> EvidenceBounds:
    """Sandwich the log evidence: ELBO below, CUBO above, the importance-weighted estimate between.

    Args:
        target: a posterior from `fit`, or a target together with ``guide``.
        guide: a fitted guide; a family not yet bound is taken at its default start.
        key: a key; draw i uses ``fold_in(key, i)``.
        num_draws: independent draws of the guide.
        order: of the CUBO, at least 1; 2 is the chi-square bound.

    Returns:
        `EvidenceBounds`; its ``notes`` say when the upper bound cannot be trusted (k-hat times order above one) and
        when the target's weights make it a tempered evidence.

    Raises:
        ValueError: for a result without a guide, a guide without a density, or weights that are not finite.

    Bias: the ELBO has none; the logarithms of means are low by half their squared relative error, so that the CUBO may
    fall below the evidence where few draws carry the mean. Reference: Dieng et al., arXiv:1611.00328, section 2.
    """
    if isinstance(target, Posterior):
        if guide is not None:
            raise ValueError("evidence_bounds takes a posterior or a target with a guide, got a posterior and a guide.")
        target, guide = target.target, target.guide
        if guide is None:
            raise ValueError("This result has no guide to weigh. Expected the result of pf.fit.")
    target = check_target(target)
    check_key(key)
    check_count("num_draws", num_draws, 100)
    if not (math.isfinite(order) and order >= 1):
        raise ValueError(f"order={order!r}: expected a finite number of at least 1, e.g. 2.")
    if not (hasattr(guide, "bind") and is_bound(guide)):
        guide = resolve_guide(guide, target)
    if guide.point or not guide.has_density:
        raise ValueError(
            f"{type(guide).__name__} is a point mass: it has no density to weigh. Expected pf.MeanField()."
        )
    weights = np.asarray(_weights(target, guide, key, jnp.arange(num_draws)), np.float64)
    if not np.isfinite(weights).all():
        bad = int((~np.isfinite(weights)).sum())
        raise ValueError(
            f"{bad} of {num_draws} log weights are not finite: the guide puts mass where the posterior density is zero "
            "or undefined, and no bound exists. Check supports and data of the model."
        )
    khat = pareto_khat(weights)[1]
    notes = []
    if not khat * order < 1:
        notes.append(
            f"k-hat is {khat:.2f}: the mean of w^{order:g} is infinite or far from reached, so the CUBO shown may lie "
            "below the evidence. Use a wider guide (a fit with objective=pf.CUBO() or a flow)."
        )
    if target.weights:
        notes.append(
            f"The target weighs its sites ({', '.join(target.weights)}): the bounds are on the tempered evidence."
        )
    iwelbo, iwelbo_error = _log_mean(weights, 1.0)
    cubo, cubo_error = _log_mean(weights, float(order))
    return EvidenceBounds(
        elbo=float(weights.mean()),
        elbo_error=float(weights.std(ddof=1) / np.sqrt(num_draws)),
        iwelbo=iwelbo,
        iwelbo_error=iwelbo_error,
        cubo=cubo,
        cubo_error=cubo_error,
        khat=khat,
        num_draws=num_draws,
        order=float(order),
        notes=tuple(notes),
    )


@eqx.filter_jit
def _weights(target: Target, guide: AbstractGuide, key: Key, draws: Array) -> Array:
    def one(i: Array) -> Array:
        position, log_q = guide.sample_and_log_prob(jax.random.fold_in(key, i))
        return target.logdensity(position) - log_q

    return jax.lax.map(one, draws, batch_size=min(len(draws), _BLOCK))


def _log_mean(weights: Float[np.ndarray, " draw"], power: float) -> tuple[float, float]:
    """``log(mean(w ** power)) / power`` and its standard error by the delta method."""
    largest = weights.max()
    scaled = np.exp(power * (weights - largest))
    mean = scaled.mean()
    return (
        float(largest + np.log(mean) / power),
        float(scaled.std(ddof=1) / (np.sqrt(weights.size) * mean * power)),
    )


def _figure(value: float, error: float) -> str:
    digits = max(0, min(12, 1 - math.floor(math.log10(error)))) if error > 0 else 6
    return f"{value:.{digits}f} +- {error:.2g}"
