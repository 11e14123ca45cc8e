"""Relaxed sites inside programs: unbiased through the engine, and refused where an outcome would jump."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
import scipy.stats

import pushforward as pf
from pushforward.estimators.gradients import resolve_gradient

Y = jnp.asarray([0.8, -0.3, 1.4])
LOGITS = jnp.asarray([0.2, -0.4, 0.5])


def model(y):
    with numpyro.plate("n", 3):
        b = numpyro.sample("b", dist.Bernoulli(0.3))
        numpyro.sample("y", dist.Normal(1.0 * b, 0.7), obs=y)


def guide(y):
    logits = numpyro.param("logits", LOGITS)
    with numpyro.plate("n", 3):
        numpyro.sample("b", dist.Bernoulli(logits=logits))


def exact():
    def loss(logits):
        total = 0.0
        for b in (0.0, 1.0):
            log_q = jax.nn.log_sigmoid(logits if b else -logits)
            log_p = dist.Bernoulli(0.3).log_prob(b) + dist.Normal(b, 0.7).log_prob(Y)
            total = total - jnp.sum(jnp.exp(log_q) * (log_p - log_q))
        return total

    return np.asarray(jax.grad(loss)(LOGITS))


def test_unbiased_in_a_program():
    target = pf.from_numpyro(model, Y)
    bound = pf.program_guide(guide).bind(target)
    gradient = resolve_gradient({"b": pf.Relax("relax")}, bound, pf.ELBO()).bind(target, bound)
    gradient.check(pf.ELBO(), target, bound, 2)

    def one(key):
        grads = gradient.value_and_grad(key, pf.ELBO(), target, bound, 2)[1]
        return grads.guide.params["logits"], grads.estimator.strategies["b"].control.seen

    draws, seen = (np.asarray(x) for x in jax.jit(jax.vmap(one))(jax.random.split(jax.random.key(0), 5000)))
    z = (draws.mean(0) - exact()) / (draws.std(0) / np.sqrt(5000))
    assert np.abs(z).max() < scipy.stats.norm.isf(1e-6 / 6)
    # The step of a running mean that starts at zero: the strategy's own numbers arrive.
    np.testing.assert_allclose(seen, -0.05, rtol=1e-6)


def test_refused_where_other_draws_depend_on_the_value():
    def nested(y):
        b = numpyro.sample("b", dist.Bernoulli(0.3))
        c = numpyro.sample("c", dist.Bernoulli(0.2 + 0.5 * b))
        numpyro.sample("y", dist.Normal(1.0 * c, 0.7), obs=y)

    def nested_guide(y):
        b = numpyro.sample("b", dist.Bernoulli(logits=numpyro.param("l", 0.1)))
        numpyro.sample("c", dist.Bernoulli(0.1 + 0.6 * b))

    target = pf.from_numpyro(nested, Y[0])
    bound = pf.program_guide(nested_guide).bind(target)
    chosen = {"b": pf.Relax("rebar"), "c": pf.Enumerate()}
    with pytest.raises(ValueError, match="would jump") as caught:
        resolve_gradient(chosen, bound, pf.ELBO()).check(pf.ELBO(), target, bound, 2)
    assert "'b'" in str(caught.value)
    chosen = {"b": pf.Enumerate(), "c": pf.Relax("rebar")}
    resolve_gradient(chosen, bound, pf.ELBO()).check(pf.ELBO(), target, bound, 2)
