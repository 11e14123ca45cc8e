"""Transport on the line against linear programming."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.optimize import linprog

import pushforward as pf


def problem(seed, n=7, m=5):
    """Points with duplicates, weights with zeros: at the ends too."""
    rng = np.random.default_rng(seed)
    x, y = rng.normal(size=n).round(1), rng.normal(size=m).round(1)
    y[1] = y[0]
    a, b = rng.dirichlet(np.ones(n)), rng.dirichlet(np.ones(m))
    a[[np.argmin(x), 2, np.argmax(x)]] = 0.0
    return tuple(jnp.asarray(v) for v in (x, y, a / a.sum(), b))


def by_linear_programming(x, y, a, b, p):
    n, m = len(x), len(y)
    cost = np.abs(np.asarray(x)[:, None] - np.asarray(y)[None]) ** p
    rows, columns = np.kron(np.eye(n), np.ones(m)), np.kron(np.ones(n), np.eye(m))
    solved = linprog(cost.ravel(), A_eq=np.vstack([rows, columns[:-1]]), b_eq=np.concatenate([a, b[:-1]]))
    assert solved.status == 0
    return solved.fun


@pytest.mark.parametrize("p", [1.0, 1.5, 2.0, 3.0])
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_cost_and_plan(seed, p):
    x, y, a, b = problem(seed)
    found = pf.transport.one_dimensional(x, y, a=a, b=b, p=p)
    np.testing.assert_allclose(found.cost, by_linear_programming(x, y, a, b, p), rtol=1e-10, atol=1e-12)
    plan = np.asarray(found.matrix)
    assert plan.min() >= 0
    np.testing.assert_allclose(plan.sum(1), a, atol=1e-15)
    np.testing.assert_allclose(plan.sum(0), b, atol=1e-15)
    np.testing.assert_allclose((plan * np.abs(x[:, None] - y[None]) ** p).sum(), found.cost, rtol=1e-13)
    for mine, sums in zip(found.marginals(), (plan.sum(1), plan.sum(0)), strict=True):
        np.testing.assert_allclose(mine, sums, atol=1e-15)
    np.testing.assert_allclose(found.apply(jnp.stack([y, y**2], 1)), plan @ np.stack([y, y**2], 1), atol=1e-14)
    np.testing.assert_allclose(found.apply(x, transpose=True), plan.T @ x, atol=1e-14)
    np.testing.assert_allclose(found.barycentric(y)[a > 0], (plan @ y)[a > 0] / a[a > 0], rtol=1e-12)


def test_derivatives():
    """In points: sum_j P_ij p |x_i - y_j|^(p-1) sign; in weights: what a unit of mass more costs."""
    rng = np.random.default_rng(3)
    x, y = jnp.asarray(rng.normal(size=6)), jnp.asarray(rng.normal(size=4))
    a, b = jnp.asarray(rng.dirichlet(np.ones(6))), jnp.asarray(rng.dirichlet(np.ones(4)))
    cost = lambda x, y, a: pf.transport.one_dimensional(x, y, a=a, b=b, p=3.0).cost  # noqa: E731
    plan = pf.transport.one_dimensional(x, y, a=a, b=b, p=3.0).matrix
    gap = x[:, None] - y[None]
    np.testing.assert_allclose(jax.grad(cost)(x, y, a), (plan * 3 * gap * jnp.abs(gap)).sum(1), rtol=1e-12)
    along = jnp.asarray(rng.normal(size=6))
    along = along - along.mean()
    step = 1e-6
    change = (cost(x, y, a + step * along) - cost(x, y, a - step * along)) / (2 * step)
    np.testing.assert_allclose(jnp.vdot(jax.grad(cost, argnums=2)(x, y, a), along), change, rtol=1e-6)
    for p in (1.0, 1.5, 2.0):
        same = jax.grad(lambda z, p=p: pf.transport.one_dimensional(z, x, p=p).cost)(x)
        np.testing.assert_array_equal(same, 0.0)


def test_compiled_batched_and_in_single_precision():
    x, y, a, b = problem(4)
    many = jnp.stack([x, 2.0 * x])
    each = [pf.transport.one_dimensional(z, y, a=a, b=b).cost for z in many]
    batch = jax.jit(jax.vmap(lambda z: pf.transport.one_dimensional(z, y, a=a, b=b).cost))(many)
    np.testing.assert_allclose(batch, each, rtol=1e-14)
    found = pf.transport.one_dimensional(*(v.astype(jnp.float32) for v in (x, y)), a=a, b=b)
    assert found.cost.dtype == found.mass.dtype == jnp.float32
    np.testing.assert_allclose(found.cost, each[0], rtol=1e-5)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"x": jnp.zeros(0)}, "non-empty"),
        ({"x": jnp.zeros((3, 1))}, r"shape \(n\)"),
        ({"x": jnp.array([0.0, jnp.inf, 0.0])}, "at index"),
        ({"a": jnp.array([0.5, 0.5])}, "one weight per point"),
        ({"a": jnp.array([0.5, 0.7, -0.2])}, "negative weight"),
        ({"a": jnp.array([0.5, 0.5, 0.5])}, "sums to 1.5"),
        ({"p": 0.5}, "at least 1"),
    ],
)
def test_bad_input(change, says):
    with pytest.raises(ValueError, match=says):
        pf.transport.one_dimensional(**{"x": jnp.zeros(3), "y": jnp.zeros(2), **change})
