"""Barycenters of Gaussians in closed form."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.optimize import brentq
from scipy.stats import norm

from pushforward.samplers import transport

AXIS = jnp.linspace(-9.0, 9.0, 145)


def gaussian(mean, variance):
    weight = jnp.exp(-0.5 * (AXIS - mean) ** 2 / variance)
    return weight / jnp.sum(weight)


def moments(weights):
    mean = weights @ AXIS
    return mean, weights @ (AXIS - mean) ** 2


def debiased_variance(variances, weights, epsilon):
    """Stationarity in S of the divergences: ``sum w_k sqrt(4 v_k S + s^4) = sqrt(4 S^2 + s^4)``, s^2 = epsilon / 2."""
    s4 = (0.5 * epsilon) ** 2

    def lacking(s):
        return sum(w * np.sqrt(4 * v * s + s4) for v, w in zip(variances, weights, strict=True)) - np.sqrt(
            4 * s * s + s4
        )

    return brentq(lacking, 1e-3, 10.0, xtol=1e-14)


@pytest.mark.parametrize("epsilon", [0.2, 1.0])
def test_debiased_barycenter_of_gaussians(epsilon):
    means, variances, weights = (-1.0, 0.5, 1.5), (0.3, 0.6, 1.1), (0.5, 0.2, 0.3)
    rows = jnp.stack([gaussian(m, v) for m, v in zip(means, variances, strict=True)])
    found = transport.barycenter(rows, AXIS[:, None], weights=jnp.array(weights), epsilon=epsilon, tolerance=1e-11)
    mean, variance = moments(found.weights)
    assert found.converged
    np.testing.assert_allclose(mean, np.dot(means, weights), atol=1e-8)
    np.testing.assert_allclose(variance, debiased_variance(variances, weights, epsilon), rtol=1e-7)
    np.testing.assert_allclose(found.weights, gaussian(mean, variance), atol=1e-8)
    if epsilon == 0.2:
        # Near the unregularised one, whose standard deviation is the mean of theirs.
        np.testing.assert_allclose(np.sqrt(variance), np.dot(np.sqrt(variances), weights), rtol=1e-2)


def test_equal_variances_with_and_without_debiasing():
    rows = jnp.stack([gaussian(-1.0, 0.5), gaussian(1.0, 0.5)])
    for debiased, variance in ((True, 0.5), (False, 0.5 + 0.25)):
        found = transport.barycenter(rows, AXIS[:, None], epsilon=0.5, debiased=debiased, tolerance=1e-8)
        assert found.converged
        np.testing.assert_allclose(moments(found.weights), (0.0, variance), atol=1e-6)


def test_on_a_grid_with_empty_bins():
    axes = (jnp.linspace(0.0, 1.0, 9), jnp.linspace(0.0, 1.0, 8))
    grid = transport.Grid(axes)
    one, other = jnp.zeros((9, 8)).at[1:3, 1:3].set(0.25), jnp.zeros((9, 8)).at[5:7, 4:6].set(0.25)
    rows = jnp.stack([one.ravel(), other.ravel()])
    options = {"epsilon": 0.02, "debiased": False, "tolerance": 1e-11}
    dense = transport.barycenter(rows, grid.points, **options)
    np.testing.assert_allclose(transport.barycenter(rows, grid, **options).weights, dense.weights, atol=1e-9)
    found = transport.barycenter(rows, grid, epsilon=0.02)
    assert found.converged
    np.testing.assert_allclose(found.weights @ grid.points, 0.5 * (rows[0] + rows[1]) @ grid.points, atol=1e-2)
    alone = transport.barycenter(rows, grid, weights=jnp.array([1.0, 0.0]), epsilon=0.02)
    np.testing.assert_allclose(alone.weights, rows[0], atol=1e-3)


def test_unfinished_is_not_converged():
    rows = jnp.stack([gaussian(-1.0, 0.3), gaussian(1.0, 1.0)])
    found = transport.barycenter(rows, AXIS[:, None], epsilon=0.2, max_sweeps=2)
    assert not found.converged


def test_moved_points_reach_the_mean_of_quantiles():
    quantiles = jnp.asarray(norm.ppf((np.arange(40) + 0.5) / 40))[:, None]
    clouds = [0.5 * quantiles - 1.0, (1.5 * quantiles + 2.0)[::-1]]
    weights = jnp.array([0.3, 0.7])
    initial = jax.random.normal(jax.random.key(1), (40, 1))
    found = transport.free_barycenter(clouds, initial, weights=weights, epsilon=0.05)
    assert found.converged
    np.testing.assert_allclose(jnp.mean(found.points), 1.1, atol=1e-10)
    np.testing.assert_allclose(jnp.std(found.points), 1.2 * jnp.std(quantiles), rtol=1e-3)
    np.testing.assert_allclose(jnp.sort(found.points[:, 0]), 1.2 * quantiles[:, 0] + 1.1, atol=0.1)
    few = transport.free_barycenter(clouds, initial, weights=weights, epsilon=0.05, max_steps=2)
    assert not few.converged


def test_moved_points_without_debiasing_are_drawn_together():
    quantiles = jnp.asarray(norm.ppf((np.arange(40) + 0.5) / 40))[:, None]
    initial = 2.0 * jax.random.normal(jax.random.key(1), (40, 1))
    options = {"epsilon": 0.4, "max_steps": 40}
    shrunk = transport.free_barycenter([quantiles, quantiles], initial, debiased=False, **options)
    np.testing.assert_allclose(jnp.var(shrunk.points), jnp.var(quantiles) - 0.2, atol=0.01)
    whole = transport.free_barycenter([quantiles, quantiles], initial, **options)
    np.testing.assert_allclose(jnp.var(whole.points), jnp.var(quantiles), atol=0.01)


def test_bad_input():
    rows = jnp.stack([gaussian(0.0, 1.0)] * 2)
    with pytest.raises(ValueError, match=r"expected \(k, 145\)"):
        transport.barycenter(rows[:, :5], AXIS[:, None], epsilon=0.1)
    with pytest.raises(ValueError, match=r"histograms\[1\] has weights that are negative"):
        transport.barycenter(rows.at[1, 3].set(-0.1), AXIS[:, None], epsilon=0.1)
    with pytest.raises(ValueError, match="expected a square matrix"):
        transport.barycenter(rows, None, cost=jnp.zeros((145, 4)), epsilon=0.1)
    with pytest.raises(ValueError, match="clouds is empty"):
        transport.free_barycenter([], jnp.zeros((3, 1)), epsilon=0.1)
