"""Matrix-valued and graphical kernels and random batches against their definitions."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import pushforward as pf
from pushforward.samplers.pairs import IMQ, RBF, Graphical, MatrixValued, random_batch_force


def definition(matrix_kernel, x, scores):
    """``1/n sum_j [K(x_i, x_j) s_j + div_j K(x_i, x_j)]`` by automatic differentiation of every pair."""

    def pair(y, z, s):
        slope = jax.jacfwd(lambda v: matrix_kernel(v, z))(y)
        return matrix_kernel(y, z) @ s + jnp.trace(slope, axis1=0, axis2=2)

    return jax.vmap(lambda z: jnp.mean(jax.vmap(lambda y, s: pair(y, z, s))(x, scores), axis=0))(x)


def cloud(getkey, count=13, dim=4):
    return jax.random.normal(getkey(), (count, dim)), jax.random.normal(getkey(), (count, dim))


def imq(squared, width):
    return (1.0 + squared / width**2) ** -0.5


def test_matrix_valued_kernel_equals_its_definition(getkey):
    x, scores = cloud(getkey)
    root = jnp.tril(jax.random.normal(getkey(), (4, 4))) + 2.0 * jnp.eye(4)
    metric = root @ root.T
    kernel = MatrixValued(metric, IMQ(1.7))
    found = jax.jit(lambda: kernel.force(kernel.fit(x, jnp.ones(13, bool)), x, scores, jnp.ones(13)))()
    exact = definition(lambda y, z: jnp.linalg.inv(metric) * imq((y - z) @ metric @ (y - z), 1.7), x, scores)
    np.testing.assert_allclose(found, exact, rtol=1e-10, atol=1e-12)


def test_a_metric_that_is_none_is_refused_by_name():
    for metric, message in (
        (jnp.zeros((2, 3)), "shape \\(2, 3\\)"),
        (jnp.eye(2, dtype=int), "matrix of floats"),
        (jnp.diag(jnp.asarray([1.0, -1.0])), "expected a positive-definite"),
    ):
        with pytest.raises(ValueError, match=message):
            MatrixValued(metric, RBF())


def test_graphical_kernel_equals_its_definition(getkey):
    """A chain of three nodes, the first of two coordinates."""
    x, scores = cloud(getkey)
    kernel = Graphical([[0, 1], [2], [3]], [[1], [0, 2], [1]], kernel=IMQ(1.3))
    seen = [[0, 1, 2], [0, 1, 2], [0, 1, 2, 3], [2, 3]]

    def matrix(y, z):
        return jnp.diag(jnp.stack([imq(jnp.sum((y - z)[jnp.asarray(s)] ** 2), 1.3) for s in seen]))

    found = jax.jit(lambda: kernel.force(kernel.fit(x, jnp.ones(13, bool)), x, scores, jnp.ones(13)))()
    np.testing.assert_allclose(found, definition(matrix, x, scores), rtol=1e-10, atol=1e-12)


def test_blankets_by_site_name(getkey):
    target = pf.from_logdensity(
        lambda p: -jnp.sum(p["a"] ** 2) - p["b"] ** 2 - jnp.sum(p["c"] ** 2),
        {"a": jnp.zeros(2), "b": jnp.zeros(()), "c": jnp.zeros(3)},
    )
    kernel = Graphical.of_sites(target, {"b": ["a", "c"]})
    assert kernel.nodes == ((0, 1), (2,), (3, 4, 5))
    assert [sorted(b) for b in kernel.blankets] == [[0, 1, 2], [0, 1, 2, 3, 4, 5], [2, 3, 4, 5]]
    posterior = pf.sample(target, pf.SVGD(20, kernel=kernel), key=getkey(), num_steps=20, progress=False)
    assert posterior.data["posterior"]["c"].shape == (1, 20, 3)
    with pytest.raises(ValueError, match="neighbours names \\['z'\\]"):
        Graphical.of_sites(target, {"b": ["z"]})
    with pytest.raises(ValueError, match="every coordinate from 0"):
        Graphical([[0], [0]], [[], []])
    with pytest.raises(ValueError, match="over 2 coordinates"):
        Graphical([[0], [1]], [[], []]).fit(jnp.zeros((3, 3)), jnp.ones(3, bool))


@pytest.mark.slow
def test_local_kernels_keep_the_variance_in_high_dimension(getkey):
    """Thirty independent coordinates, 40 particles: one kernel on all collapses, one per coordinate does not."""
    target = pf.from_logdensity(lambda x: -0.5 * jnp.sum(x**2), jnp.zeros(30))
    local = Graphical([[i] for i in range(30)], [[] for _ in range(30)])
    variance = {}
    for name, kernel in (("one", RBF()), ("local", local)):
        posterior = pf.sample(target, pf.CoinSVGD(40, kernel=kernel), key=getkey(), num_steps=400, progress=False)
        variance[name] = float(posterior.data["posterior"]["x"].var("draw").mean())
    assert variance["one"] < 0.6, variance
    assert 0.85 < variance["local"] < 1.05, variance


def test_random_batches_do_not_depend_on_places_that_fill_up_a_device(getkey):
    """Eleven particles in groups of three on one device, and on four, which hold a place more."""
    target = pf.from_logdensity(lambda x: -0.5 * jnp.sum(x**2), jnp.zeros(2))
    kernel = pf.SVGD(11, random_batch=3).bind(target, 0)
    x = jax.random.normal(getkey(), (11, 2))
    step, key = jax.jit(lambda k, s: kernel.step(k, s)[0].particles), getkey()
    alone = step(key, kernel.init(key, x))
    padded = step(key, kernel.init(key, jnp.concatenate([x, x[:1]])))
    np.testing.assert_allclose(padded[:11], alone, rtol=1e-12)
    assert not np.allclose(alone, x, atol=1e-3)


@pytest.mark.parametrize("dead", [0, 3])
def test_random_batches_are_unbiased(dead, getkey):
    """Mean over 4,000 deals against the force of all, at most 22 z-tests at a family-wise rate of 1e-6."""
    x, scores = cloud(getkey, 11, 2)
    alive = jnp.arange(11) >= dead
    scores = jnp.where(alive[:, None], scores, 0.0)
    kernel = RBF(1.0)
    fitted = kernel.fit(x, alive)
    exact = kernel.force(fitted, x, scores, alive.astype(float))
    estimate = jax.jit(jax.vmap(lambda k: random_batch_force(k, kernel, fitted, x, scores, alive, 2)))
    draws = np.asarray(estimate(jax.random.split(getkey(), 4_000)))[:, dead:]
    z = (draws.mean(0) - exact[dead:]) / (draws.std(0) / np.sqrt(len(draws)))
    assert np.max(np.abs(z)) < 5.5
    assert np.median(draws.std(0)) > 0.05
    one_group = random_batch_force(getkey(), kernel, fitted, x, scores, alive, 11)
    np.testing.assert_allclose(one_group[dead:], exact[dead:], rtol=1e-12)
