"""Unregularised transport against a simplex solver and an assignment solver."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.optimize import linear_sum_assignment, linprog

from pushforward.samplers import transport


def simplex(cost, a, b):
    """The linear program of transport."""
    n, m = cost.shape
    sums = np.concatenate([np.kron(np.eye(n), np.ones(m)), np.kron(np.ones(n), np.eye(m))])
    return linprog(np.ravel(cost), A_eq=sums, b_eq=np.concatenate([a, b]), method="highs")


def squared(x, y):
    return np.sum((np.asarray(x)[:, None] - np.asarray(y)[None]) ** 2, axis=2)


@pytest.fixture(scope="module")
def weighted():
    keys = jax.random.split(jax.random.key(2), 4)
    x, y = jax.random.normal(keys[0], (30, 3)), jax.random.normal(keys[1], (30, 3)) + 0.5
    a, b = jax.random.uniform(keys[2], (30,)).at[4].set(0.0), jax.random.uniform(keys[3], (30,)).at[:2].set(0.0)
    return x, y, a / jnp.sum(a), b / jnp.sum(b)


@pytest.mark.slow
def test_weights(weighted):
    x, y, a, b = weighted
    found = transport.exact(x, y, a=a, b=b)
    truth = simplex(squared(x, y), a, b).fun
    spread = np.mean(np.abs(squared(x, y) - squared(x, y).mean()))
    assert found.converged
    assert found.gap < 2e-6 * spread
    assert found.dual - 1e-12 <= truth <= found.cost + 1e-12
    assert found.cost - found.dual <= found.gap
    f, g = found.potentials
    used = np.asarray((a > 0)[:, None] & (b > 0)[None, :])
    assert np.max((f[:, None] + g[None, :] - squared(x, y))[used]) < 1e-12
    np.testing.assert_allclose(jnp.sum(a * f) + jnp.sum(b * g), found.dual, rtol=1e-12)
    assert jnp.sum(jnp.abs(found.plan.sum(axis=1) - a)) < 1e-6


@pytest.mark.parametrize("seed", [0, 1])
def test_assignment_with_random_costs(seed):
    cost = jax.random.uniform(jax.random.key(seed), (30, 30))
    rows, columns = linear_sum_assignment(cost)
    found = transport.exact(cost=cost)
    assert found.converged
    np.testing.assert_allclose(found.cost, np.asarray(cost)[rows, columns].mean(), rtol=0, atol=1e-6 * 0.25)
    np.testing.assert_array_equal(found.transport.match(), columns)


def test_many_optimal_plans():
    # Along a line under |x - y| every monotone and many another plan is optimal.
    x = jnp.linspace(0.0, 1.0, 30)[:, None]
    found = transport.exact(x, x + 0.5, cost="l1")
    assert found.converged
    np.testing.assert_allclose(found.cost, 0.5, atol=1e-6)


def test_gradient_is_that_of_the_optimal_plan(weighted):
    x, y, a, b = weighted
    slope, slope_in_a = jax.grad(lambda x, a: transport.exact(x, y, a=a, b=b).cost, (0, 1))(x, a)
    plan = simplex(squared(x, y), a, b).x.reshape(30, 30)
    expected = 2 * (plan.sum(axis=1)[:, None] * np.asarray(x) - plan @ np.asarray(y))
    np.testing.assert_allclose(slope, expected, atol=1e-4)
    dual = np.asarray(simplex(squared(x, y), a, b).eqlin.marginals[:30])
    # Weights are normalised, so potentials count up to a constant; and where a weight is zero they are not unique.
    used = np.asarray(a) > 0
    assert slope_in_a.shape == a.shape
    np.testing.assert_allclose(
        np.asarray(slope_in_a)[used] - (a @ slope_in_a), (dual - np.asarray(a) @ dual)[used], atol=1e-3
    )


def test_an_impossible_tolerance_is_not_reported_as_met(weighted):
    x, y, a, b = (v.astype(jnp.float32) for v in weighted)
    found = transport.exact(x, y, a=a, b=b)
    wide = [np.asarray(v, np.float64) for v in (x, y, a, b)]
    truth = simplex(squared(*wide[:2]), wide[2] / wide[2].sum(), wide[3] / wide[3].sum())
    assert found.converged
    assert found.cost.dtype == jnp.float32
    assert abs(float(found.cost) - truth.fun) <= found.gap
    assert not transport.exact(x, y, a=a, b=b, tolerance=1e-9).converged


def test_equal_costs_and_bad_input():
    found = transport.exact(cost=jnp.full((3, 3), 2.0))
    np.testing.assert_allclose(found.cost, 2.0, rtol=1e-12)
    assert found.converged
    with pytest.raises(ValueError, match=r"tolerance=0: expected a positive number"):
        transport.exact(cost=jnp.zeros((3, 3)), tolerance=0)
    with pytest.raises(ValueError, match="not finite"):
        transport.exact(cost=jnp.full((3, 3), jnp.nan))
