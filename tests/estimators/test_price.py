"""What is special about the gradients of Gaussian guides: no noise on quadratics, other targets, refusals."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import registry

import pushforward as pf
from pushforward.estimators.gradients import _affine_control, _price, split
from pushforward.estimators.gradients._affine_control import _columns as columns
from pushforward.estimators.gradients._gaussian import along
from pushforward.models.guides import FullRank

from .gaussian_checks import curved_target, draws, limit, quadrature, z_score

FAMILIES = ["MeanField", "FullRank", "LowRank", "Whitened"]
REPEATS = 5_000

ESTIMATORS = {
    "Price": pf.Price(),
    "Price, no path": pf.Price(path=False),
    "taylor": pf.AffineControl(),
    "regression": pf.AffineControl("regression"),
}


@pytest.mark.parametrize(
    "family", ["Whitened", *[pytest.param(f, marks=pytest.mark.slow) for f in ("MeanField", "FullRank", "LowRank")]]
)
def test_unbiased_on_a_curved_target(family, getkey):
    target = curved_target()
    guide = registry.GUIDES[family].build(target)
    exact = quadrature(target, guide, 14 if family != "LowRank" else 9)
    z = {}
    for name, gradient in ESTIMATORS.items():
        if name == "regression" and family == "LowRank":
            continue
        found = draws(gradient, target, guide, 5, getkey(), REPEATS)
        z[name] = z_score(found, exact)
    assert max(z.values()) < limit(len(exact)), z


@pytest.mark.parametrize(
    ("gradient", "module", "name", "mutant"),
    [
        ("Price", _price, "along", lambda *args: 1.05 * along(*args)),
        ("Price", FullRank, "entropy", lambda guide: 0.0),
        ("taylor", _affine_control, "_columns", lambda inner: 0.95 * columns(inner)),
        ("regression", FullRank, "entropy", lambda guide: 0.0),
    ],
)
def test_mutants_are_seen(gradient, module, name, mutant, getkey, monkeypatch):
    target = curved_target()
    guide = registry.GUIDES["Whitened"].build(target)
    exact = quadrature(target, guide, 10)
    monkeypatch.setattr(module, name, mutant)
    found = draws(ESTIMATORS[gradient], target, guide, 4, getkey(), REPEATS)
    assert z_score(found, exact) > limit(len(exact))


@pytest.mark.parametrize("family", FAMILIES)
def test_nothing_random_is_left_on_a_quadratic(family, getkey):
    target = registry.gaussian_target()
    guide = registry.GUIDES[family].build(target)
    taylor = draws(pf.AffineControl(), target, guide, 3, getkey(), 50)
    assert taylor.std(0).max() < 1e-10
    np.testing.assert_allclose(taylor[0], quadrature(target, guide, 5), rtol=1e-8, atol=1e-10)
    price = draws(pf.Price(), target, guide, 3, getkey(), 50)
    dim = registry.DIM
    assert price[:, :dim].std(0).max() > 1e-3  # the location's part
    assert price[:, dim:].std(0).max() < 1e-10  # the scale's part


def test_price_lands(getkey):
    """Where the guide is the posterior every draw's gradient is zero, the location's too."""
    target = registry.gaussian_target()
    guide = pf.FullRank(target)
    guide = guide.affine(jnp.asarray(registry.MEAN), jnp.asarray(registry.ROOT) / guide.init_scale)
    for num_particles in (1, 4):
        assert np.abs(draws(pf.Price(), target, guide, num_particles, getkey(), 20)).max() < 1e-9
    assert draws(pf.Price(path=False), target, guide, 4, getkey(), 20).std(0).max() > 0.1


@pytest.mark.slow
def test_variance_is_below_the_plain_gradient(getkey):
    target = curved_target()
    guide = registry.GUIDES["Whitened"].build(target)
    key = getkey()
    variance = {
        name: draws(gradient, target, guide, 6, key, 2000).var(0).sum()
        for name, gradient in {**ESTIMATORS, "plain": pf.Reparam()}.items()
    }
    assert variance["Price"] < 0.3 * variance["plain"]
    assert variance["taylor"] < 0.3 * variance["plain"]
    assert variance["regression"] < variance["plain"]


def test_single_precision_and_fit():
    with jax.enable_x64(False):
        target = curved_target()
        for gradient in (pf.Price(), pf.AffineControl()):
            guide = pf.MeanField(target)
            grads = jax.jit(lambda k, g=gradient, q=guide: g.value_and_grad(k, pf.ELBO(), target, q, 3)[1])(
                jax.random.key(0)
            )
            assert all(g.dtype == jnp.float32 for g in jax.tree.leaves(grads))
            assert jax.tree.structure(grads.guide) == jax.tree.structure(split(target, guide)[0].guide)


@pytest.mark.parametrize(
    ("gradient", "objective", "guide", "message"),
    [
        (pf.Price(), pf.IWELBO(), pf.MeanField, "not linear in the log-weights"),
        (pf.Price(), pf.ELBO(), pf.Delta, "holds for Gaussian guides"),
        (pf.AffineControl(), pf.CUBO(), pf.FullRank, "not linear in the log-weights"),
        (pf.AffineControl("regression"), pf.ELBO(), pf.LowRank, "MeanField or pf.FullRank"),
    ],
)
def test_refusals(gradient, objective, guide, message):
    target = registry.gaussian_target()
    with pytest.raises(ValueError, match=message) as caught:
        gradient.check(objective, target, guide(target), 8)
    assert "pf." in str(caught.value)


def test_unknown_kind():
    with pytest.raises(ValueError, match="expected 'taylor' or 'regression'"):
        pf.AffineControl("quadratic")
