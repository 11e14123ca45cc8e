"""Partial transport against a linear program, its own optimality conditions and differences."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.optimize import linprog

from pushforward.samplers import transport
from pushforward.samplers.transport._geometry import Cloud, Dense
from pushforward.samplers.transport._padded import Padded, largest_cost, padded


def program(cost, a, b, mass):
    n, m = cost.shape
    sums = np.concatenate([np.kron(np.eye(n), np.ones(m)), np.kron(np.ones(n), np.eye(m))])
    return linprog(
        np.ravel(cost), A_ub=sums, b_ub=np.concatenate([a, b]), A_eq=np.ones((1, n * m)), b_eq=[mass], method="highs"
    )


@pytest.fixture(scope="module")
def weighted():
    keys = jax.random.split(jax.random.key(7), 4)
    x, y = jax.random.normal(keys[0], (20, 2)), jax.random.normal(keys[1], (20, 2)) + 1.0
    a, b = jax.random.uniform(keys[2], (20,)), 1.5 * jax.random.uniform(keys[3], (20,)).at[3].set(0.0)
    return x, y, a / 8, b / 8, jnp.sum((x[:, None] - y[None]) ** 2, axis=2)


@pytest.mark.parametrize("mass", [0.1, 0.5, 0.9])
def test_small_epsilon_against_the_linear_program(weighted, mass):
    x, y, a, b, cost = weighted
    found = transport.partial(x, y, mass=mass, a=a, b=b, epsilon=1e-3)
    truth = program(cost, a, b, mass)
    rows, columns = found.marginals()
    assert found.converged
    np.testing.assert_allclose(jnp.sum(found.plan), mass, rtol=1e-10)
    assert jnp.max(rows - a) < 1e-12
    assert jnp.max(columns - b) < 1e-12
    np.testing.assert_allclose(jnp.sum(found.plan * cost), truth.fun, atol=5e-3 * mass)
    assert jnp.sum(found.plan * cost) > truth.fun - 1e-10
    np.testing.assert_allclose(found.linear_cost, jnp.sum(found.plan * cost), atol=1e-9)
    np.testing.assert_allclose(found.price, truth.eqlin.marginals[0], atol=2e-2)


def test_optimality_conditions(weighted):
    x, y, a, b, cost = weighted
    epsilon, mass = 0.2, 0.5
    found = transport.partial(x, y, mass=mass, a=a, b=b, epsilon=epsilon)
    plan, kept = found.plan, a - found.plan.sum(axis=1)
    free = b - found.plan.sum(axis=0)
    # Stationary along every exchange: logarithms of densities plus costs are sums over the two sides.
    used = b > 0
    density = jnp.log(plan[:, used] / (a[:, None] * b[used])) + cost[:, used] / epsilon
    by_row, by_column = jnp.log(kept / a), jnp.log(free[used] / b[used])
    rest = density - by_row[:, None] - by_column[None, :]
    np.testing.assert_allclose(rest, rest[0, 0], atol=1e-8)


def test_all_of_the_mass_is_the_balanced_problem(weighted):
    x, y, a, b, _ = weighted
    a, b = a / jnp.sum(a), b / jnp.sum(b)
    found = transport.partial(x, y, mass=1.0, a=a, b=b, epsilon=0.1)
    balanced = transport.solve(x, y, a=a, b=b, epsilon=0.1)
    np.testing.assert_allclose(found.plan, balanced.plan, atol=1e-12)
    np.testing.assert_allclose(found.cost, balanced.cost, rtol=1e-10)


def test_derivatives_agree_with_differences(weighted):
    x, y, a, b, _ = weighted

    def value(x, mass):
        return transport.partial(x, y, mass=mass, a=a, b=b, epsilon=0.2).cost

    direction = jax.random.normal(jax.random.key(0), x.shape)
    slope, slope_in_mass = jax.grad(value, (0, 1))(x, 0.5)
    numerical = (value(x + 1e-4 * direction, 0.5) - value(x - 1e-4 * direction, 0.5)) / 2e-4
    numerical_in_mass = (value(x, 0.5 + 1e-4) - value(x, 0.5 - 1e-4)) / 2e-4
    np.testing.assert_allclose(jnp.sum(slope * direction), numerical, rtol=1e-6)
    np.testing.assert_allclose(slope_in_mass, numerical_in_mass, rtol=1e-6)


def test_streamed_costs_are_padded_like_stored_ones(weighted):
    x, y, a, b, cost = weighted
    cloud = Cloud(x, y, lambda x, y: jnp.sum((x[:, None] - y[None]) ** 2, axis=2))
    streamed, stored = padded(cloud, jnp.array(50.0)), padded(Dense(cost), jnp.array(50.0))
    assert isinstance(streamed, Padded)
    assert isinstance(stored, Dense)
    keys = jax.random.split(jax.random.key(1), 4)
    f, g = jax.random.normal(keys[0], (21,)), jax.random.normal(keys[1], (21,))
    b = jnp.log(jax.random.uniform(keys[2], (21,)))
    vectors = jax.random.normal(keys[3], (21, 2))
    epsilon = jnp.array(0.7)
    for one, other in ((streamed, stored), (streamed.transposed, stored.transposed)):
        np.testing.assert_allclose(one.log_marginal(f, g, b, epsilon), other.log_marginal(f, g, b, epsilon), rtol=1e-12)
        np.testing.assert_allclose(
            one.push(f, g, b, epsilon, vectors), other.push(f, g, b, epsilon, vectors), rtol=1e-10
        )
        np.testing.assert_allclose(
            one.cost_rows(jnp.array([0, 20, 7])), other.cost_rows(jnp.array([0, 20, 7])), rtol=1e-12
        )
    np.testing.assert_allclose(largest_cost(cloud), jnp.max(cost), rtol=1e-5)


def test_bad_input(weighted):
    x, y, a, b, _ = weighted
    with pytest.raises(ValueError, match="mass=5: expected at most what either side has"):
        transport.partial(x, y, mass=5.0, a=a, b=b, epsilon=0.1)
    with pytest.raises(ValueError, match="mass=-1: expected a positive number"):
        transport.partial(x, y, mass=-1.0, epsilon=0.1)
    with pytest.raises(ValueError, match="expected a first axis of 20"):
        transport.partial(x, y, mass=0.5, a=a, b=b, epsilon=0.2).apply(jnp.ones((21,)))
