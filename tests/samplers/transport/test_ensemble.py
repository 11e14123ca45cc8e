"""Weighted particles made equal by transport: what is kept, what shrinks, and draws that are unbiased."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

import pushforward as pf
from pushforward.samplers.smc import resample
from pushforward.samplers.transport._ensemble import equalising_plan

COUNT = 40


def weighted():
    """Standard normal particles in two dimensions, weighted towards N((1, 0), I); a tenth do not count."""
    particles = jax.random.normal(jax.random.key(0), (COUNT, 2))
    logits = particles[:, 0] - 0.5
    alive = jnp.arange(COUNT) % 10 != 3
    weights = jnp.where(alive, jnp.exp(logits), 0.0)
    return particles, weights / weights.sum(), alive


def test_marginals_of_the_plan_are_exact():
    particles, weights, alive = weighted()
    plan = equalising_plan(jnp.where(alive[:, None], particles, jnp.nan), weights, alive)
    np.testing.assert_allclose(plan.sum(1), weights, atol=1e-15)
    np.testing.assert_allclose(plan.sum(0), alive / alive.sum(), atol=1e-15)
    assert (plan >= 0).all()
    # Independent pairs would move points by the variances and shift of the two, as would a plan that looks nowhere.
    used = jnp.where(alive[:, None], particles, 0.0)
    distance = ((used[:, None] - used[None]) ** 2).sum(-1)
    assert (plan * distance).sum() < 0.4 * (weights[:, None] * (alive / alive.sum()) * distance).sum()


def test_transform_keeps_the_mean_and_its_plan_is_nearly_optimal():
    particles, weights, _ = weighted()
    moved = pf.transport.ensemble_transform(particles, weights)
    np.testing.assert_allclose(moved.mean(0), weights @ particles, rtol=1e-12)
    # An average loses variance: less than all of what equal weights would have.
    variance = weights @ (particles - weights @ particles) ** 2
    assert (moved.var(0) <= variance).all()
    assert (moved.var(0) > 0.5 * variance).all()
    single = pf.transport.ensemble_transform(particles.astype(jnp.float32), weights.astype(jnp.float32))
    assert single.dtype == jnp.float32
    np.testing.assert_allclose(single, moved, atol=2e-2)
    np.testing.assert_allclose(pf.transport.ensemble_transform(particles[:1], jnp.ones(1)), particles[:1])


def test_drawn_parents_are_unbiased_and_vary_less():
    """z-tests of all counts at a family-wise rate of 1e-6; the mean varies less than with independent strata."""
    particles, weights, alive = weighted()
    repeats, spread = 10_000, {}
    shuffled = jax.random.permutation(jax.random.key(1), COUNT)
    particles, weights, alive = particles[shuffled], weights[shuffled], alive[shuffled]
    keys = jax.random.split(jax.random.key(2), repeats)

    def parents(scheme):
        # One plan for all: it does not depend on the key.
        return jax.jit(lambda ks: jax.lax.map(lambda k: resample(scheme, k, weights, alive, particles), ks))(keys)

    for scheme in ("transport", "stratified", "multinomial"):
        found = parents(scheme)
        used = jnp.where(alive[:, None], particles, 0.0)
        spread[scheme] = float(((used[found] * alive[:, None]).sum(1) / alive.sum()).var(0).sum())
        if scheme == "transport":
            counts = jax.vmap(lambda p: jnp.bincount(p, weights=alive.astype(float), length=COUNT))(found)
            error = counts.std(0) / repeats**0.5
            limit = scipy.stats.norm.isf(1e-6 / (2 * COUNT))
            expected = alive.sum() * weights
            assert (jnp.abs(counts.mean(0) - expected)[alive] <= limit * error[alive] + 1e-12).all()
            assert (counts[:, ~alive] == 0).all()
            np.testing.assert_array_equal(found[:, ~alive], jnp.broadcast_to(jnp.flatnonzero(~alive), (repeats, 4)))
    assert spread["transport"] < 0.7 * spread["stratified"] < 0.3 * spread["multinomial"], spread


def test_bad_input(getkey):
    particles, weights, _ = weighted()
    with pytest.raises(ValueError, match="sums to"):
        pf.transport.ensemble_transform(particles, 2.0 * weights)
    with pytest.raises(ValueError, match="finite"):
        pf.transport.ensemble_transform(particles.at[0, 0].set(jnp.nan), weights)
    with pytest.raises(ValueError, match="positions"):
        resample("transport", getkey(), weights)
