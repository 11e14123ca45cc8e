"""A mixture model learned by variational importance sampling, against other objectives run identically.

z comes from four Normals whose weights depend on a learnable pi, x ~ Bernoulli(sigmoid(z)); the guide is one Gaussian
per value of x, while the posterior given x has two or more modes. Reference: Li et al., arXiv:2311.02516, section 4.1.
"""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import optax
import pytest
from oracles import gaussian_mixture

import pushforward as pf
from pushforward.estimators import AbstractObjective
from pushforward.estimators.objectives import log_power_mean

LOCS, TRUE_PI = np.array([-8.0, -2.0, 2.0, 8.0]), 0.7
DATA = (np.arange(100) < 67).astype(float)
"""In the proportions of the population, of which 66.9 % are ones: what differs between seeds is the inference."""
NUM_STEPS, NUM_PARTICLES, NUM_SEEDS = 500, 128, 10
OPTIMIZER = optax.adam(0.02)
"""One object for all fits, so that seeds share compiled code."""


class ChiVI(AbstractObjective):
    """The reference's CHIVI: the guide minimises half of (log E_q[w^2] - ELBO), the model follows the ELBO."""

    def __call__(self, log_weights):
        return log_power_mean(log_weights, 0.0)

    def guide_gain(self, log_weights):
        return 0.5 * log_power_mean(log_weights, 0.0) - log_power_mean(log_weights, 2.0)

    def model_gain(self, log_weights):
        return log_power_mean(log_weights, 0.0)


class WakeSleep(pf.ForwardKL):
    """Wake-sleep: the guide minimises KL(posterior || q), the model follows log p(x, z) at draws of the guide."""

    def model_gain(self, log_weights):
        return log_power_mean(log_weights, 0.0)


def model(x):
    pi = numpyro.param("pi", 0.5, constraint=dist.constraints.unit_interval)
    weights = 0.5 * jnp.stack([1.0 - pi, 1.0 - pi, pi, pi])
    with numpyro.plate("data", len(DATA)):
        parts = dist.Normal(jnp.asarray(LOCS), 1.0)
        z = numpyro.sample("z", dist.MixtureSameFamily(dist.Categorical(probs=weights), parts))
        numpyro.sample("x", dist.Bernoulli(logits=z), obs=x)


def guide(x):
    loc = numpyro.param("loc", lambda key: jax.random.normal(key, (2,)))
    scale = numpyro.param("scale", jnp.array([5.0, 5.0]), constraint=dist.constraints.positive)
    with numpyro.plate("data", len(DATA)):
        label = x.astype(int)
        numpyro.sample("z", dist.Normal(loc[label], scale[label]))


def probability_of_one(pi: float) -> float:
    weights = 0.5 * np.array([1 - pi, 1 - pi, pi, pi])
    mixture = gaussian_mixture.Mixture(weights, LOCS[:, None], np.ones((4, 1, 1)))
    return gaussian_mixture.expectation(mixture, lambda z: 1.0 / (1.0 + np.exp(-z)))


def population_log_likelihood(pi: float) -> float:
    """Mean log p(x; pi) over the population of the true pi."""
    truth, p = probability_of_one(TRUE_PI), probability_of_one(pi)
    return truth * np.log(p) + (1 - truth) * np.log1p(-p)


@functools.cache
def learned(kind: type, seed: int) -> float:
    """Population log-likelihood of the pi that an objective learns."""
    fitted = pf.fit(
        pf.from_numpyro(model, jnp.asarray(DATA)),
        pf.program_guide(guide),
        objective=kind(),
        gradient=pf.Reparam(),
        optimizer=OPTIMIZER,
        num_particles=NUM_PARTICLES,
        num_steps=NUM_STEPS,
        num_restarts=1,
        num_draws=128,
        stop_early=False,
        key=jax.random.key(seed),
        progress=False,
    )
    return population_log_likelihood(float(fitted.data["model_parameters"]["pi"]))


def test_population():
    assert probability_of_one(TRUE_PI) == pytest.approx(0.6688, abs=5e-5)
    assert population_log_likelihood(TRUE_PI) == pytest.approx(-0.6350, abs=5e-5)
    # What the data could teach at most, and a start that knows nothing.
    assert max(population_log_likelihood(pi) for pi in np.linspace(0.05, 0.95, 91)) < -0.63502
    assert population_log_likelihood(0.5) < -0.69


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(NUM_SEEDS))
def test_vis_learns_the_model(seed, figure):
    vis = learned(pf.VIS, seed)
    rivals = {kind.__name__: learned(kind, seed) for kind in (pf.ELBO, ChiVI, WakeSleep)}
    shown = ", ".join(f"{name} {value:.5f}" for name, value in rivals.items())
    figure(f"VIS, population log-likelihood, seed {seed}", f"{vis:.5f}", f">= -0.637 and above {shown}")
    assert vis >= -0.637
    assert vis > max(rivals.values()), (vis, rivals)
