"""Site strategies, each against quadrature: gradients of E[z^k] for k up to 4."""

from __future__ import annotations

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import pytest
import registry
from scipy.stats import norm
from tiers import fast

from pushforward.estimators.sites import Enumerate, MeasureValued, ReparamSite, ScoreSite
from pushforward.estimators.sites._elements import elements, vary

from .site_cases import SITES, SiteCase, estimates, exact
from .site_cases_more import MORE_SITES

COMPARISONS = sum(4 * len(case.theta) for case in SITES.values())
THRESHOLD = norm.isf(0.005 / COMPARISONS)
"""In standard errors; the whole table raises one false alarm in a hundred seeds."""


def _worst(case: SiteCase, count: int, strategy: Any = None) -> tuple[float, float]:
    """Largest |z|, and largest relative standard error."""
    truth = exact(case)
    mean, error = estimates(case, jax.random.key(7), count, strategy)
    rounding = 1e-9 * np.abs(truth).max()
    size = np.abs(truth).max(axis=1, keepdims=True)  # some entries are zero: d E[z] / d scale
    return float(np.max(np.abs(mean - truth) / (error + rounding))), float(np.max(error / size))


COSTLY = ("Beta/Score", "Dirichlet/MeasureValued", "Gamma/MeasureValued")
"""Ten seconds each, as all of a million draws."""


@pytest.mark.parametrize("name", fast(SITES, *(n for n in SITES if SITES[n].count < 1_000_000 and n not in COSTLY)))
def test_moments(name: str) -> None:
    z, relative = _worst(SITES[name], SITES[name].count)
    assert z < THRESHOLD
    assert relative < 0.01


def test_every_registered_strategy_has_a_case() -> None:
    checked = tuple({type(case.strategy) for case in {**SITES, **MORE_SITES}.values()})
    missing = [name for name, strategy in registry.SITE_STRATEGIES.items() if not isinstance(strategy, checked)]
    assert not missing


class _Mutant(eqx.Module):
    """A strategy with one thing wrong."""

    inner: Any
    wrong: str = eqx.field(static=True)

    @property
    def pathwise(self) -> bool:
        return self.inner.pathwise

    def draw(self, key: Any, fn: Any) -> Any:
        return self.inner.draw(key, fn)

    def surrogate(self, key: Any, fn: Any, value: Any, outcome: Any, current: Any) -> Any:
        if self.wrong == "sign":
            return -self.inner.surrogate(key, fn, value, outcome, current)
        if self.wrong == "current":
            return self.inner.surrogate(key, fn, value, outcome, 0.9 * current)
        return 0.98 * self.inner.surrogate(key, fn, value, outcome, current)


@pytest.mark.parametrize(
    ("name", "wrong"),
    [
        ("Normal/MeasureValued", "factor"),
        ("Beta/MeasureValued", "current"),
        ("Poisson/MeasureValued", "sign"),
        ("Categorical/Enumerate", "factor"),
        ("Categorical/MeasureValued", "current"),
        pytest.param("Beta/Score", "factor", marks=pytest.mark.slow),
    ],
)
def test_mutants_are_caught(name: str, wrong: str) -> None:
    case = SITES[name]
    # The score function is the noisiest: a factor of 0.98 is four standard errors as it stands, eight here.
    count = 4 * case.count if name == "Beta/Score" else case.count
    assert _worst(case, count, _Mutant(case.strategy, wrong))[0] > THRESHOLD


def test_vary_replaces_one_element_at_a_time() -> None:
    # Plate of two rows with an outcome each, three elements within: replaced one by one within a row, rows together.
    fn = dist.Normal(jnp.zeros((2, 3)), 1.0).to_event(1)
    value = jnp.arange(6.0).reshape(2, 3)
    candidates = 10.0 + jnp.zeros((1, 2, 3))
    out = vary(lambda v: jnp.sum(v**2, -1), value, candidates, jnp.zeros(2), elements(fn))
    expected = np.sum(np.asarray(value) ** 2, -1)[:, None] - np.asarray(value) ** 2 + 100.0
    np.testing.assert_allclose(out[0], expected)
    whole = vary(lambda v: jnp.sum(v**2), value, candidates, jnp.zeros(()), elements(fn))
    np.testing.assert_allclose(whole[0], np.sum(np.asarray(value) ** 2) - np.asarray(value) ** 2 + 100.0)


def test_layers_are_seen_through() -> None:
    fn = dist.Bernoulli(logits=0.3).expand((4, 1)).expand((4, 5)).to_event(1).mask(jnp.ones(4, bool))
    parts = elements(fn)
    assert parts.shape == (4, 5)
    assert parts.batch_dim == 1
    # A masked element is still drawn: what it does to the outcome counts.
    masked = dist.Bernoulli(logits=jnp.asarray(0.3)).mask(False)
    for strategy in (Enumerate(), MeasureValued()):
        gradient = jax.grad(
            lambda logit, s=strategy: s.surrogate(
                jax.random.key(0),
                masked.__class__(dist.Bernoulli(logits=logit), False),
                jnp.asarray(1),
                jnp.float64,
                jnp.asarray(1.0),
            )
        )(jnp.asarray(0.3))
        np.testing.assert_allclose(gradient, jax.nn.sigmoid(0.3) * jax.nn.sigmoid(-0.3), rtol=1e-12)


@pytest.mark.parametrize(
    ("strategy", "fn", "message"),
    [
        (ReparamSite(), dist.Bernoulli(0.5), "no reparameterised draw"),
        (Enumerate(), dist.Poisson(1.0), "no finite list of values"),
        (MeasureValued(), dist.VonMises(0.0, 1.0), "no known measure-valued derivative"),
    ],
)
def test_refusals_name_site_and_remedy(strategy: Any, fn: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        strategy.check("z", fn)
    assert "'z'" in str(caught.value)
    assert "pf." in str(caught.value)


def test_single_precision() -> None:
    with jax.enable_x64(False):
        fn = dist.Gamma(jnp.float32(0.4), jnp.float32(2.0))
        for strategy in (MeasureValued(), ScoreSite()):
            value = strategy.draw(jax.random.key(0), fn)
            out = strategy.surrogate(jax.random.key(0), fn, value, jnp.square, jnp.square(value))
            assert out.dtype == jnp.float32
            assert bool(jnp.isfinite(out))
