"""Densities as end points: exact weights with any velocity."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from scipy import integrate, stats

import pushforward as pf

si = pf.interpolants


def model(y=None):
    scale = numpyro.sample("scale", dist.HalfNormal(1.0))
    shift = numpyro.sample("shift", dist.Normal(0.0, 1.0))
    # A scale that is bounded below: the neck of a funnel would be missed by weights and standard errors alike.
    numpyro.sample("y", dist.Normal(shift, 0.5 + scale), obs=y)


Y = 1.5


def log_base(x):
    return jnp.sum(jax.scipy.stats.norm.logpdf(x))


def draw(key, num):
    return jax.random.normal(key, (num, 2))


def test_refused():
    target = pf.from_numpyro(model, y=Y)
    with pytest.raises(ValueError, match="expected \\(2,\\) and \\(2, 2\\)"):
        si.density_end(target, jnp.zeros(3))


@pytest.mark.slow
def test_weights_of_a_program_are_exact_before_and_after_training():
    """Evidence by quadrature, in coordinates that fit badly; training lowers the variance it is for."""
    inner = lambda s: 2 * stats.norm.pdf(s) * stats.norm.pdf(Y, 0.0, np.hypot(1.0, 0.5 + s))  # noqa: E731
    truth = np.log(integrate.quad(inner, 0, np.inf)[0])
    root = jnp.array([[0.9, 0.0], [0.2, 0.8]])
    end = si.density_end(pf.from_numpyro(model, y=Y), jnp.array([-0.3, 0.5]), root)
    fields = si.AnnealedFields(si.Control(jax.random.key(0), 2), log_base, end.log_density)
    trained = si.train_annealed(jax.random.key(1), fields, draw, num_steps=16, num_updates=200, epsilon=0.3)
    assert np.nanmedian(trained.losses[-20:]) < 0.7 * np.nanmedian(trained.losses[:20])
    start, settings = (
        draw(jax.random.key(2), 4000),
        {"log_base": log_base, "log_target": end.log_density, "epsilon": 0.3},
    )
    before = si.weighted(jax.random.key(3), fields, start, num_steps=16, **settings)
    after = si.weighted(jax.random.key(3), trained.fields, start, num_steps=16, **settings)
    resampled = si.weighted(jax.random.key(3), trained.fields, start, num_steps=16, resample=0.95, **settings)
    for found in (before, after, resampled):
        assert abs(found.log_evidence - truth) < 4.5 * found.standard_error
        assert found.standard_error < 0.1
    assert resampled.num_resampled > 0
    position = end.position(jnp.zeros(2))
    np.testing.assert_allclose(position["scale"], -0.3)
    np.testing.assert_allclose(position["shift"], 0.5)


@pytest.mark.slow
def test_training_that_makes_it_worse_is_undone():
    """With a learning rate that throws the network about, the fields come back as they were, and a warning says so."""
    fields = si.AnnealedFields(si.Control(jax.random.key(0), 2), log_base, lambda x: log_base(x - 0.5))
    with pytest.warns(UserWarning, match="lowered the effective share.*learning_rate"):
        trained = si.train_annealed(jax.random.key(1), fields, draw, num_steps=8, num_updates=5, learning_rate=3.0)
    assert trained.fields is fields
    assert trained.after < trained.before
    gentle = si.train_annealed(jax.random.key(1), fields, draw, num_steps=8, num_updates=100)
    assert gentle.after > gentle.before


@pytest.mark.slow
@pytest.mark.parametrize("seed", [1, 2, 3])
def test_training_that_loses_the_neck_of_a_funnel_is_undone(seed):
    """The variance of the log-weights falls along the paths drawn, the effective share with the mass of the neck."""

    def funnel(y=None):
        scale = numpyro.sample("scale", dist.HalfNormal(1.0))
        shift = numpyro.sample("shift", dist.Normal(0.0, 1.0))
        numpyro.sample("y", dist.Normal(shift, scale), obs=y)

    root = jnp.array([[0.9, 0.0], [0.2, 0.8]])
    end = si.density_end(pf.from_numpyro(funnel, y=Y), jnp.array([-0.3, 0.5]), root)
    fields = si.AnnealedFields(si.Control(jax.random.key(0), 2), log_base, end.log_density)
    with pytest.warns(UserWarning, match="lowered the effective share"):
        trained = si.train_annealed(jax.random.key(seed), fields, draw, num_steps=16, num_updates=200, epsilon=0.3)
    assert trained.fields is fields
