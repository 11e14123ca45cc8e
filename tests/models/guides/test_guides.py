"""Shared suite over all guides."""

from __future__ import annotations

import cloudpickle
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import registry
import scipy.stats

import pushforward as pf
from pushforward.models._layout import Layout

CASES = list(registry.GUIDES)


@pytest.fixture(scope="module")
def target():
    return registry.gaussian_target()


def flat_draws(guide, target, num, key):
    layout = Layout.of(target.example)
    draw = jax.jit(jax.vmap(lambda k: (lambda z, q: (layout.ravel(z), q))(*guide.sample_and_log_prob(k))))
    return draw(jax.random.split(key, num))


@pytest.mark.parametrize("name", CASES)
def test_sampled_log_density_is_the_log_density(name, target, getkey):
    guide = registry.GUIDES[name].build(target)

    @jax.jit
    def both(key):
        position, log_q = guide.sample_and_log_prob(key)
        return log_q, guide.log_prob(position)

    for _ in range(3):
        np.testing.assert_allclose(*both(getkey()), rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("name", [n for n in CASES if registry.GUIDES[n].gaussian])
def test_density_is_the_gaussian_of_its_covariance(name, target, getkey):
    guide = registry.GUIDES[name].build(target)
    position, log_q = guide.sample_and_log_prob(getkey())
    loc = guide.gaussian.loc if name == "Laplace" else guide.loc
    exact = scipy.stats.multivariate_normal(
        np.asarray(loc), np.asarray(guide.covariance() if name != "Laplace" else guide.covariance())
    )
    np.testing.assert_allclose(log_q, exact.logpdf(np.asarray(guide.layout.ravel(position))), rtol=1e-9)


@pytest.mark.parametrize("name", [n for n in CASES if n != "Delta"])
def test_density_is_normalised_and_matches_its_draws(name, target, getkey):
    """E_q[r / q] = 1 for a wider Gaussian r: one identity that sees both a wrong density and wrong draws.

    The z-score bound 5 has a false-alarm rate of 6e-7 per guide.
    """
    guide = registry.GUIDES[name].build(target)
    draws, log_q = flat_draws(guide, target, 20_000, getkey())
    draws = np.asarray(draws)
    # A narrower Gaussian keeps the weights bounded.
    r = scipy.stats.multivariate_normal(draws.mean(0), 0.5 * np.cov(draws.T))
    weights = np.exp(r.logpdf(draws) - np.asarray(log_q))
    assert abs(weights.mean() - 1) < 5 * weights.std() / np.sqrt(len(weights))


@pytest.mark.parametrize("name", CASES)
def test_eager_is_jit_and_same_key_same_bits(name, target, getkey):
    guide, key = registry.GUIDES[name].build(target), getkey()
    eager, jitted = guide.sample_and_log_prob(key), jax.jit(lambda g, k: g.sample_and_log_prob(k))(guide, key)
    for a, b in zip(jax.tree.leaves(eager), jax.tree.leaves(jitted), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-12, atol=1e-12)
    again = guide.sample_and_log_prob(key)
    assert all(np.array_equal(a, b) for a, b in zip(jax.tree.leaves(eager), jax.tree.leaves(again), strict=True))
    if name != "Delta":
        other = guide.sample_and_log_prob(getkey())
        assert not np.array_equal(jax.tree.leaves(eager)[0], jax.tree.leaves(other)[0])


@pytest.mark.parametrize("name", CASES)
def test_gradients_are_finite_and_pickles_round_trip(name, target, getkey):
    guide, key = registry.GUIDES[name].build(target), getkey()
    copy = cloudpickle.loads(cloudpickle.dumps(guide))
    draw = jax.jit(lambda g: g.sample_and_log_prob(key))
    assert jax.tree.all(jax.tree.map(np.array_equal, draw(copy), draw(guide)))
    gradient = jax.jit(jax.grad(lambda g: target.logdensity(g.sample_and_log_prob(key)[0]), allow_int=True))(guide)
    assert all(np.isfinite(x).all() for x in jax.tree.leaves(gradient) if jnp.issubdtype(x.dtype, jnp.floating))


@pytest.mark.parametrize("name", [n for n in CASES if n not in ("ProgramGuide", "Whitened", "Laplace")])
def test_float32_stays_float32(name):
    with jax.enable_x64(False):
        target = registry.gaussian_target()
        guide = registry.GUIDES[name].build(target)
        position, log_q = jax.jit(lambda g: g.sample_and_log_prob(jax.random.key(0)))(guide)
        assert {x.dtype for x in jax.tree.leaves((position, log_q))} == {jnp.dtype("float32")}


@pytest.mark.parametrize("name", ["MeanField", "FullRank", "LowRank", "Delta"])
def test_affine_is_the_law_of_the_moved_draw(name, target, getkey):
    guide, key = registry.GUIDES[name].build(target), getkey()
    shift, scale = jnp.asarray([1.0, -1.0, 2.0]), jnp.asarray([0.5, 2.0, 3.0])
    before, log_q = guide.sample_and_log_prob(key)
    after, moved_log_q = guide.affine(shift, scale).sample_and_log_prob(key)
    ravel = Layout.of(target.example).ravel
    np.testing.assert_allclose(ravel(after), shift + scale * ravel(before), rtol=1e-12)
    if guide.has_density:
        np.testing.assert_allclose(moved_log_q, log_q - jnp.sum(jnp.log(scale)), rtol=1e-12)


def test_whitened_is_its_plain_form(target, getkey):
    guide, key = registry.GUIDES["Whitened"].build(target), getkey()
    position, log_q = guide.sample_and_log_prob(key)
    np.testing.assert_allclose(guide.unwhiten().log_prob(position), log_q, rtol=1e-12)


def test_laplace_of_a_gaussian_is_exact(target):
    guide = pf.Laplace(target).affine(jnp.asarray(registry.MEAN), jnp.ones(3)).finish(target)
    np.testing.assert_allclose(guide.covariance(), registry.COVARIANCE, rtol=1e-10)


def test_laplace_refuses_a_point_that_is_no_mode():
    saddle = pf.from_logdensity(lambda x: x[0] ** 2 - x[1] ** 2, jnp.zeros(2))
    with pytest.raises(ValueError, match="smallest\\s+eigenvalue"):
        pf.Laplace(saddle).finish(saddle)


def test_unbound_guides_say_how_to_bind(getkey):
    with pytest.raises(ValueError, match="not bound to a target"):
        pf.MeanField().sample_and_log_prob(getkey())


@pytest.mark.parametrize(
    "build", [lambda: pf.MeanField(init_scale=0.0), lambda: pf.FullRank(init_scale=-1.0), lambda: pf.LowRank(rank=0)]
)
def test_bad_settings(build):
    with pytest.raises(ValueError, match="expected"):
        build()
