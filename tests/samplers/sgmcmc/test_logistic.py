"""Minibatch samplers against NUTS on all data."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest

import pushforward as pf

N, D = 5000, 5
RNG = np.random.default_rng(11)
FEATURES = RNG.normal(size=(N, D)) @ np.linalg.cholesky(0.5 * np.eye(D) + 0.5).T
LABELS = (RNG.random(N) < 1 / (1 + np.exp(-FEATURES @ np.linspace(-1, 1, D) - 0.5))).astype(float)


def logistic(features, labels, subsample_size=None):
    intercept = numpyro.sample("intercept", dist.Normal(0.0, 5.0))
    weights = numpyro.sample("weights", dist.Normal(0.0, 5.0).expand([D]).to_event(1))
    with numpyro.plate("data", N, subsample_size=subsample_size):
        batch = numpyro.subsample(features, event_dim=1)
        logits = intercept + batch @ weights
        numpyro.sample("y", dist.Bernoulli(logits=logits), obs=numpyro.subsample(labels, event_dim=0))


def draws(posterior):
    parts = [np.asarray(posterior.data["posterior"][n].values) for n in ("intercept", "weights")]
    return np.concatenate([p.reshape(-1, D if p.ndim == 3 else 1) for p in parts], axis=1)


@pytest.mark.slow
def test_means_are_those_of_nuts(getkey, figure):
    """Means within 0.1 posterior sd, standard deviations within 15 %; NUTS's own error is about 0.02 sd."""
    data = jnp.asarray(FEATURES), jnp.asarray(LABELS)
    full = pf.from_numpyro(logistic, *data)
    nuts = draws(pf.sample(full, pf.NUTS(), key=getkey(), num_steps=1000, num_warmup=500, num_chains=2, progress=False))
    small = pf.from_numpyro(logistic, *data, subsample_size=100)
    sd = nuts.std(0)
    kernels = {
        "SGHMC": (pf.SGHMC(0.05 * sd.min(), friction=0.3), 40_000),
        "SGLD, control variate": (pf.SGLD(0.1 * sd.min() ** 2, gradient=pf.ControlVariate()), 40_000),
    }
    for name, (kernel, num_steps) in kernels.items():
        start = jax.tree.map(lambda x: jnp.broadcast_to(x, (8, *x.shape)), full.example)
        settings = {"num_steps": num_steps, "num_warmup": 4000, "num_chains": 8, "thin": 40, "init": start}
        found = draws(pf.sample(small, kernel, key=getkey(), progress=False, **settings))
        error = float(np.max(np.abs(found.mean(0) - nuts.mean(0)) / sd))
        figure(f"{name} on a logistic regression: means against NUTS, in posterior sd", error, "0.1")
        assert error < 0.1, (name, error)
        np.testing.assert_allclose(found.std(0) / sd, 1.0, atol=0.15, err_msg=name)
