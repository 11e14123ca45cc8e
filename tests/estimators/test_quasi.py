"""Scrambled Sobol draws and the closed entropy."""

from __future__ import annotations

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import registry
import scipy.stats

import pushforward as pf
from pushforward.estimators.gradients import _quasi, particle_keys

from .gaussian_checks import curved_target, draws, limit, quadrature, z_score

PARTICLES = 16


def points(key, guide, count=PARTICLES):
    return _quasi.particle_noise("sobol", key, guide, count)


def test_points_are_a_net_and_each_is_uniform():
    """Every elementary box of a 2-D net holds one point, in every step; over steps each point is uniform."""
    guide = pf.MeanField(pf.from_logdensity(lambda x: -0.5 * jnp.sum(x**2), jnp.zeros(2)))
    noise = np.asarray(jax.jit(jax.vmap(lambda k: points(k, guide)))(jax.random.split(jax.random.key(0), 2000)))
    uniform = scipy.stats.norm.cdf(noise)
    for rows in (1, 2, 4, 8, 16):
        columns = PARTICLES // rows
        boxes = np.floor(uniform[:20, :, 0] * rows) * 100 + np.floor(uniform[:20, :, 1] * columns)
        assert all(len(np.unique(step)) == PARTICLES for step in boxes)
    for k in (0, 1, 7):
        for i in range(2):
            assert scipy.stats.kstest(uniform[:, k, i], "uniform").pvalue > 1e-6
    assert abs(np.corrcoef(noise[:, 3, 0], noise[:, 3, 1])[0, 1]) < 5 / np.sqrt(2000)


def test_points_do_not_depend_on_when_noise_was_drawn(getkey):
    guide, key = pf.MeanField(registry.gaussian_target()), getkey()
    keys = particle_keys(key, PARTICLES)
    ahead = jax.vmap(guide.noise)(keys)
    for given in (keys, ahead):
        np.testing.assert_array_equal(points(given, guide), points(key, guide))


def test_single_precision():
    with jax.enable_x64(False):
        guide = pf.MeanField(registry.gaussian_target())
        noise = points(jax.random.key(0), guide, 1024)
        assert noise.dtype == jnp.float32
        assert bool(jnp.all(jnp.isfinite(noise)))
        assert abs(float(noise.mean())) < 0.01
        assert abs(float(noise.std()) - 1) < 0.02


@pytest.mark.parametrize("gradient", [pf.Reparam(draws="sobol", entropy="closed"), pf.Path(draws="sobol")])
def test_unbiased_with_less_variance(gradient, getkey):
    target = curved_target()
    guide = registry.GUIDES["Whitened"].build(target)
    found = draws(gradient, target, guide, PARTICLES, getkey(), 4000)
    assert z_score(found, quadrature(target, guide)) < limit(found.shape[1])
    plain = draws(type(gradient)(), target, guide, PARTICLES, getkey(), 1000)
    assert found.var(0).sum() < 0.6 * plain.var(0).sum()


def test_a_set_that_is_not_randomised_is_seen(getkey, monkeypatch):
    """Without the digital shift the points are biased, and the comparison above must say so."""
    monkeypatch.setattr(_quasi, "_digits", lambda noise: jnp.full(noise.shape, 12345, jnp.uint32))
    target = curved_target()
    guide = registry.GUIDES["Whitened"].build(target)
    found = draws(pf.Path(draws="sobol"), target, guide, PARTICLES, getkey(), 20)
    assert z_score(found, quadrature(target, guide, 10)) > limit(found.shape[1])


@pytest.mark.parametrize("family", ["MeanField", "FullRank", "LowRank", "Laplace", "Whitened"])
def test_entropy(family, getkey):
    """Minus the mean of log q: exactly half the expected squared noise away from log q at zero noise."""
    guide = registry.GUIDES[family].build(registry.gaussian_target())
    inner = guide.inner if family == "Whitened" else guide
    _, at_zero = guide.sample_and_log_prob(jnp.zeros(inner.noise_dim))
    np.testing.assert_allclose(guide.entropy(), 0.5 * registry.DIM - at_zero, rtol=1e-12)


def test_no_closed_entropy():
    target = registry.gaussian_target()
    assert pf.Laplace(target).entropy() is None
    assert registry.GUIDES["ProgramGuide"].build(target).entropy() is None


def test_closed_entropy_has_no_noise_in_the_scale_of_a_flat_target(getkey):
    flat = pf.from_logdensity(lambda p: 0.0 * jnp.sum(p), jnp.zeros(3))
    guide = pf.MeanField(flat)
    found = draws(pf.Reparam(entropy="closed"), flat, guide, 2, getkey(), 10)
    np.testing.assert_allclose(found, np.tile([0.0, 0.0, 0.0, -1.0, -1.0, -1.0], (10, 1)), atol=1e-12)


def test_values_are_those_of_the_draws(getkey):
    target, key = curved_target(), getkey()
    guide = registry.GUIDES["FullRank"].build(target)
    closed, _ = pf.Reparam(entropy="closed").value_and_grad(key, pf.ELBO(), target, guide, 4)
    plain, _ = pf.Reparam().value_and_grad(key, pf.ELBO(), target, guide, 4)
    assert eqx.tree_equal(closed, plain, rtol=1e-12)


@pytest.mark.parametrize(
    ("gradient", "objective", "family", "message"),
    [
        (pf.Path(draws="sobol"), pf.IWELBO(), "MeanField", "depend on each other"),
        (pf.Reparam(draws="sobol"), pf.ELBO(), "ProgramGuide", "has no such noise"),
        (pf.Reparam(entropy="closed"), pf.IWELBO(), "MeanField", "whose entropy is known"),
        (pf.Reparam(entropy="closed"), pf.ELBO(), "ProgramGuide", "whose entropy is known"),
    ],
)
def test_refusals(gradient, objective, family, message):
    target = registry.gaussian_target()
    with pytest.raises(ValueError, match=message):
        gradient.check(objective, target, registry.GUIDES[family].build(target), 8)


def test_unknown_settings():
    with pytest.raises(ValueError, match="expected one of"):
        pf.Path(draws="halton")
    with pytest.raises(ValueError, match="'sampled' or 'closed'"):
        pf.Reparam(entropy="exact")
