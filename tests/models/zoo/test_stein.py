"""Exactness of the zoo without any sampler: the Stein identity at the published draws.

One family of 2 x 73 = 146 two-sided tests, false-alarm rate 1 % for the whole family (Bonferroni); the draws
are fixed, so the outcome never changes from run to run. About 50 s on two cores, mostly compilation.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest

from pushforward.models import Target, from_numpyro, zoo

from . import cases
from .stein import stein_check

PUBLISHED = tuple(name for name in zoo.names() if zoo.load(name).draws_kind == "published")
FALSE_ALARM_RATE = 0.01
NUM_TESTS = 2 * sum(zoo.load(name).dim for name in PUBLISHED)


def test_twelve_entries_have_published_draws() -> None:
    assert len(PUBLISHED) == 12
    assert NUM_TESTS == 146


@pytest.mark.parametrize("name", PUBLISHED)
def test_score_at_published_draws(name: str) -> None:
    check = stein_check(
        cases.target(name), cases.latent_draws(name), false_alarm_rate=FALSE_ALARM_RATE, num_tests=NUM_TESTS
    )
    assert len(check.z) == 2 * zoo.load(name).dim
    assert check.passes, f"z-scores {np.round(check.z, 1)} beyond {check.threshold:.2f}"


@pytest.mark.parametrize("name", sorted(set(zoo.names()) - set(PUBLISHED)))
def test_score_at_nuts_draws(name: str) -> None:
    """Weaker: the draws are thinned NUTS draws of an independent port, nearly but not quite independent."""
    check = stein_check(
        cases.target(name), cases.latent_draws(name), false_alarm_rate=FALSE_ALARM_RATE, num_tests=2 * 181
    )
    assert check.passes, f"z-scores {np.round(check.z, 1)} beyond {check.threshold:.2f}"


class _Swap(numpyro.primitives.Messenger):
    """Replace the distribution of a site."""

    def __init__(self, fn: Callable[..., Any], name: str, distribution: Any) -> None:
        super().__init__(fn)
        self.name, self.distribution = name, distribution

    def process_message(self, msg: dict[str, Any]) -> None:
        if msg["type"] == "sample" and msg["name"] == self.name:
            msg["fn"] = self.distribution


def _swapped(name: str, site: str, distribution: Any) -> Target:
    entry = zoo.load(name)
    args, kwargs = entry.args()
    return from_numpyro(_Swap(entry.model, site, distribution), *args, **kwargs)


def _scaled(name: str, site: str, weight: float) -> Target:
    return cases.target(name).scaled({site: weight})


MUTATIONS: dict[str, tuple[str, Callable[[str], Target]]] = {
    "prior scale of sigma 10 % too large": ("gp_regr", lambda n: _swapped(n, "sigma", dist.HalfNormal(1.1))),
    "prior rate of rho 10 % too large": ("gp_regr", lambda n: _swapped(n, "rho", dist.Gamma(25.0, 4.4))),
    "prior scale of mu 20 % too large": (
        "eight_schools_noncentered",
        lambda n: _swapped(n, "mu", dist.Normal(0.0, 6.0)),
    ),
    "beta1 uniform instead of flat": ("garch", lambda n: _scaled(n, "beta1_flat", 0.0)),
    "prior of mu dropped": ("hmm", lambda n: _scaled(n, "mu_prior", 0.0)),
    "likelihood tempered to 0.8": ("gauss_mix", lambda n: _scaled(n, "y", 0.8)),
    "likelihood tempered to 1.3": ("ark", lambda n: _scaled(n, "y", 1.3)),
}


@pytest.mark.parametrize("mutation", MUTATIONS)
def test_check_notices_a_wrong_density(mutation: str) -> None:
    name, build = MUTATIONS[mutation]
    draws = cases.latent_draws(name)
    check = stein_check(build(name), draws, false_alarm_rate=FALSE_ALARM_RATE, num_tests=NUM_TESTS)
    assert not check.passes


def test_check_notices_a_missing_jacobian() -> None:
    target = cases.target("gp_regr")
    draws = {site: jnp.asarray(value) for site, value in cases.latent_draws("gp_regr").items()}

    def without_jacobian(position: dict[str, jax.Array]) -> jax.Array:
        log_dets = target.program.evaluate(position).log_dets
        return target.logdensity(position) - sum(log_dets.values())

    scores = jax.jit(jax.vmap(lambda values: jax.grad(without_jacobian)(target.program.invert(values)[0])))(draws)
    z = [float(jnp.mean(s) / (jnp.std(s, ddof=1) / jnp.sqrt(s.size))) for s in scores.values()]
    assert max(map(abs, z)) > 4.0


def test_invert_and_unconstrain_agree() -> None:
    """The bulk map of the check is the public one."""
    for name in ("garch", "hmm", "gauss_mix", "eight_schools_noncentered"):
        entry, target = zoo.load(name), cases.target(name)
        values = {k: v[7] for k, v in cases.latent_draws(name).items()}
        position = target.unconstrain(values)
        inverted = jax.jit(lambda v, t=target: t.program.invert(v)[0])({k: jnp.asarray(v) for k, v in values.items()})
        for site, value in position.items():
            np.testing.assert_allclose(value, inverted[site], rtol=1e-12, atol=1e-12)
        for site, value in entry.draws().items():
            np.testing.assert_allclose(target.constrain(position)[site], value[7], rtol=2e-6)
