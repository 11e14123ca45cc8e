"""Cost of a map: optimal maps have no excess, others have what they waste, and bounds are bounds."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from oracles.transport_problems import clouds
from scipy.optimize import linear_sum_assignment

import pushforward as pf

POINTS = jnp.asarray(clouds(3, dim=2, n=80)[0][20:])


def test_gradient_of_a_quadratic_has_no_excess():
    """An optimal map: the bound by Gaussians is attained."""
    stretch = jnp.asarray([[1.5, 0.4], [0.4, 0.7]])
    found = pf.transport.map_cost(POINTS, POINTS @ stretch + 2.0, pairing=False)
    np.testing.assert_allclose(found.gaussian, found.cost, rtol=1e-9)
    assert abs(float(found.excess)) < 1e-9
    assert found.optimal is None


def test_rotation_of_a_round_cloud_is_all_waste():
    """Of Gaussian moments and of the points themselves: two bounds, and the cheapest pairing between them."""
    turn = jnp.asarray([[0.0, -1.0], [1.0, 0.0]])
    found = pf.transport.map_cost(POINTS, POINTS @ turn.T)
    distance = np.sum((np.asarray(POINTS)[:, None] - np.asarray(POINTS @ turn.T)) ** 2, -1)
    rows, columns = linear_sum_assignment(distance)
    best = distance[rows, columns].mean()
    np.testing.assert_allclose(found.cost, np.diagonal(distance).mean(), rtol=1e-12)
    np.testing.assert_allclose(found.standard_error, np.diagonal(distance).std(ddof=1) / 60**0.5, rtol=1e-12)
    assert found.gaussian <= best
    assert found.optimal <= best * (1 + 1e-9)
    assert best <= found.optimal + found.optimal_gap
    np.testing.assert_allclose(found.excess, 1 - best / found.cost, atol=1e-3)
    assert found.excess > 0.8


def test_bad_input():
    with pytest.raises(ValueError, match="row i of y"):
        pf.transport.map_cost(POINTS, POINTS[:-1])
    with pytest.raises(ValueError, match="finite"):
        pf.transport.map_cost(POINTS, jnp.full_like(POINTS, jnp.nan))
    with jax.enable_x64(False):
        single = pf.transport.map_cost(POINTS.astype(jnp.float32), POINTS.astype(jnp.float32), pairing=False)
        assert single.cost.dtype == jnp.float32
