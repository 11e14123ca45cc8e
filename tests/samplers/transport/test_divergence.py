"""The debiased divergence: closed forms, equality, positivity, derivatives."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pushforward.samplers import transport

NODES = jnp.linspace(-9.0, 9.0, 181)[:, None]


def gaussian(mean, variance):
    weight = jnp.exp(-0.5 * (NODES[:, 0] - mean) ** 2 / variance)
    return weight / jnp.sum(weight)


def entropic_cost(a, b, epsilon):
    """Between N(m, A) and N(k, B): Janati et al., arXiv:2006.02572, proposition 1, with epsilon = 2 s^2."""
    (m, A), (k, B), s2 = a, b, 0.5 * epsilon
    D = np.sqrt(4 * A * B + s2**2)
    return (m - k) ** 2 + A + B - D + s2 * (1 - np.log(2 * s2)) + s2 * np.log(D + s2)


def closed_form(a, b, epsilon):
    within = entropic_cost(a, a, epsilon) + entropic_cost(b, b, epsilon)
    return entropic_cost(a, b, epsilon) - 0.5 * within


def derivative(function, at, step=1e-5):
    return (function(at + step) - function(at - step)) / (2 * step)


@pytest.mark.parametrize("epsilon", [0.5, 2.0])
def test_gaussians_on_quadrature_nodes(epsilon):
    one, two = (-0.7, 0.8), (1.1, 1.7)

    def value(mean, variance):
        return transport.sinkhorn_divergence(
            NODES, NODES, a=gaussian(mean, variance), b=gaussian(*two), epsilon=epsilon, method="sinkhorn"
        ).value

    found, slopes = jax.value_and_grad(value, (0, 1))(*one)
    slope_in_mean = derivative(lambda mean: closed_form((mean, one[1]), two, epsilon), one[0])
    slope_in_variance = derivative(lambda variance: closed_form((one[0], variance), two, epsilon), one[1])
    np.testing.assert_allclose(found, closed_form(one, two, epsilon), rtol=1e-8)
    np.testing.assert_allclose(slopes, (slope_in_mean, slope_in_variance), rtol=1e-6)


@pytest.fixture(scope="module")
def clouds():
    key_x, key_y = jax.random.split(jax.random.key(3))
    return jax.random.normal(key_x, (40, 2)), 0.7 * jax.random.normal(key_y, (40, 2)) + 0.3


def test_equal_clouds_have_no_divergence_and_no_gradient(clouds):
    x, _ = clouds
    order = jax.random.permutation(jax.random.key(1), 40)

    def value(x):
        return transport.sinkhorn_divergence(x, clouds[0][order], epsilon=0.3).value

    found, gradient = jax.value_and_grad(value)(x)
    assert abs(found) < 1e-13
    assert jnp.max(jnp.abs(gradient)) < 1e-11
    # Entropic transport alone pulls the points towards each other.
    assert jnp.max(jnp.abs(jax.grad(lambda x: transport.solve(x, x, epsilon=0.3).cost)(x))) > 1e-3


def test_gradient_agrees_with_differences_and_error_is_bounded(clouds):
    x, y = clouds
    direction = jax.random.normal(jax.random.key(5), x.shape)

    def result(x):
        return transport.sinkhorn_divergence(x, y, epsilon=0.3)

    found = result(x)
    assert found.converged
    assert 0 <= found.gap < 1e-10 < found.value
    numerical = (result(x + 1e-4 * direction).value - result(x - 1e-4 * direction).value) / 2e-4
    np.testing.assert_allclose(jnp.sum(jax.grad(lambda x: result(x).value)(x) * direction), numerical, rtol=1e-6)


def point_masses(distance, epsilon, strength, p, q):
    """Entropic unbalanced cost between masses p and q at two points, by its one stationary condition."""
    log_moved = (epsilon * np.log(p * q) + strength * np.log(p * q) - distance) / (epsilon + 2 * strength)
    moved = np.exp(log_moved)

    def kl(r):
        return moved * np.log(moved / r) - moved + r

    return distance * moved + epsilon * kl(p * q) + strength * (kl(p) + kl(q))


def test_masses_that_differ():
    epsilon, strength, p, q = 0.4, 1.3, 0.6, 2.1
    x, y = jnp.zeros((1, 1)), jnp.full((1, 1), 1.5)
    found = transport.sinkhorn_divergence(
        x, y, a=jnp.array([p]), b=jnp.array([q]), epsilon=epsilon, marginal_strength=strength, method="sinkhorn"
    )
    expected = (
        point_masses(2.25, epsilon, strength, p, q)
        - 0.5 * (point_masses(0.0, epsilon, strength, p, p) + point_masses(0.0, epsilon, strength, q, q))
        + 0.5 * epsilon * (p - q) ** 2
    )
    np.testing.assert_allclose(found.value, expected, rtol=1e-10)
    assert found.converged


@pytest.mark.parametrize("strength", [0.2, 5.0])
def test_unbalanced_divergence_is_positive_for_other_masses_at_the_same_points(clouds, strength):
    x, _ = clouds
    a = jnp.full((40,), 1 / 40)
    options = {"epsilon": 0.3, "marginal_strength": strength, "method": "sinkhorn"}
    same = transport.sinkhorn_divergence(x, x, a=a, b=a, **options)
    more = transport.sinkhorn_divergence(x, x, a=a, b=1.2 * a, **options)
    assert abs(same.value) < 1e-12
    assert more.value > 1e-3


def test_bad_input(clouds):
    x, y = clouds
    with pytest.raises(ValueError, match="expected a name or a function"):
        transport.sinkhorn_divergence(x, y, cost=jnp.zeros((40, 40)), epsilon=0.1)
    with pytest.raises(ValueError, match="expected None or one number"):
        transport.sinkhorn_divergence(x, y, epsilon=0.1, marginal_strength=(1.0, None))
