"""Weights of paths: exact at any number of steps, with any fields, with and without resampling."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import pushforward as pf

si = pf.interpolants
BASE = si.GaussianMixture([0.0, 0.5], [[-1.0], [1.5]], [[[0.5]], [[1.0]]])
TARGET = si.GaussianMixture([0.2, 0.0], [[-2.0], [1.0]], [[[0.3]], [[0.6]]])
RATIO = 1.7
"""What the evidence is the logarithm of e to the power of."""


class Wrong(si.AbstractFields):
    """Exact fields with something added to the velocity and to the score."""

    path: si.AbstractPath
    exact: si.MixtureFields
    velocity_error: float
    score_error: float

    def velocity(self, t, x, condition=None):
        return self.exact.velocity(t, x) + self.velocity_error

    def score(self, t, x, condition=None):
        return (1.0 + self.score_error) * self.exact.score(t, x)

    def log_prob(self, t, x):
        return self.exact.log_prob(t, x)


EXACT = si.MixtureFields(si.Linear(), BASE, TARGET)
WRONG = Wrong(EXACT.path, EXACT, 0.3, 0.2)


def log_target(x):
    return TARGET.log_prob(x) + RATIO


def run(key, fields=WRONG, num=4000, **settings):
    first, second = jax.random.split(key)
    start = (TARGET if settings.get("reverse") else BASE).sample(first, num)
    return si.weighted(second, fields, start, log_base=BASE.log_prob, log_target=log_target, **settings)


@pytest.mark.parametrize("resample", [pytest.param(None, marks=pytest.mark.slow), 0.7])
def test_unbiased_at_three_steps_with_wrong_fields(resample):
    """Means over clouds of 32 of the evidence and of the evidence times the second moment, at 4.5 standard errors."""
    keys = jax.random.split(jax.random.key(0), 4000)
    found = jax.jit(jax.vmap(lambda k: run(k, num=32, num_steps=3, resample=resample)))(keys)
    weights = np.exp(np.asarray(found.log_weights) - RATIO)
    if resample:
        assert np.mean(found.num_resampled > 0) > 0.3
    second = float(sum(np.exp(TARGET.log_weights) * (TARGET.means[:, 0] ** 2 + TARGET.covariances[:, 0, 0])))
    for values, truth in ((weights, 1.0), (weights * np.asarray(found.particles)[..., 0] ** 2, second)):
        means = values.mean(axis=1)
        assert abs(means.mean() - truth) < 4.5 * means.std() / len(means) ** 0.5
    np.testing.assert_allclose(np.exp(found.log_evidence - RATIO), weights.mean(axis=1), rtol=1e-9)
    # The error that one cloud claims, against what clouds differ by; clouds of 32 know theirs to about a third.
    scatter = np.std(np.exp(np.asarray(found.log_evidence) - RATIO))
    assert 0.6 < np.sqrt(np.mean((np.asarray(found.standard_error) * weights.mean(axis=1)) ** 2)) / scatter < 1.5


@pytest.mark.slow
@pytest.mark.parametrize("settings", [{"reverse": True}, {"reverse": True, "resample": 0.9}, {"epsilon": jnp.sin}])
def test_ways_and_noise(settings):
    found = run(jax.random.key(1), **{"num_steps": 7, "epsilon": 0.7, **settings})
    sign = -1.0 if settings.get("reverse") else 1.0
    assert abs(found.log_evidence - sign * RATIO) < 4.5 * found.standard_error
    assert 0 < found.standard_error < 0.3


@pytest.mark.slow
def test_weights_even_out_with_the_steps():
    """The variance of log-weights of exact fields falls like one over the steps."""
    spreads = [np.var(run(jax.random.key(2), EXACT, 20000, num_steps=k).log_weights) for k in (50, 200)]
    assert 3.2 < spreads[0] / spreads[1] < 5.0


@pytest.mark.slow
def test_single_precision():
    with jax.enable_x64(False):
        parts = [(m.log_weights, m.means, m.covariances) for m in (BASE, TARGET)]
        ends = [si.GaussianMixture(*(jnp.asarray(np.asarray(v), jnp.float32) for v in part)) for part in parts]
        fields = si.MixtureFields(si.Linear(), *ends)
        found = si.weighted(
            jax.random.key(3),
            fields,
            ends[0].sample(jax.random.key(4), 4000),
            log_base=ends[0].log_prob,
            log_target=ends[1].log_prob,
            resample=0.5,
        )
        assert found.particles.dtype == found.log_weights.dtype == found.log_evidence.dtype == jnp.float32
        assert abs(found.log_evidence) < 4.5 * found.standard_error


@pytest.mark.slow
def test_particles_outside_the_support_are_dead():
    """A target of half the line: its evidence is the probability of that half."""
    half = lambda x: jnp.where(x[0] > 0, TARGET.log_prob(x), -jnp.inf)  # noqa: E731
    found = si.weighted(
        jax.random.key(5), EXACT, BASE.sample(jax.random.key(6), 4000), log_base=BASE.log_prob, log_target=half
    )
    chance = jnp.exp(TARGET.log_weights) @ jax.scipy.stats.norm.cdf(
        TARGET.means[:, 0] / jnp.sqrt(TARGET.covariances[:, 0, 0])
    )
    assert abs(found.log_evidence - jnp.log(chance)) < 4.5 * found.standard_error
    assert np.isneginf(found.log_weights[found.particles[:, 0] <= 0]).all()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"epsilon": 0.0}, "without noise use log_prob"),
        ({"resample": 1.5}, "resample=1.5: expected a fraction"),
        ({"resample": 0.5, "condition": jnp.ones(4)}, "different conditions"),
        ({"resample": 0.5, "fields": si.AbstractFields}, "knows no log-density"),
    ],
)
def test_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        run(jax.random.key(0), num=4, **settings)
