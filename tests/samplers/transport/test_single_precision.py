"""Float32: what is said of a plan is true when computed again in float64, and nothing is NaN."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from oracles.transport_problems import clouds, marginal_error, optimum, random_costs
from tiers import fast

import pushforward as pf

SHARES = (1e-1, 1e-2, 1e-3, 1e-4)
"""Epsilon over the mean cost."""
SETS = [("costs", 0), ("costs", 1), ("clouds", 2), ("clouds", 10), ("euclidean", 2)]


def squared(x, y):
    x, y = np.asarray(x, np.float64), np.asarray(y, np.float64)
    return np.maximum(np.sum(x**2, 1)[:, None] + np.sum(y**2, 1) - 2.0 * x @ y.T, 0.0)


def solved(what, which, share, tolerance):
    """A float32 plan, and its costs and weights in float64."""
    if what == "costs":
        cost, *weights = random_costs(which)
        matrix = np.asarray(cost, np.float32)
        exact = matrix.astype(np.float64)
        a, b = (np.asarray(w, np.float32) for w in weights)
        given = {"cost": matrix}
    else:
        x, y, a, b = (v.astype(np.float32) for v in clouds(7, which))
        exact = squared(x, y)
        exact = np.sqrt(exact) if what == "euclidean" else exact
        given = {"x": x, "y": y, "cost": "euclidean" if what == "euclidean" else "sqeuclidean"}
    epsilon = np.float32(share * np.mean(exact))
    with jax.enable_x64(False):
        found = pf.transport.solve(**given, a=a, b=b, epsilon=epsilon, tolerance=tolerance)
        assert found.precision == "float32"
        assert found.cost.dtype == jnp.float32

        def value(weights):
            return pf.transport.solve(**given, a=weights, b=b, epsilon=epsilon, tolerance=tolerance).cost

        slope = jax.grad(value)(jnp.asarray(a))
    # The weights that the plan was made with, which float32 has normalised.
    a, b = (np.asarray(w, np.float64) for w in (found.problem.a, found.problem.b))
    return found, np.asarray(slope), exact, a, b, float(epsilon)


@pytest.mark.parametrize("tolerance", [None, 1e-4])
@pytest.mark.parametrize("share", SHARES)
@pytest.mark.parametrize(("what", "which"), fast(SETS, ("euclidean", 2), several=True))
def test_truth_in_single_precision(what, which, share, tolerance):
    found, slope, cost, a, b, epsilon = solved(what, which, share, tolerance)
    leaves = (found.cost, found.gap, found.dual, found.primal, *found.potentials, slope)
    assert all(np.all(np.isfinite(leaf)) for leaf in leaves)
    error = marginal_error(cost, a, b, found.potentials, epsilon)
    assert bool(found.converged) == (error <= float(found.tolerance)), (error, found.marginal_error, found.tolerance)
    best = optimum(cost, a, b, found.potentials, epsilon)
    assert float(found.gap) >= max(float(found.primal) - best, best - float(found.dual), 0.0)
