"""Axis by axis against all pairs at once."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pushforward.samplers import transport
from pushforward.samplers.transport._geometry import Dense
from pushforward.samplers.transport._grid import grid_geometry
from pushforward.samplers.transport._separable_rounding import rounded_parts

ONE = transport.Grid((jnp.linspace(0.0, 2.0, 5), jnp.array([0.0, 0.3, 1.0]), jnp.linspace(-1.0, 1.0, 4)))
OTHER = transport.Grid((jnp.linspace(0.5, 1.0, 4), jnp.array([0.1, 0.7]), jnp.linspace(-2.0, 1.0, 7)))


@pytest.fixture(scope="module")
def histograms():
    keys = jax.random.split(jax.random.key(4))
    a, b = jax.random.uniform(keys[0], (60,)).at[:7].set(0.0), jax.random.uniform(keys[1], (56,)).at[20].set(0.0)
    return a / jnp.sum(a), b / jnp.sum(b)


@pytest.mark.slow
@pytest.mark.parametrize("epsilon", [1.0, 1e-3])
def test_reductions(histograms, epsilon):
    separable = grid_geometry(ONE, OTHER, "sqeuclidean")
    dense = Dense(jnp.sum((ONE.points[:, None] - OTHER.points[None]) ** 2, axis=2))
    np.testing.assert_allclose(separable.cost_rows(jnp.arange(60)), dense.matrix, atol=1e-14)
    assert separable.shape == dense.shape
    keys = jax.random.split(jax.random.key(9), 3)
    f, g = 1e-3 * jax.random.normal(keys[0], (60,)), 1e-3 * jax.random.normal(keys[1], (56,))
    vectors, epsilon = jax.random.normal(keys[2], (56, 3)), jnp.array(epsilon)
    log_b = jnp.log(histograms[1])
    close = {"rtol": 1e-10, "atol": 1e-300}
    np.testing.assert_allclose(
        separable.log_marginal(f, g, log_b, epsilon), dense.log_marginal(f, g, log_b, epsilon), **close
    )
    ones = jnp.ones_like(vectors)
    for each in (ones, jnp.abs(vectors)):
        np.testing.assert_allclose(
            separable.push(f, g, log_b, epsilon, each), dense.push(f, g, log_b, epsilon, each), **close
        )
    signed = separable.push(f, g, log_b, epsilon, vectors) - dense.push(f, g, log_b, epsilon, vectors)
    assert jnp.max(jnp.abs(signed)) < 1e-12 * jnp.max(dense.push(f, g, log_b, epsilon, ones))
    costly = jnp.exp((f[:, None] + g[None] - dense.matrix) / epsilon) * histograms[1] * dense.matrix
    np.testing.assert_allclose(
        separable.push_cost(f, g, log_b, epsilon, jnp.abs(vectors)), costly @ jnp.abs(vectors), **close
    )
    np.testing.assert_allclose(separable.mean_cost(histograms[1]), dense.matrix @ histograms[1], rtol=1e-12)
    np.testing.assert_allclose(
        separable.density(f, g, histograms[1], epsilon), dense.density(f, g, histograms[1], epsilon), **close
    )
    assert separable.spread(*histograms) >= dense.spread(*histograms)


def test_derivatives_of_reductions(histograms):
    separable = grid_geometry(ONE, OTHER, "sqeuclidean")
    matrix = Dense(jnp.sum((ONE.points[:, None] - OTHER.points[None]) ** 2, axis=2))
    f, g, epsilon = jnp.zeros((60,)), jnp.zeros((56,)), jnp.array(0.5)

    def total(geometry, f, g, b, epsilon):
        return jnp.sum(jnp.sin(geometry.density(f, g, b, epsilon)))

    found = jax.grad(total, (1, 2, 3, 4))(separable, f, g, histograms[1], epsilon)
    expected = jax.grad(total, (1, 2, 3, 4))(matrix, f, g, histograms[1], epsilon)
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-10)


@pytest.mark.parametrize("epsilon", [0.3, 0.01])
def test_solutions_are_those_of_stored_costs(histograms, epsilon):
    a, b = histograms
    found = transport.solve(ONE, OTHER, a=a, b=b, epsilon=epsilon)
    stored = transport.solve(ONE.points, OTHER.points, a=a, b=b, epsilon=epsilon)
    assert found.converged
    np.testing.assert_allclose(found.plan, stored.plan, atol=1e-10)
    np.testing.assert_allclose(found.cost, stored.cost, rtol=1e-10)
    np.testing.assert_allclose(found.linear_cost, stored.linear_cost, rtol=1e-9)
    assert found.gap < 1e-9
    np.testing.assert_allclose(found.apply(OTHER.points), stored.plan @ OTHER.points, atol=1e-10)
    np.testing.assert_array_equal(found.match()[7:], stored.match()[7:])


def test_gap_of_an_unfinished_plan_covers_its_distance_to_the_optimum(histograms):
    a, b = histograms
    options = {"a": a, "b": b, "epsilon": 0.1}
    truth = transport.solve(ONE, OTHER, **options).cost
    rough = transport.solve(ONE, OTHER, method="sinkhorn", max_sweeps=1, **options)
    stored = transport.solve(ONE.points, OTHER.points, method="sinkhorn", max_sweeps=1, **options)
    assert not rough.converged
    assert rough.dual <= truth <= rough.primal
    assert rough.primal - rough.dual <= rough.gap * (1 + 1e-9)
    assert stored.gap <= rough.gap < 3 * stored.gap


def test_gradient_in_an_axis(histograms):
    a, b = histograms

    def value(axis, nodes):
        grid = transport.Grid((axis, *ONE.axes[1:]))
        options = {"a": a, "b": b, "epsilon": 0.3, "method": "sinkhorn"}
        if nodes:
            return transport.solve(grid.points, OTHER.points, **options).cost
        return transport.solve(grid, OTHER, **options).cost

    np.testing.assert_allclose(jax.grad(value)(ONE.axes[0], False), jax.grad(value)(ONE.axes[0], True), rtol=1e-8)


def test_bad_input(histograms):
    with pytest.raises(ValueError, match="expected both"):
        transport.solve(ONE, OTHER.points, epsilon=0.1)
    with pytest.raises(ValueError, match="sum over axes"):
        transport.solve(ONE, OTHER, cost="euclidean", epsilon=0.1)
    with pytest.raises(ValueError, match="expected the same number"):
        transport.solve(ONE, transport.Grid(OTHER.axes[:2]), epsilon=0.1)
    with pytest.raises(ValueError, match="expected a sequence"):
        transport.Grid(jnp.zeros((3, 3)))
    with pytest.raises(ValueError, match="are not finite"):
        transport.Grid((jnp.array([0.0, jnp.nan]),))
    with pytest.raises(ValueError, match=r"expected one weight per point, \(60,\)"):
        transport.solve(ONE, OTHER, a=histograms[0].reshape(5, 3, 4), epsilon=0.1)


def test_links_in_batches(histograms, monkeypatch):
    separable = grid_geometry(ONE, OTHER, "l1")
    options = jnp.zeros((60,)), jnp.zeros((56,)), jnp.log(histograms[1]), jnp.array(0.05)
    whole = separable.log_marginal(*options)
    monkeypatch.setattr("pushforward.samplers.transport._grid._BATCH", 100)
    np.testing.assert_allclose(separable.log_marginal(*options), whole, rtol=1e-13)


def test_bounds_of_a_rounded_plan(histograms):
    _, b = histograms
    separable, epsilon = grid_geometry(ONE, OTHER, "sqeuclidean"), jnp.array(0.4)
    cost = separable.cost_rows(jnp.arange(60))
    keys = jax.random.split(jax.random.key(6), 6)
    f, g = 0.3 * jax.random.normal(keys[0], (60,)), 0.3 * jax.random.normal(keys[1], (56,))
    rows, columns = jax.random.uniform(keys[2], (60,), minval=0.5), jax.random.uniform(keys[3], (56,), minval=0.5)
    left, right = (
        jax.random.uniform(keys[4], (60,)).at[:30].set(0.0),
        jax.random.uniform(keys[5], (56,)).at[:9].set(0.0),
    )
    found = rounded_parts(separable, epsilon, (f, rows, left), (g, b, columns, right))

    density = jnp.exp((f[:, None] + g[None, :] - cost) / epsilon)
    kept, added = rows[:, None] * columns[None, :] * density, left[:, None] * right[None, :]
    whole = kept + added
    part = ((added @ b) / (whole @ b))[:, None]

    def entropy(mass, reference):
        return jnp.where(mass > 0, mass * jnp.log(jnp.where(mass > 0, mass / reference, 1.0)), 0.0)

    def both(reference):
        bound = entropy(kept, (1 - part) * reference) + entropy(added, jnp.where(part > 0, part, 1.0) * reference)
        return (bound - whole + reference) @ b, (entropy(whole, reference) - whole + reference) @ b

    for value, (bound, exact) in ((found[1], both(jnp.ones_like(density))), (found[2], both(density))):
        np.testing.assert_allclose(value, bound, rtol=1e-10, atol=1e-12)
        np.testing.assert_allclose(value[:30], exact[:30], rtol=1e-10, atol=1e-12)
        assert jnp.all(value[30:] > exact[30:])
    np.testing.assert_allclose(found[0], (whole * cost) @ b, rtol=1e-11)
    np.testing.assert_allclose(found[3], whole @ b, rtol=1e-11)
