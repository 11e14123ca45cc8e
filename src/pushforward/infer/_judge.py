"""Whose mean gradient the others are measured against, and by how much they miss it."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from ._gradient_moments import Moments

_ROUNDING = 64
"""Rounding errors of the largest gradient seen below which a difference of means is none."""


class Dispute(NamedTuple):
    """Estimators that cannot all be right, at one place with one number of particles."""

    judge: str
    parties: tuple[str, ...]


def z_scores(moments: Moments, reference: Moments) -> tuple[Float[np.ndarray, " p"], Float[np.ndarray, " p"]]:
    """Differences of the means, and the same in pooled standard errors."""
    difference = moments.mean - reference.mean
    squares = [m.variance + m.mean**2 for m in (moments, reference)]
    largest = np.sqrt(np.max(squares, initial=0.0))
    rounding = _ROUNDING * float(jnp.finfo(jnp.result_type(float)).eps) * largest
    scale = np.sqrt(moments.variance / moments.num + reference.variance / reference.num + rounding**2)
    certain = np.where(difference == 0.0, 0.0, np.copysign(np.inf, difference))
    return difference, np.divide(difference, scale, out=certain, where=scale > 0)


def p_value(z: Float[np.ndarray, " p"], num: int) -> float:
    """Probability that ``num`` gradients without bias show a largest |z| of this size, corrected for all parameters."""
    from scipy import stats  # slow to import, needed only here

    tail = 2.0 * stats.t.sf(float(np.abs(z).max(initial=0.0)), num - 1)
    return float(-np.expm1(z.size * np.log1p(-min(tail, 1.0 - 1e-16))))


def choose_judge(heard: Mapping[str, Moments], anchor: str | None, level: float) -> tuple[str, list[str]]:
    """The least noisy estimator, if all agree; otherwise one whose word is safe, and those that disagree.

    Args:
        heard: measurements of the library's own estimators.
        anchor: the one that is right whenever it applies, or None.
        level: probability that estimators without bias are said to disagree.
    """
    pairs = list(itertools.combinations(heard, 2))
    apart = {
        frozenset(pair)
        for pair in pairs
        if p_value(z_scores(*(heard[name] for name in pair))[1], min(heard[name].num for name in pair))
        < level / len(pairs)
    }
    if apart:
        friends = {name: [other for other in heard if frozenset((name, other)) not in apart] for name in heard}
        # Of families of one size the noisier is believed: bias is what some estimators pay for less variance.
        centre = anchor or max(heard, key=lambda name: (len(friends[name]), heard[name].trace))
        family = friends[centre]
        trusted = [name for name in family if all(frozenset((name, other)) not in apart for other in family)]
    else:
        trusted = list(heard)
    parties = [name for name in heard if any(name in pair for pair in apart)]
    return min(trusted, key=lambda name: heard[name].trace), parties


def explain_disputes(disputes: Sequence[Dispute]) -> str:
    """One sentence for a recommendation, empty where nothing is disputed."""
    if not disputes:
        return ""
    parties = list(dict.fromkeys(name for dispute in disputes for name in dispute.parties))
    judges = list(dict.fromkeys(dispute.judge for dispute in disputes))
    return (
        f"The estimators disagree: the mean gradients of {parties} differ by more than their noise, and what follows "
        f"takes the word of {judges}."
    )
