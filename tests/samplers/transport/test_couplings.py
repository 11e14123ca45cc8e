"""Pairs of batches: cheapest, drawn, conditioned."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.optimize import linear_sum_assignment

from pushforward.samplers import transport


@pytest.fixture(scope="module")
def batches():
    keys = jax.random.split(jax.random.key(11))
    return jax.random.normal(keys[0], (24, 2)), 1.5 * jax.random.normal(keys[1], (24, 2)) + 1.0


def squared(x, y):
    return np.sum((np.asarray(x)[:, None] - np.asarray(y)[None]) ** 2, axis=2)


def is_permutation(columns):
    return sorted(np.asarray(columns).tolist()) == list(range(len(columns)))


def test_the_cheapest_matching(batches, getkey):
    x, y = batches
    rows, columns = jax.jit(transport.coupling)(getkey(), x, y)
    _, expected = linear_sum_assignment(squared(x, y))
    np.testing.assert_array_equal(rows, np.arange(24))
    np.testing.assert_array_equal(columns, expected)
    again, drawn = transport.coupling(getkey(), x, y, replace=True)
    np.testing.assert_array_equal(drawn, expected[np.asarray(again)])
    assert len(set(np.asarray(again).tolist())) < 24


def test_more_data_than_noise(batches, getkey):
    x, y = batches
    _, columns = transport.coupling(getkey(), x[:9], y)
    np.testing.assert_array_equal(columns, linear_sum_assignment(squared(x[:9], y))[1])
    rows, columns = transport.coupling(getkey(), x, y[:9], replace=True)
    match = dict(zip(*linear_sum_assignment(squared(x, y[:9])), strict=True))
    assert all(match[int(i)] == int(j) for i, j in zip(rows, columns, strict=True))


@pytest.mark.parametrize("epsilon", [None, 0.3])
def test_labels_are_kept(batches, getkey, epsilon):
    x, y = batches
    labels = jax.random.randint(getkey(), (24,), 0, 3)
    rows, columns = jax.jit(lambda key: transport.coupling(key, x, y, condition=labels, epsilon=epsilon))(getkey())
    assert is_permutation(columns)
    np.testing.assert_array_equal(labels[rows], labels[columns])
    if epsilon is None:
        costs = squared(x, y)
        for label in range(3):
            (member,) = np.nonzero(np.asarray(labels) == label)
            _, best = linear_sum_assignment(costs[np.ix_(member, member)])
            np.testing.assert_array_equal(np.asarray(columns)[member], member[best])


def test_conditions_with_a_distance(batches, getkey):
    x, y = batches
    condition = jax.random.normal(getkey(), (24, 2))
    _, columns = transport.coupling(getkey(), x, y, condition=condition, condition_weight=2.0)
    _, expected = linear_sum_assignment(squared(x, y) + 2.0 * squared(condition, condition))
    np.testing.assert_array_equal(columns, expected)
    _, kept = transport.coupling(getkey(), x, y, condition=condition, condition_weight=1e6)
    np.testing.assert_array_equal(kept, np.arange(24))
    other = condition[::-1]
    _, columns = transport.coupling(getkey(), x, y, condition=(condition, other), condition_weight=1e6)
    np.testing.assert_array_equal(columns, np.arange(24)[::-1])


def test_drawn_without_replacement_goes_from_the_matching_to_independence(batches, getkey):
    x, y = batches

    @jax.jit
    def draw(keys, epsilon):
        return jax.vmap(lambda key: transport.coupling(key, x, y, epsilon=epsilon)[1])(keys)

    keys = jax.random.split(getkey(), 2000)
    costs = squared(x, y)
    found = {epsilon: np.asarray(draw(keys, jnp.array(epsilon))) for epsilon in (0.003, 1.0, 1e5)}
    assert all(is_permutation(columns) for columns in found[1.0][:50])
    _, best = linear_sum_assignment(costs)
    assert np.mean(np.all(found[0.003] == best, axis=1)) > 0.9
    # Every pair equally often: 576 counts of 2000 draws of probability 1 / 24, five sigma each at most (3e-4 in all).
    counts = np.stack([np.sum(found[1e5] == j, axis=0) for j in range(24)])
    assert np.max(np.abs(counts - 2000 / 24)) < 5 * np.sqrt(2000 / 24 * (23 / 24))
    plan = transport.solve(x, y, epsilon=1.0)
    drawn_cost = np.mean(costs[np.arange(24), found[1.0]])
    spread = np.mean(costs) - costs[np.arange(24), best].mean()
    assert abs(drawn_cost - np.sum(plan.plan * costs)) < 0.1 * spread
    assert drawn_cost > costs[np.arange(24), best].mean()


def test_draws_with_replacement_have_the_frequencies_of_the_plan(batches, getkey):
    x, y = batches
    keys = jax.random.split(getkey(), 500)
    rows, columns = jax.vmap(lambda key: transport.coupling(key, x, y, epsilon=1.0, replace=True))(keys)
    counts = np.zeros((24, 24))
    np.add.at(counts, (np.ravel(rows), np.ravel(columns)), 1)
    expected = 500 * 24 * np.asarray(transport.solve(x, y, epsilon=1.0).plan)
    often = expected > 5
    # About 300 cells with Poisson counts of mean five and more: beyond seven sigma with probability below 1e-4.
    assert np.max(np.abs(counts - expected)[often] / np.sqrt(expected[often])) < 7
    assert counts[~often].sum() < expected[~often].sum() + 7 * np.sqrt(expected[~often].sum())


def test_single_precision_and_bad_input(batches, getkey):
    x, y = batches
    _, columns = transport.coupling(
        getkey(), x.astype(jnp.float32), y.astype(jnp.float32), condition=jnp.zeros(24, int)
    )
    np.testing.assert_array_equal(columns, linear_sum_assignment(squared(x, y))[1])
    with pytest.raises(ValueError, match="expected at least as many in y"):
        transport.coupling(getkey(), x, y[:5])
    with pytest.raises(ValueError, match="expected one entry"):
        transport.coupling(getkey(), x[:5], y, condition=jnp.zeros(24))
    with pytest.raises(ValueError, match="labels or numbers"):
        transport.coupling(getkey(), x, y, condition=(jnp.zeros(24), jnp.zeros(24, int)))
    with pytest.raises(ValueError, match="one typed key"):
        transport.coupling(0, x, y)
    with pytest.raises(ValueError, match="epsilon=-1"):
        transport.coupling(getkey(), x, y, epsilon=-1.0)
