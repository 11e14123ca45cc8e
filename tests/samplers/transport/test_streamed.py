"""Clouds whose costs are never stored: equal to stored ones, with memory that is linear in the points."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from oracles.transport_problems import clouds

import pushforward as pf
from pushforward.samplers.transport import _arguments


def bent(x, y):
    """A cost of the user's own: not symmetric."""
    return jnp.sum(jnp.abs(x - y) ** 1.5) + 0.1 * jnp.sin(jnp.sum(x))


@pytest.mark.parametrize("cost", ["sqeuclidean", bent])
def test_streamed_equals_stored(cost, monkeypatch):
    x, y, a, b = clouds(0, dim=3, n=70)
    y, b = y[:63], b[:63] / b[:63].sum()
    given = {"a": a, "b": b, "cost": cost, "epsilon": 0.1}
    stored = pf.transport.solve(x, y, **given)
    monkeypatch.setattr(_arguments, "_DENSE_LIMIT", 0)
    streamed = pf.transport.solve(x, y, **given)
    assert stored.converged
    assert streamed.converged
    np.testing.assert_allclose(streamed.cost, stored.cost, rtol=1e-11)
    np.testing.assert_allclose(streamed.plan, stored.plan, atol=1e-12)
    np.testing.assert_allclose(streamed.apply(y), stored.apply(y), atol=1e-12)
    np.testing.assert_array_equal(streamed.match()[a > 0], stored.match()[a > 0])
    # A marginal error of 1e-12, times the range of the potentials.
    assert streamed.gap < 1e-11


@pytest.mark.parametrize("cost", ["sqeuclidean", bent])
def test_memory_of_a_streamed_problem(cost):
    """20,000 by 20,000 points in three dimensions, read off the compiled program: 3.2 GB would be stored in float64."""
    x = jax.ShapeDtypeStruct((20_000, 3), jnp.float32)

    def value(x, y):
        found = pf.transport.solve(x, y, cost=cost, epsilon=0.05)
        return found.cost, found.potentials, found.gap

    memory = jax.jit(value).lower(x, x).compile().memory_analysis()
    assert memory.temp_size_in_bytes + memory.output_size_in_bytes < 30e6
