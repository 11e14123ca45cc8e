"""Resampling schemes: unbiased counts, ordered variances, particles that do not count, and the bisection."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

from pushforward.samplers._tempering import largest_power
from pushforward.samplers.smc import effective_sample_size, resample

SCHEMES = ["systematic", "stratified", "residual", "multinomial"]
WEIGHTS = np.array([0.05, 0.3, 0.0, 0.15, 0.02, 0.28, 0.2])
REPEATS = 20_000


@functools.cache
def counts(scheme, masked):
    """Children of every particle in repeated resamplings; with a mask, particles 1 and 6 do not count."""
    alive = jnp.arange(7) % 5 != 1 if masked else None
    draw = jax.vmap(lambda k: jnp.bincount(resample(scheme, k, jnp.asarray(WEIGHTS), alive), length=7))
    return np.asarray(jax.jit(draw)(jax.random.split(jax.random.key(3), REPEATS)))


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("scheme", SCHEMES)
def test_children_are_right_in_expectation(scheme, masked):
    """z-tests of all counts at a family-wise rate of 1e-6."""
    found = counts(scheme, masked)
    used = np.arange(7) % 5 != 1 if masked else np.ones(7, bool)
    expected = used.sum() * np.where(used, WEIGHTS, 0) / WEIGHTS[used].sum()
    # Who does not count has one child, itself.
    expected[~used] = 1.0
    error = found.std(0) / np.sqrt(REPEATS)
    limit = scipy.stats.norm.isf(1e-6 / (2 * 7 * len(SCHEMES) * 2))
    np.testing.assert_array_less(np.abs(found.mean(0) - expected), limit * error + 1e-12)
    assert (found.sum(1) == 7).all()
    assert (found[:, 2] == 0).all()


def test_variances_are_ordered():
    """Of counts: residual, stratified and systematic below multinomial; systematic within one of n w."""
    variance = {scheme: counts(scheme, False).var(0).sum() for scheme in SCHEMES}
    assert max(variance[s] for s in SCHEMES[:3]) < 0.8 * variance["multinomial"]
    np.testing.assert_allclose(variance["multinomial"], 7 * (WEIGHTS * (1 - WEIGHTS)).sum(), rtol=0.05)
    assert (np.abs(counts("systematic", False) - 7 * WEIGHTS) < 1).all()
    assert (counts("residual", False) >= np.floor(7 * WEIGHTS)).all()


@pytest.mark.parametrize("scheme", SCHEMES)
def test_equal_weights_keep_everyone_where_the_scheme_can(scheme, getkey):
    for dtype in (jnp.float32, jnp.float64):
        parents = resample(scheme, getkey(), jnp.full((1000,), 0.1, dtype))
        assert parents.dtype == jnp.int32 or parents.dtype == jnp.int64
        if scheme != "multinomial":
            np.testing.assert_array_equal(np.sort(parents), np.arange(1000))
        assert 0 <= parents.min()
        assert parents.max() < 1000


def test_largest_power_hits_the_effective_sample_size(getkey):
    """Also of log-weights in the millions, and with particles of weight zero."""
    for size in (10.0, 1e6):
        logits = -size * jax.random.exponential(getkey(), (500,))
        logits = logits.at[:100].set(-jnp.inf)
        power = largest_power(logits, 0.5, 1.0)
        np.testing.assert_allclose(
            effective_sample_size(jnp.where(logits > -jnp.inf, power * logits, -jnp.inf)), 200, rtol=1e-6
        )
    assert largest_power(1e-3 * logits / 1e6, 0.5, 0.3) == 0.3
