"""The light Schroedinger bridge: its formulas against quadrature, its fit against plans known in closed form."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from oracles.schroedinger import draws, errors, true_plan
from tiers import fast

import pushforward as pf

EPSILON = 0.7
GRID = np.linspace(-25.0, 25.0, 20_001)


def line(x_mean=0.4, y_mean=-0.3):
    """Three components on the line, off the origin."""
    given = jnp.array([0.3, -0.5, 0.1]), jnp.array([[-2.0], [0.5], [1.5]]), jnp.array([[[0.4]], [[1.6]], [[0.9]]])
    return pf.transport.LightSB(*given, EPSILON, x_mean=jnp.array([x_mean]), y_mean=jnp.array([y_mean]))


def conditional_density(plan, x):
    """exp(<x, y> / epsilon) v(y), normalised on the grid."""
    centred = (x - plan.x_mean[0]) * (GRID - plan.y_mean[0]) / EPSILON
    density = np.exp(centred + np.asarray(plan.log_potential(GRID[:, None])))
    return density / np.trapezoid(density, GRID)


def test_potential_is_the_mixture_it_was_made_of():
    plan = line()
    terms = zip(plan.log_weights, plan.locations[:, 0] + plan.y_mean[0], plan.scales[:, 0, 0] * EPSILON, strict=True)
    truth = sum(np.exp(w - (GRID - r) ** 2 / (2 * s)) / np.sqrt(2 * np.pi * s) for w, r, s in terms)
    found = np.exp(plan.log_potential(GRID[:, None]))
    np.testing.assert_allclose(found, truth, rtol=1e-9, atol=1e-300)


@pytest.mark.parametrize("x", [-1.3, 2.1])
def test_plan_against_quadrature(x):
    plan = line()
    density = conditional_density(plan, x)
    mean = np.trapezoid(density * GRID, GRID)
    found = plan.moments(jnp.array([x]))
    np.testing.assert_allclose(found[0][0], mean, rtol=1e-9)
    np.testing.assert_allclose(found[1][0, 0], np.trapezoid(density * (GRID - mean) ** 2, GRID), rtol=1e-9)
    places = jnp.array([[-1.0], [0.2], [3.0]])
    log_prob = plan.log_prob(jnp.full((3, 1), x), places)
    np.testing.assert_allclose(log_prob, np.log(np.interp(places[:, 0], GRID, density)), atol=1e-5)


@pytest.mark.parametrize("time", [0.0, 0.35, 0.9])
@pytest.mark.parametrize("x", [-1.3, 2.1])
def test_drift_against_quadrature(time, x):
    """The drift is epsilon d/dx log of the heat flow of v(y) exp((|y|^2 / 2 - x_mean y) / epsilon)."""
    plan = line()
    log_phi = np.asarray(plan.log_potential(GRID[:, None])) + (GRID**2 / 2 - plan.x_mean[0] * GRID) / EPSILON

    def log_heat(x):
        exponent = log_phi - (GRID - x) ** 2 / (2 * EPSILON * (1 - time))
        return exponent.max() + np.log(np.trapezoid(np.exp(exponent - exponent.max()), GRID))

    step = 1e-4
    slope = (log_heat(x + step) - log_heat(x - step)) / (2 * step)
    np.testing.assert_allclose(plan.drift(time, jnp.array([x]))[0], EPSILON * slope, rtol=1e-6)


@pytest.mark.parametrize("full", [True, False])
def test_draws_and_paths_have_the_moments_of_the_plan(full, getkey):
    """Within five standard errors (false alarms below 1e-6 each): ends, and the bridge half way."""
    plan = true_plan(2, 1.0, 0)
    if not full:
        plan = pf.transport.LightSB(plan.log_weights, plan.locations, jnp.diagonal(plan.scales, axis1=1, axis2=2), 1.0)
    num, x = 40_000, jnp.array([0.5, -1.0])
    mean, covariance = plan.moments(x)
    starts = jnp.broadcast_to(x, (num, 2))
    paths = plan.sample_paths(getkey(), starts, jnp.array([0.0, 0.5, 1.0]))
    np.testing.assert_array_equal(paths[0], starts)
    half = 0.25 * covariance + 0.25 * jnp.eye(2)
    for found, m, c in (
        (plan.sample(getkey(), starts), mean, covariance),
        (paths[2], mean, covariance),
        (paths[1], 0.5 * (x + mean), half),
    ):
        deviation = np.asarray(found - m)
        assert (np.abs(deviation.mean(0)) < 5 * np.sqrt(np.diag(c) / num)).all()
        products = deviation[:, :, None] * deviation[:, None, :]
        assert (np.abs(products.mean(0) - c) < 5 * products.std(0) / num**0.5).all()


def test_the_drift_leads_where_the_plan_says(getkey):
    """Euler-Maruyama from one point; the bias of 100 steps is of order 1 %, the noise below."""
    plan, num, steps = true_plan(2, 1.0, 1), 20_000, 100
    x = jnp.array([0.5, -1.0])

    def step(carry, given):
        index, key = given
        drift = plan.drift(index / steps, carry)
        return carry + drift / steps + jax.random.normal(key, carry.shape) / steps**0.5, None

    times, keys = jnp.arange(steps, dtype=float), jax.random.split(getkey(), steps)
    ends = np.asarray(jax.jit(lambda: jax.lax.scan(step, jnp.broadcast_to(x, (num, 2)), (times, keys))[0])())
    mean, covariance = plan.moments(x)
    unit = float(jnp.trace(covariance))
    assert np.sum((ends.mean(0) - mean) ** 2) < 2e-3 * unit
    assert np.abs(np.cov(ends.T) - covariance).max() < 0.03 * unit


@pytest.mark.parametrize("epsilon", [0.05, 1.0, 30.0])
def test_one_component_is_the_gaussian_plan(epsilon, getkey):
    """Also with weights: the closed form for the weighted moments, in two or three steps."""
    x, y = (
        jax.random.normal(getkey(), (50, 3)) @ jnp.diag(jnp.array([1.0, 3.0, 0.2])),
        jax.random.gamma(getkey(), 2.0, (40, 3)),
    )
    a = jax.random.dirichlet(getkey(), jnp.ones(50))
    plan = pf.transport.LightSB.fit(getkey(), x, y, a=a, epsilon=epsilon, num_components=1)
    spread = [jnp.cov(x.T, aweights=a, bias=True), jnp.cov(y.T, bias=True)]
    truth = pf.transport.gaussian_transport(a @ x, spread[0], y.mean(0), spread[1], 2 * epsilon)
    np.testing.assert_allclose(plan.scales[0], truth.linear_map, rtol=1e-3, atol=1e-4)
    np.testing.assert_allclose(plan.moments(x)[0], truth.barycentric(x), rtol=1e-3, atol=1e-3)
    assert plan.record.converged


@pytest.mark.parametrize("epsilon", fast([0.1, 1.0, 10.0], 0.1))
def test_fit_in_two_dimensions(epsilon, getkey, figure):
    truth = true_plan(2, epsilon, 0)
    plan = pf.transport.LightSB.fit(getkey(), *draws(truth, getkey(), 8_000), epsilon=epsilon)
    conditional, marginal = errors(plan, truth, getkey())
    figure(f"LightSB, d = 2, epsilon = {epsilon}, conditional error, per cent", conditional, "2")
    figure(f"LightSB, d = 2, epsilon = {epsilon}, error, per cent", marginal, "1")
    assert conditional < 2
    assert marginal < 1
    assert plan.record.converged


@pytest.mark.slow
@pytest.mark.parametrize("epsilon", [0.1, 1.0, 10.0])
def test_fit_in_sixteen_dimensions(epsilon, getkey, figure):
    truth = true_plan(16, epsilon, 0)
    plan = pf.transport.LightSB.fit(getkey(), *draws(truth, getkey(), 20_000), epsilon=epsilon)
    conditional, marginal = errors(plan, truth, getkey())
    figure(f"LightSB, d = 16, epsilon = {epsilon}, conditional error, per cent", conditional, "2")
    figure(f"LightSB, d = 16, epsilon = {epsilon}, error, per cent", marginal, "1")
    assert conditional < 2
    assert marginal < 1


@pytest.mark.parametrize("covariance", ["full", "diagonal"])
def test_units_and_origins_change_nothing(covariance, getkey):
    """Points c x + u and c y + w with epsilon c^2 have the same plan in their units."""
    truth = true_plan(2, 0.5, 2)
    key, (x, y), scale = getkey(), draws(truth, getkey(), 400), 30.0
    settings = {"num_components": 4, "covariance": covariance, "max_steps": 40}
    plan = pf.transport.LightSB.fit(key, x, y, epsilon=0.5, **settings)
    u, w = jnp.array([100.0, -5.0]), jnp.array([3.0, 70.0])
    other = pf.transport.LightSB.fit(key, scale * x + u, scale * y + w, epsilon=0.5 * scale**2, **settings)
    mean, spread = plan.moments(x[:20])
    found = other.moments(scale * x[:20] + u)
    np.testing.assert_allclose(found[0], scale * mean + w, rtol=1e-5)
    np.testing.assert_allclose(found[1], scale**2 * spread, rtol=1e-4, atol=1e-2)
    drift = other.drift(0.5, scale * x[:5] + 0.5 * (u + w))
    np.testing.assert_allclose(drift, scale * plan.drift(0.5, x[:5]) + w - u, rtol=1e-5)


def test_from_samplers_in_single_precision(getkey):
    draw_x = lambda key, num: jax.random.normal(key, (num, 2), jnp.float32)  # noqa: E731
    draw_y = lambda key, num: 3.0 + 0.5 * jax.random.normal(key, (num, 2), jnp.float32)  # noqa: E731
    plan = pf.transport.LightSB.fit(getkey(), draw_x, draw_y, epsilon=0.1, num_samples=2000, num_components=2)
    assert {v.dtype for v in (*plan.moments(jnp.zeros((3, 2), jnp.float32)), plan.scales)} == {jnp.dtype("float32")}
    # s x + 3 with s^2 + 0.1 s = 0.25.
    slope = (-0.1 + np.sqrt(0.01 + 1.0)) / 2
    found = plan.moments(jnp.array([[1.0, -1.0]], jnp.float32))[0][0]
    np.testing.assert_allclose(found, 3 + slope * np.array([1.0, -1.0]), atol=0.1)


@pytest.mark.parametrize("points", [jnp.zeros((30, 2)), jnp.repeat(jnp.eye(2), 15, axis=0)])
def test_degenerate_clouds(points, getkey):
    """One point thirty times; two points, for eight components."""
    x = jax.random.normal(getkey(), (30, 2))
    for first, second in ((x, points), (points, x)):
        plan = pf.transport.LightSB.fit(getkey(), first, second, epsilon=0.1, num_components=8)
        mean, spread = plan.moments(first)
        assert jnp.isfinite(mean).all()
        assert jnp.isfinite(spread).all()


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"epsilon": 0.0}, "epsilon=0: expected a positive"),
        ({"epsilon": jnp.nan}, "epsilon=nan: expected a positive"),
        ({"x": jnp.zeros((3, 1))}, "1 dimensions and y of 2"),
        ({"y": jnp.full((3, 2), jnp.inf)}, "inf at index"),
        ({"y": jnp.zeros((0, 2))}, "non-empty"),
        ({"a": jnp.array([0.5, 0.2, 0.2])}, "sums to 0.9"),
        ({"y": lambda key, num: jnp.zeros((num, 2)), "b": jnp.ones(3) / 3}, "equal weight"),
        ({"covariance": "low"}, "'full' or 'diagonal'"),
        ({"num_components": 0}, "at least 1"),
        ({"key": 1}, "typed key"),
    ],
)
def test_bad_input(change, says):
    given = {"key": jax.random.key(0), "x": jnp.zeros((3, 2)), "y": jnp.zeros((3, 2)), "epsilon": 1.0, **change}
    with pytest.raises(ValueError, match=says):
        pf.transport.LightSB.fit(given.pop("key"), given.pop("x"), given.pop("y"), **given)


def test_bad_potentials_and_points():
    good = jnp.zeros(2), jnp.zeros((2, 3)), jnp.ones((2, 3)), 1.0
    plan = pf.transport.LightSB(*good)
    with pytest.raises(ValueError, match="not positive definite"):
        pf.transport.LightSB(*good[:2], -good[2], 1.0)
    with pytest.raises(ValueError, match="expected"):
        pf.transport.LightSB(jnp.zeros(3), *good[1:])
    with pytest.raises(ValueError, match="3 dimensions"):
        plan.drift(0.5, jnp.zeros((4, 2)))
    with pytest.raises(ValueError, match="increasing times"):
        plan.sample_paths(jax.random.key(0), jnp.zeros(3), jnp.array([0.5, 0.2]))


def test_fit_in_compiled_code(getkey):
    """With a number of components; without one it says what is missing."""
    x, y = jax.random.normal(getkey(), (40, 2)), 2.0 + jax.random.normal(getkey(), (40, 2))
    key = getkey()
    settings = {"epsilon": 0.5, "num_components": 1}
    found = jax.jit(lambda x: pf.transport.LightSB.fit(key, x, y, **settings).locations)(x)
    np.testing.assert_allclose(found, pf.transport.LightSB.fit(key, x, y, **settings).locations, rtol=1e-9, atol=1e-12)
    with pytest.raises(ValueError, match="inside compiled code"):
        jax.jit(lambda x: pf.transport.LightSB.fit(key, x, y, epsilon=0.5).locations)(x)
