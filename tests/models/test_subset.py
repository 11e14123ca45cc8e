"""Minibatch indices: distinct, and every index equally likely."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

from pushforward.models._subset import draw_subset

DRAWS = 20_000


@pytest.mark.parametrize(("size", "count"), [(47, 5), (40, 5), (9, 1), (10, 10), (11, 4), (16, 15)])
def test_indices_are_distinct_and_equally_likely(size, count, getkey):
    """z-tests of every index's frequency at a family-wise rate of 1e-6; stratified and simple draws."""
    drawn = np.asarray(jax.jit(jax.vmap(lambda k: draw_subset(k, size, count)))(jax.random.split(getkey(), DRAWS)))
    assert drawn.min() >= 0
    assert drawn.max() < size
    assert all(len(set(row)) == count for row in drawn[:2000])
    probability = count / size
    frequency = np.bincount(drawn.ravel(), minlength=size) / DRAWS
    se = max(np.sqrt(probability * (1 - probability) / DRAWS), 1e-12)
    assert np.max(np.abs(frequency - probability)) / se < scipy.stats.norm.isf(1e-6 / (2 * size))


def test_pairs_of_a_simple_draw_are_equally_likely(getkey):
    size, count = 6, 3
    drawn = jax.jit(jax.vmap(lambda k: draw_subset(k, size, count)))(jax.random.split(getkey(), DRAWS))
    member = np.zeros((DRAWS, size))
    np.put_along_axis(member, np.asarray(drawn), 1.0, axis=1)
    together = (member.T @ member / DRAWS)[np.triu_indices(size, 1)]
    probability = count * (count - 1) / (size * (size - 1))
    z = (together - probability) / np.sqrt(probability * (1 - probability) / DRAWS)
    assert np.max(np.abs(z)) < scipy.stats.norm.isf(1e-6 / (2 * len(z)))


def test_cost_does_not_depend_on_the_number_of_data():
    def operations(size):
        return str(jax.make_jaxpr(lambda k: draw_subset(k, size, 100))(jax.random.key(0)).jaxpr).count("=")

    assert operations(10**4) == operations(10**8)
    indices = draw_subset(jax.random.key(0), 10**9, 100)
    assert bool(jnp.all((indices >= 0) & (indices < 10**9)))
