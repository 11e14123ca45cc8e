"""Faults planted in the engine of program guides: a dropped term, a flipped sign, a missing 1/K must each be seen.

The exact gradients are those of `test_site_gradients`, by sums and quadrature, two particles.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import pytest
from scipy.stats import norm
from tiers import fast

import pushforward as pf
from pushforward.estimators.gradients import _baselines, _plated, _site_program, _sites, _terms

from .test_site_gradients import (
    PLATED_AT,
    Y,
    estimates,
    exact_mixture,
    mixture,
    mixture_guide,
    plated,
    plated_guide,
    plated_value,
    z_score,
)

LIMIT = norm.isf(0.005 / (12 * 5))
"""Of `test_site_gradients.test_unbiased`; a mutant has to be twice as far off."""
SCORE, VALUED = pf.Score(), {"k": pf.MeasureValued()}


class Mutant(NamedTuple):
    """A function or method replaced, and where that must show."""

    where: Any
    name: str
    fault: Any
    objective: Any
    gradient: Any
    in_plate: bool = False


def times(factor: float) -> Any:
    """Replaces a function by a multiple of itself."""
    return lambda original: lambda *args: jax.tree.map(lambda x: factor * x, original(*args))


def without(*names: str) -> Any:
    """Terms of the log-weight left out."""
    return lambda original: lambda *args: {k: v for k, v in original(*args).items() if k not in names}


def negated(original: Any) -> Any:
    """Terms of log q with the sign of log p."""

    def faulty(trace: Any) -> Any:
        return {k: _terms.PlatedTerm(-v.value, v.frames) for k, v in original(trace).items()}

    return faulty


def unscaled(original: Any) -> Any:
    """Terms of the guide without the scale of its minibatch."""
    return lambda *args, **how: original(*args, **how)._replace(scale=1.0)


def flipped_surrogates(original: Any) -> Any:
    """What does not go through values with the wrong sign."""

    def faulty(self: Any, *args: Any) -> Any:
        slopes, steps = original(self, *args)
        return jax.tree.map(jnp.negative, slopes), steps

    return faulty


def whole_objective(original: Any) -> Any:
    """Outcomes F where the path form has F - F_k."""
    return lambda self, weights: jnp.broadcast_to(self.objective.guide_gain(weights), weights.shape)


def own_term_only(original: Any) -> Any:
    """What is downstream of a site left out of its outcome."""
    return lambda self, *args: {n: [t for t in ts if t[2:] == n] for n, ts in original(self, *args).items()}


def including_own(original: Any) -> Any:
    """A baseline that contains the draw it is subtracted from."""
    return lambda gain, weights: 0.5 * (original(gain, weights) + gain(weights))


def first_particle(original: Any) -> Any:
    """The outcome of another particle."""
    return lambda self, index, changed: original(self, 0 * index, changed)


MUTANTS = {
    "sites: missing 1/K": Mutant(_sites, "derivatives", times(2.0), pf.ELBO(), VALUED),
    "sites: dropped F_kk": Mutant(_sites, "second_derivatives", times(0.0), pf.IWELBO(), VALUED),
    "sites: flipped F_kk": Mutant(_sites, "second_derivatives", times(-1.0), pf.IWELBO(), VALUED, in_plate=True),
    "sites: flipped surrogates": Mutant(_sites._Surrogates, "gradients", flipped_surrogates, pf.ELBO(), SCORE),
    "sites: lost plate scale": Mutant(_sites, "_plate_scale", times(0.5), pf.IWELBO(), VALUED, in_plate=True),
    "program: dropped likelihood": Mutant(_site_program, "model_terms", without("p:y"), pf.ELBO(), VALUED),
    "program: dropped log q": Mutant(_site_program, "guide_terms", without("q:k"), pf.ELBO(), VALUED),
    "program: flipped log q": Mutant(_site_program, "guide_terms", negated, pf.IWELBO(), SCORE),
    "program: one key for all sites": Mutant(
        _site_program, "site_key", lambda original: lambda key, name: key, pf.ELBO(), VALUED
    ),
    "program: dropped downstream": Mutant(_site_program.SiteProgram, "downstream", own_term_only, pf.ELBO(), SCORE),
    "plated: missing 1/K": Mutant(_plated.Plated, "shares", times(2.0), pf.ELBO(), SCORE, in_plate=True),
    "plated: dropped F_k": Mutant(_plated.Plated, "_gain", whole_objective, pf.IWELBO(), VALUED, in_plate=True),
    "plated: another particle": Mutant(_plated.Plated, "outcome", first_particle, pf.IWELBO(), VALUED, in_plate=True),
    "plated: own draw in the baseline": Mutant(
        _baselines, "leave_one_out", including_own, pf.IWELBO(), SCORE, in_plate=True
    ),
    "terms: lost minibatch scale": Mutant(_terms, "site_term", unscaled, pf.ELBO(), VALUED, in_plate=True),
    "terms: flipped sign": Mutant(_terms.PlatedTerm, "over", times(-1.0), pf.ELBO(), SCORE),
}


@pytest.mark.parametrize("name", fast(MUTANTS, "plated: missing 1/K", "terms: flipped sign"))
def test_mutant_is_seen(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    mutant = MUTANTS[name]
    monkeypatch.setattr(mutant.where, mutant.name, mutant.fault(getattr(mutant.where, mutant.name)))
    if mutant.in_plate:
        exact = -jax.grad(plated_value(mutant.objective))(PLATED_AT)
        found, _ = estimates(plated, plated_guide, mutant.gradient, mutant.objective, 2, (Y,), 20_000)
    else:
        exact = exact_mixture(mutant.objective)
        found, _ = estimates(mixture, mixture_guide, mutant.gradient, mutant.objective, 2, (jnp.asarray(1.3),), 20_000)
    assert z_score(found, exact) > 2 * LIMIT
