"""Conditional fields at one condition are the fields of that condition, everywhere."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import pushforward as pf

si = pf.interpolants


class Shifted(si.AbstractFields):
    """Exact fields between noise and ``N(condition, 1/4)``."""

    path: si.AbstractPath

    def law(self, condition):
        return si.MixtureFields(self.path, si.GaussianMixture(jnp.zeros(1), condition[None], 0.25 * jnp.eye(1)[None]))

    def velocity(self, t, x, condition=None):
        return self.law(condition).velocity(t, x)

    def score(self, t, x, condition=None):
        return self.law(condition).score(t, x)


FIELDS = Shifted(path=si.OneSidedLinear())
FIXED = si.FixedCondition(FIELDS, jnp.array([1.5]))


def test_every_field():
    """One after the other, at an inner time."""
    t, x, level = jnp.float64(0.4), jnp.array([0.3]), jnp.float64(0.7)
    for name in ("velocity", "score", "end_velocity", "noise"):
        np.testing.assert_array_equal(getattr(FIXED, name)(t, x), getattr(FIELDS, name)(t, x, FIXED.condition))
    np.testing.assert_array_equal(FIXED.ends(t, x)[0], FIELDS.ends(t, x, FIXED.condition)[0])
    np.testing.assert_array_equal(FIXED.drift(t, x, level=level), FIELDS.drift(t, x, FIXED.condition, level=level))


def test_prior_of_an_inverse_problem():
    """Prior N(1.5, 1/4), one observation 2 with variance 1/4: evidence N(2; 1.5, 1/2), posterior N(1.75, 1/8)."""
    found = si.posterior(
        jax.random.key(0), FIXED, lambda x: -2.0 * jnp.sum((x - 2.0) ** 2), dim=1, num_particles=2_000, num_steps=60
    )
    weights = jax.nn.softmax(found.log_weights)
    mean = float(weights @ found.particles[:, 0])
    # Without its constant the likelihood is N(2; x, 1/4) sqrt(pi / 2).
    truth = -0.25 - 0.5 * np.log(np.pi) + 0.5 * np.log(np.pi / 2.0)
    assert float(found.log_evidence) == pytest.approx(truth, abs=4.0 * float(found.standard_error) + 1e-3)
    # Four standard errors of 2,000 draws, of the mean and of the variance.
    assert mean == pytest.approx(1.75, abs=4.0 * (0.125 / 2_000) ** 0.5)
    variance = float(weights @ (found.particles[:, 0] - mean) ** 2)
    assert variance == pytest.approx(0.125, abs=4.0 * 0.125 * (2.0 / 2_000) ** 0.5)


def test_bad_input():
    """One paragraph each."""
    with pytest.raises(ValueError, match="fields is str"):
        si.FixedCondition("fields", jnp.zeros(1))
    with pytest.raises(ValueError, match="condition is empty"):
        si.FixedCondition(FIELDS, None)
    with pytest.raises(ValueError, match="fixed condition"):
        si.flow(FIXED, jnp.zeros((2, 1)), num_steps=2, condition=jnp.zeros((2, 1)))
