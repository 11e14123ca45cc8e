"""Distances between sets of samples and to a target: against brute force, closed forms, and their false-alarm rates."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import registry
import scipy.stats

import pushforward as pf
from pushforward.infer._sample_distances import _distance_term, _kernel_term, _two_sample
from pushforward.infer._stein_discrepancy import stein_statistics
from pushforward.samplers.pairs import IMQ, RBF, Laplace, Median

REPEATS = 400
LEVEL = 0.1


def standard_normal(dim):
    return pf.from_logdensity(lambda x: -0.5 * jnp.sum(x**2), jnp.zeros(dim))


@pytest.mark.parametrize("kernel", [IMQ(0.8), RBF(1.3), IMQ(2.0, exponent=-0.3)])
def test_ksd_equals_brute_force(kernel, getkey):
    """The Stein kernel of every pair by automatic differentiation, n = 60, d = 3 and 7, off the origin."""
    for dim in (3, 7):
        points = 2.0 + jax.random.normal(getkey(), (60, dim))
        width = kernel.bandwidth(points, jnp.ones(60, bool))

        def base(x, y):
            return kernel.profile(jnp.sum((x - y) ** 2)[None, None], width).value[0, 0]  # noqa: B023

        def stein(x, y):
            s, t = -x, -y
            mixed = jax.jacfwd(jax.grad(base, argnums=0), argnums=1)(x, y)
            slopes = jax.grad(base, argnums=(0, 1))(x, y)
            return base(x, y) * s @ t + s @ slopes[1] + t @ slopes[0] + jnp.trace(mixed)

        gram = np.asarray(jax.vmap(lambda x: jax.vmap(lambda y: stein(x, y))(points))(points))  # noqa: B023
        found = pf.ksd(points, standard_normal(dim), kernel=kernel)
        np.testing.assert_allclose(found.value, np.sqrt(gram.mean()), rtol=1e-10)
        unbiased = (gram.sum() - np.trace(gram)) / (60 * 59)
        np.testing.assert_allclose(found.unbiased, unbiased, rtol=1e-8, atol=1e-12)
        assert found.p_value is None


@pytest.mark.parametrize("kernel", [None, Laplace(1.0)])
def test_two_sample_distances_equal_brute_force(kernel, getkey):
    x, y = jax.random.normal(getkey(), (40, 6)), 1.0 + 2.0 * jax.random.normal(getkey(), (55, 6))
    both = np.concatenate([x, y])
    apart = np.sqrt(((both[:, None] - both[None]) ** 2).sum(-1))
    if kernel is None:
        gram, found = -apart, pf.energy_distance(x, y)
        exact = found.value
    else:
        gram, found = np.exp(-apart), pf.mmd(x, y, kernel=kernel)
        exact = found.value**2
    xx, yy, xy = gram[:40, :40], gram[40:, 40:], gram[:40, 40:]
    np.testing.assert_allclose(exact, xx.mean() + yy.mean() - 2 * xy.mean(), rtol=1e-10)
    off = [(g.sum() - np.trace(g)) / (len(g) * (len(g) - 1)) for g in (xx, yy)]
    np.testing.assert_allclose(found.unbiased, sum(off) - 2 * xy.mean(), rtol=1e-9)


def test_default_bandwidth_of_mmd_does_not_tell_the_sets_apart(getkey):
    """Sets of very different width, more points than the bandwidth looks at: symmetric, and near the median of all."""
    x, y = 0.01 * jax.random.normal(getkey(), (400, 2)), jax.random.normal(getkey(), (400, 2))
    np.testing.assert_allclose(pf.mmd(x, y).value, pf.mmd(y, x).value, rtol=1e-9)
    exact = pf.mmd(x, y, kernel=RBF(Median(scale=1.0, log=False, num_points=None))).value
    np.testing.assert_allclose(pf.mmd(x, y).value, exact, rtol=0.05)


def check_rate(p_values, level=LEVEL):
    """Rejections at a level within the binomial range of false-alarm rate 1e-5, above and below."""
    rejected = int((np.asarray(p_values) <= level).sum())
    low, high = scipy.stats.binom.ppf([5e-6, 1 - 5e-6], len(p_values), level)
    assert low <= rejected <= high, (rejected, low, high)


def test_ksd_rejects_a_true_sample_as_often_as_it_says(getkey):
    """400 samples of 60 independent draws, at level 0.1; and a shift by half a sd is found."""

    def p_value(key, shift):
        key_points, key_signs = jax.random.split(key)
        points = shift + jax.random.normal(key_points, (60, 2))
        signs = jax.random.rademacher(key_signs, (60, 199), float)
        return (1 + stein_statistics(IMQ(1.5), points, -points, signs)[2]) / 200

    keys = jax.random.split(getkey(), REPEATS)
    check_rate(jax.jit(jax.vmap(lambda k: p_value(k, 0.0)))(keys))
    assert (np.asarray(jax.jit(jax.vmap(lambda k: p_value(k, 0.5)))(keys)) <= LEVEL).mean() > 0.8


@pytest.mark.parametrize("name", ["mmd", "energy"])
def test_two_sample_tests_reject_equal_laws_as_often_as_they_say(name, getkey):
    kernel, term = (RBF(1.0), _kernel_term) if name == "mmd" else (None, _distance_term)

    def p_value(key, factor):
        key_points, key_orders = jax.random.split(key)
        points = jax.random.normal(key_points, (70, 2)).at[:30].multiply(factor)
        return (1 + _two_sample(term, kernel, points, 30, key_orders, 199)[2]) / 200

    keys = jax.random.split(getkey(), REPEATS)
    check_rate(jax.lax.map(lambda k: p_value(k, 1.0), keys, batch_size=50))
    assert (np.asarray(jax.lax.map(lambda k: p_value(k, 3.0), keys[:100], batch_size=50)) <= LEVEL).mean() > 0.8


def test_sliced_wasserstein_of_shifts_and_of_unequal_sets(getkey):
    """A shift by v costs |v| / sqrt(d); in one dimension it is SciPy's distance, also for 30 and 50 points."""
    x = jax.random.normal(getkey(), (200, 3))
    shift = jnp.asarray([3.0, -1.0, 2.0])
    found = pf.sliced_wasserstein(x, x + shift, key=getkey(), num_projections=4000)
    np.testing.assert_allclose(found, np.sqrt(14 / 3), rtol=0.03)
    a, b = np.asarray(jax.random.normal(getkey(), (30,))), np.asarray(jax.random.gamma(getkey(), 2.0, (50,)))
    one = pf.sliced_wasserstein(a, b, key=getkey(), order=1.0, num_projections=2)
    np.testing.assert_allclose(one, scipy.stats.wasserstein_distance(a, b), rtol=1e-10)
    fine = [np.repeat(np.sort(v), 150 // len(v)) for v in (a, b)]
    two = pf.sliced_wasserstein(a, b, key=getkey(), num_projections=2)
    np.testing.assert_allclose(two, np.sqrt(np.mean((fine[0] - fine[1]) ** 2)), rtol=1e-10)
    assert pf.sliced_wasserstein(x, x, key=getkey()) == 0


@pytest.mark.slow
def test_posteriors_of_a_target(getkey):
    """Correlated draws of a right chain are thinned and pass; those of a step far too long do not."""
    target = registry.gaussian_target()
    settings = {"num_chains": 2, "num_warmup": 300, "num_steps": 1500, "progress": False}
    right = pf.sample(target, pf.NUTS(dense_mass=True), key=getkey(), **settings)
    again = pf.sample(target, pf.NUTS(dense_mass=True), key=getkey(), **settings)
    wrong = pf.sample(target, pf.SGLD(0.5), key=getkey(), **settings)
    assert pf.ksd(right, target, key=getkey()).p_value > 0.001
    assert pf.mmd(right, again, key=getkey()).p_value > 0.001
    assert pf.energy_distance(right, again, key=getkey()).p_value > 0.001
    found = pf.ksd(wrong, target, key=getkey())
    assert found.num_points[0] < 3000
    assert found.value > 2 * pf.ksd(right, target).value
    positions = {"a": jnp.zeros(5) + jnp.arange(5.0), "b": jnp.ones((5, 2))}
    assert float(pf.ksd(positions, target)) > 0


def test_bad_sets_are_refused(getkey):
    target = standard_normal(2)
    for call, message in [
        (lambda: pf.ksd(np.zeros((5, 3)), target), "with d = 2"),
        (lambda: pf.ksd(np.zeros((5, 2), int), target), "floating point"),
        (lambda: pf.ksd(np.zeros((5, 2)), target, kernel=Laplace(1.0)), r"ksd\(kernel=.*twice differentiable"),
        (lambda: pf.mmd(np.zeros((5, 3)), np.zeros((5, 2))), "3 and 2 dimensions"),
        (lambda: pf.mmd(np.zeros((5, 3)), np.zeros((5, 3)), kernel=1.0), r"mmd\(kernel=1.0\): expected a radial"),
        (lambda: pf.mmd(np.zeros((1, 3)), np.zeros((5, 3))), "at least 2"),
        (lambda: pf.energy_distance(np.full((3, 1), np.nan), np.zeros((5, 1))), "must be finite"),
        (lambda: pf.sliced_wasserstein(np.zeros(3), np.zeros(3), key=getkey(), order=0.5), "order=0.5"),
    ]:
        with pytest.raises(ValueError, match=message):
            call()
