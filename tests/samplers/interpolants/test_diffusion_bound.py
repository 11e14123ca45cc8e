"""The variational bound of diffusions against Gaussian data, where everything is known."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tiers import fast

import pushforward as pf

si = pf.interpolants
SCALE = 0.7
START, END = 1e-3, 1.0 - 1e-3
PATHS = [si.VariancePreserving(), si.Cosine(), si.OneSidedLinear(), si.EDM(0.002, 20.0)]
DATA = SCALE * jax.random.normal(jax.random.key(7), (2_000, 1))


def exact(path) -> si.MixtureFields:
    return si.MixtureFields(path, si.GaussianMixture(np.zeros(1), np.zeros((1, 1)), np.full((1, 1, 1), SCALE**2)))


def bound(path, num_steps=None, parameterisation="data", key=0):
    return si.diffusion_bound(
        jax.random.key(key), exact(path), DATA, num_steps=num_steps, num_draws=16, parameterisation=parameterisation
    )


def in_closed_form(path, num_steps):
    """Mean of the bound over the data: the error of predicting z is ``c^2 s^2 / (c^2 s^2 + gamma^2)``."""
    grid = START + (END - START) * np.arange(200_001) / 200_000
    snr = np.asarray(jax.vmap(lambda t: path.coefficients(t)[0] ** 2 / path.variance(t))(jnp.asarray(grid)))
    levels = np.log(snr)
    knots = np.interp(np.linspace(levels[0], levels[-1], num_steps + 1), levels, levels)
    errors = 1.0 / (1.0 + 1.0 / (SCALE**2 * np.exp(knots)))
    along = 0.5 * np.sum(np.expm1(np.diff(knots)) * errors[:-1])
    return 0.5 * SCALE**2 * snr[0] + along + 0.5 * (errors[-1] + np.log(2.0 * np.pi) - levels[-1])


ENTROPY = 0.5 * np.log(2.0 * np.pi * np.e * SCALE**2)


@pytest.mark.parametrize("num_steps", fast([None, 10], 10))
@pytest.mark.parametrize("path", fast(PATHS, PATHS[0]), ids=lambda path: type(path).__name__)
def test_parameterisations_are_one(path, num_steps):
    """Data, noise and score give the same number, draw by draw."""
    values = [np.asarray(bound(path, num_steps, name).value) for name in ("data", "noise", "score")]
    np.testing.assert_allclose(values[1], values[0], rtol=0, atol=1e-10 * np.abs(values[0]).max())
    np.testing.assert_allclose(values[2], values[0], rtol=0, atol=1e-10 * np.abs(values[0]).max())


@pytest.mark.parametrize("num_steps", fast([10, 200], 10))
@pytest.mark.parametrize("path", fast(PATHS[:3], PATHS[0]), ids=lambda path: type(path).__name__)
def test_mean_over_gaussian_data(path, num_steps):
    """The estimate is within its error of the closed form: five standard errors, a chance of 6e-7 each."""
    values = np.asarray(bound(path, num_steps, "noise").value)
    # The levels are interpolated from a table: 1e-3 of the bound is for that.
    margin = 5.0 * values.std() / len(values) ** 0.5 + 1e-3
    assert abs(values.mean() - in_closed_form(path, num_steps)) < margin


@pytest.mark.parametrize("path", PATHS[:3], ids=lambda path: type(path).__name__)
def test_gap_falls_like_one_over_steps(path):
    """Down to the entropy of the data; times the number of steps it is constant."""
    gaps = np.array([in_closed_form(path, num) - ENTROPY for num in (200, 400, 800)])
    assert (gaps > 0).all()
    np.testing.assert_allclose(gaps[:-1] / gaps[1:], 2.0, rtol=0.1)


@pytest.mark.slow
@pytest.mark.parametrize("path", PATHS, ids=lambda path: type(path).__name__)
def test_continuous_time_reaches_the_entropy(path):
    """With the same points on both sides: the entropy of the data is their mean negative log-density and its error."""
    values = np.asarray(bound(path, parameterisation="noise").value)
    truth = -np.asarray(jax.vmap(exact(path).mixtures[0].log_prob)(DATA))
    gaps = values - truth
    assert abs(gaps.mean()) < 5.0 * gaps.std() / len(gaps) ** 0.5 + 1e-3


@pytest.mark.slow
def test_wrong_fields_have_larger_bounds():
    """A prediction of noise that is too small costs what it is off, at every noise level."""
    path = si.VariancePreserving()
    wrong = si.LearnedFields(path, "noise", lambda t, x, condition: 0.8 * exact(path).noise(t, x))
    right = bound(path, parameterisation="noise").value
    found = si.diffusion_bound(jax.random.key(0), wrong, DATA, num_draws=16, parameterisation="noise").value
    assert np.mean(np.asarray(found) - np.asarray(right)) > 0.1


def test_refusals():
    """Paths with two ends, times without signal or noise, unknown predictions."""
    key, x = jax.random.key(0), DATA[:2]
    with pytest.raises(ValueError, match="two ends"):
        si.diffusion_bound(key, si.LearnedFields(si.Linear(), "velocity", lambda t, x, c: x), x)
    with pytest.raises(ValueError, match="signal-to-noise"):
        si.diffusion_bound(key, exact(si.OneSidedLinear()), x, start=0.0)
    with pytest.raises(ValueError, match="signal-to-noise"):
        si.diffusion_bound(key, exact(si.OneSidedLinear()), x, end=1.0)
    with pytest.raises(ValueError, match="parameterisation"):
        si.diffusion_bound(key, exact(si.Cosine()), x, parameterisation="velocity")
