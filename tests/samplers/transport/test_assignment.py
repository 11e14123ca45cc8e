"""Assignment against SciPy's."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.optimize import linear_sum_assignment

import pushforward as pf


def costs(kind, n, m, seed=0):
    rng = np.random.default_rng(seed)
    if kind == "ties":
        return rng.integers(0, 4, size=(n, m)).astype(float)
    if kind == "signed":
        return rng.normal(size=(n, m))
    return ((rng.normal(size=(n, 1, 2)) - rng.normal(size=(1, m, 2))) ** 2).sum(-1)


@pytest.mark.parametrize("kind", ["points", "signed", "ties"])
@pytest.mark.parametrize(("n", "m"), [(1, 1), (2, 2), (30, 30), (30, 47), (150, 150)])
def test_matching_and_its_proof(kind, n, m):
    given = costs(kind, n, m)
    found = pf.transport.assignment(jnp.asarray(given))
    columns = np.asarray(found.columns)
    assert len(set(columns)) == n
    np.testing.assert_allclose(found.cost, given[np.arange(n), columns].sum(), rtol=1e-13)
    np.testing.assert_allclose(found.cost, given[linear_sum_assignment(given)].sum(), rtol=1e-12)
    u, v = map(np.asarray, found.potentials)
    slack = given - u[:, None] - v[None]
    assert slack.min() >= -1e-12
    np.testing.assert_allclose(slack[np.arange(n), columns], 0.0, atol=1e-12)
    free = np.setdiff1d(np.arange(m), columns)
    np.testing.assert_array_equal(v[free], 0.0)
    assert n == m or v.max() <= 0
    assert abs(float(found.gap)) <= 1e-11


def test_batched_differentiable_and_in_single_precision():
    many = jnp.asarray(np.stack([costs("points", 12, 15, seed) for seed in range(3)]))
    batch = jax.vmap(pf.transport.assignment)(many)
    for given, columns in zip(np.asarray(many), batch.columns, strict=True):
        np.testing.assert_array_equal(columns, linear_sum_assignment(given)[1])
    slope = jax.grad(lambda c: pf.transport.assignment(c).cost)(many[0])
    np.testing.assert_array_equal(slope, jax.nn.one_hot(batch.columns[0], 15))
    single = pf.transport.assignment(many[0].astype(jnp.float32))
    assert single.cost.dtype == jnp.float32
    assert abs(float(single.gap)) < 1e-4
    np.testing.assert_allclose(single.cost, batch.cost[0], rtol=1e-5)


@pytest.mark.slow
def test_thousand_rows():
    given = costs("points", 1000, 1000)
    found = pf.transport.assignment(jnp.asarray(given))
    np.testing.assert_allclose(found.cost, given[linear_sum_assignment(given)].sum(), rtol=1e-12)
    assert abs(float(found.gap)) <= 1e-9


@pytest.mark.parametrize(
    ("given", "says"),
    [
        (jnp.zeros((3, 2)), "costs.T"),
        (jnp.zeros((0, 2)), "non-empty"),
        (jnp.array([[0.0, jnp.nan]]), r"nan at index \(0, 1\)"),
        (jnp.zeros((2, 2), int), "floating-point"),
    ],
)
def test_bad_input(given, says):
    with pytest.raises(ValueError, match=says):
        pf.transport.assignment(given)
