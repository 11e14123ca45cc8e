"""Amortised guides: a linear-Gaussian VAE against probabilistic PCA, importance-weighted bounds against evidence."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import optax
import pytest
import scipy.stats
from oracles import k_draws, ppca

import pushforward as pf

NUM_DATA, DIM, RANK, BATCH = 500, 5, 2, 64
NUM_STEPS = 5_000


def data() -> np.ndarray:
    rng = np.random.default_rng(3)
    loadings = rng.standard_normal((RANK, DIM)) * np.array([[1.5], [0.8]])
    latent = rng.standard_normal((NUM_DATA, RANK))
    return latent @ loadings + 0.5 * rng.standard_normal((NUM_DATA, DIM)) + 1.0


def decoder(x):
    loadings = numpyro.param("loadings", lambda key: 0.5 * jax.random.normal(key, (RANK, DIM)))
    mean = numpyro.param("mean", jnp.zeros(DIM))
    noise = numpyro.param("noise", 1.0, constraint=dist.constraints.positive)
    with numpyro.plate("data", NUM_DATA, subsample_size=BATCH):
        batch = numpyro.subsample(x, event_dim=1)
        z = numpyro.sample("z", dist.Normal(0.0, 1.0).expand([RANK]).to_event(1))
        numpyro.sample("x", dist.Normal(z @ loadings + mean, noise).to_event(1), obs=batch)


def encoder(x):
    weights = numpyro.param("weights", lambda key: 0.1 * jax.random.normal(key, (DIM, RANK)))
    bias = numpyro.param("bias", jnp.zeros(RANK))
    scale = numpyro.param("scale", jnp.ones(RANK), constraint=dist.constraints.positive)
    with numpyro.plate("data", NUM_DATA, subsample_size=BATCH):
        batch = numpyro.subsample(x, event_dim=1)
        numpyro.sample("z", dist.Normal(batch @ weights + bias, scale).to_event(1))


@pytest.mark.slow
def test_linear_vae_reaches_the_maximum_likelihood_of_ppca(figure):
    x = data()
    best = ppca.maximum_likelihood(x, RANK)
    target = pf.from_numpyro(decoder, jnp.asarray(x))
    untrained = ppca.log_likelihood(x, np.zeros(DIM), np.zeros((DIM, RANK)), 1.0)
    assert untrained < best.log_likelihood - 1.0
    for seed in range(2):
        fitted = pf.fit(
            target,
            pf.program_guide(encoder),
            optimizer=optax.adam(optax.cosine_decay_schedule(0.05, NUM_STEPS)),
            num_particles=1,
            num_restarts=1,
            num_steps=NUM_STEPS,
            num_draws=256,
            # The last 20 nats (of 4,000) come slower than the noise of minibatches, at which early stopping gives up.
            stop_early=False,
            key=jax.random.key(seed),
            progress=False,
        )
        learned = {name: np.asarray(value) for name, value in fitted.data["model_parameters"].items()}
        reached = ppca.log_likelihood(x, learned["mean"], learned["loadings"].T, float(learned["noise"]) ** 2)
        figure(
            f"linear VAE: nats per datum below the PPCA maximum, seed {seed}", best.log_likelihood - reached, "< 0.01"
        )
        assert best.log_likelihood - 0.01 < reached <= best.log_likelihood + 1e-9
        # The bound is as tight: a diagonal Gaussian encoder is exact once the loadings are orthogonal.
        bound = float(fitted.data["optimization"]["restart_elbo"][0]) / NUM_DATA
        assert best.log_likelihood - 0.015 < bound < best.log_likelihood + 0.005


def test_iwelbo_of_a_mismatched_guide_rises_to_the_evidence(getkey, figure):
    def model(x):
        z = numpyro.sample("z", dist.Normal(0.0, 1.0))
        numpyro.sample("x", dist.Normal(z, 1.0), obs=x)

    def guide(x):
        numpyro.sample("z", dist.Normal(numpyro.param("slope", 0.1) * x, numpyro.param("scale", 1.1)))

    target = pf.from_numpyro(model, jnp.asarray(1.0))
    bound = pf.program_guide(guide).bind(target)
    evidence = scipy.stats.norm.logpdf(1.0, 0.0, np.sqrt(2.0))
    assert evidence == pytest.approx(-1.5155, abs=5e-5)

    def log_weights(eps):
        z = 0.1 + 1.1 * eps
        log_q = scipy.stats.norm.logpdf(eps) - np.log(1.1)
        return scipy.stats.norm.logpdf(z) + scipy.stats.norm.logpdf(1.0, z) - log_q

    means, errors = [], []
    counts, repeats = (1, 5, 50, 500), (100_000, 20_000, 4_000, 1_000)
    for count, repeat in zip(counts, repeats, strict=True):

        def one(key, count=count):
            return pf.Reparam().value_and_grad(key, pf.IWELBO(), target, bound, count)[0].value

        values = np.asarray(
            jax.jit(lambda keys, one=one: jax.lax.map(one, keys, batch_size=500))(jax.random.split(getkey(), repeat))
        )
        means.append(values.mean())
        errors.append(values.std() / np.sqrt(repeat))
    figure("IWELBO of a mismatched guide, K = 1, 5, 50, 500", ", ".join(f"{m:.4f}" for m in means), "rises to -1.5155")
    # Probability 1e-6 of a false alarm in each comparison.
    limit = scipy.stats.norm.isf(1e-6)
    assert all(np.diff(means) > -limit * np.hypot(errors[1:], errors[:-1]))
    assert means[0] < means[1] - limit * errors[0] < means[2]
    assert means[-1] == pytest.approx(evidence, abs=limit * errors[-1] + 2e-3)
    for k in (0, 1):
        exact = k_draws.expectation(lambda eps: k_draws.power_mean(log_weights(eps), 1.0), counts[k], 16)
        assert abs(means[k] - exact) < limit * errors[k]
