"""The distance of two sets of samples by entropic transport."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import pushforward as pf

X = np.random.default_rng(0).normal(size=(80, 3)) * [1.0, 2.0, 0.5]
SHIFT = np.asarray([1.0, -2.0, 2.0])


@pytest.mark.parametrize("epsilon", [None, 5.0])
def test_a_shift_is_its_length(epsilon):
    found = pf.sinkhorn_distance(X, X + SHIFT, epsilon=epsilon)
    np.testing.assert_allclose(found.value, 3.0, rtol=1e-9)
    assert found.num_points == (80, 80)


def test_equal_sets_are_no_distance_apart():
    np.testing.assert_allclose(float(pf.sinkhorn_distance(X, X[::-1])), 0.0, atol=1e-5)


def test_bad_input():
    with pytest.raises(ValueError, match="positive number"):
        pf.sinkhorn_distance(X, X, epsilon=-1.0)
    with pytest.raises(ValueError, match="3 and 2 dimensions"):
        pf.sinkhorn_distance(X, X[:, :2])


def test_between_posteriors():
    """A posterior of half the sd is farther away than a second sample of the same."""

    def fit(precision, seed):
        target = pf.from_logdensity(lambda x: -0.5 * precision * jnp.sum(x**2), jnp.zeros(2))
        return pf.fit(target, pf.MeanField(), num_steps=10, key=jax.random.key(seed), num_draws=400)

    fits = {"exact": fit(1.0, 0), "again": fit(1.0, 1), "narrow": fit(4.0, 2)}
    table = pf.compare(fits, distance="sinkhorn").table
    assert table.loc["exact", "distance"] < 1e-5
    # Two normals whose sds differ by a half in two dimensions are sqrt(2) / 2 apart; epsilon makes it less.
    assert table.loc["again", "distance"] < 0.3 < table.loc["narrow", "distance"] < 0.75
    with pytest.raises(ValueError, match="sinkhorn"):
        pf.compare(fits, distance="wasserstein")
