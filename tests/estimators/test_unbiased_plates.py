"""Objectives per plate element: amortised program guides in a minibatch plate against quadrature, datum by datum."""

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

from .conjugate import AT, CASES, LOG_CONSTANT, exact_gradient

DATA, SLOPE, SHIFT = np.array([1.3, -0.6, 0.4]), 0.4, -0.1
NUM_REPEATS, NUM_PARTICLES = 20_000, 4
FAMILY_WISE_ALPHA = 1e-6
"""False-alarm probability of this file, all its comparisons together (Bonferroni over two-sided z-tests)."""
GRADIENTS = {"Reparam": pf.Reparam(), "Path": pf.Path(), "Score": pf.Score()}


def programs(subsample_size):
    def model(y):
        theta = numpyro.param("theta", AT[2])
        with numpyro.plate("data", len(DATA), subsample_size=subsample_size):
            batch = numpyro.subsample(y, event_dim=0)
            z = numpyro.sample("z", dist.Normal(0.0, 1.0))
            numpyro.sample("y", dist.Normal(theta * z, 1.0), obs=batch)
            numpyro.factor("constant", LOG_CONSTANT * jnp.ones_like(batch))

    def guide(y):
        slope, shift = numpyro.param("slope", SLOPE), numpyro.param("shift", SHIFT)
        log_scale = numpyro.param("log_scale", AT[1])
        with numpyro.plate("data", len(DATA), subsample_size=subsample_size):
            batch = numpyro.subsample(y, event_dim=0)
            numpyro.sample("z", dist.Normal(slope * batch + shift, jnp.exp(log_scale)))

    target = pf.from_numpyro(model, jnp.asarray(DATA))
    return target, pf.program_guide(guide).bind(target)


def exact(name: str) -> dict[str, float]:
    """The sum over data of exact one-datum gradients, by the chain rule of the encoder."""
    each = np.array(
        [exact_gradient(name, NUM_PARTICLES, 16, y=y, at=(SLOPE * y + SHIFT, AT[1], AT[2])) for y in DATA.tolist()]
    )
    loc, log_scale, theta = each.T
    return {"slope": loc @ DATA, "shift": loc.sum(), "log_scale": log_scale.sum(), "theta": theta.sum()}


@pytest.mark.slow
@pytest.mark.parametrize("subsample_size", [None, 2])
@pytest.mark.parametrize("name", list(GRADIENTS))
def test_plated_pair(name, subsample_size, getkey):
    target, guide = programs(subsample_size)

    def one(case, key):
        key_batch, key_draws = jax.random.split(key)
        batch = target.minibatch(key_batch) if subsample_size else None
        gradient = resolve_gradient(GRADIENTS[name], guide, case.objective).bind(target, guide)
        grads = gradient.value_and_grad(key_draws, case.objective, target, guide, NUM_PARTICLES, batch)[1]
        return {**grads.guide.params, **grads.model}

    def moments(keys):
        draws = jax.vmap(lambda key: {k: one(case, key) for k, case in CASES.items()})(keys)
        return jax.tree.map(lambda x: (x.mean(), x.std() / NUM_REPEATS**0.5), draws)

    found = jax.jit(moments)(jax.random.split(getkey(), NUM_REPEATS))
    limit = scipy.stats.norm.isf(FAMILY_WISE_ALPHA / (2 * 4 * 2 * len(CASES) * len(GRADIENTS)))
    for case, parameters in found.items():
        truth = exact(case)
        for parameter, (mean, error) in parameters.items():
            assert abs(float(mean) - truth[parameter]) < limit * float(error), (case, parameter, mean, error, truth)
        # An objective of the sum over data, a lost plate scale or a lost datum would be seen.
        scale = max(abs(v) for v in truth.values())
        assert all(float(error) < 0.04 * scale + 0.02 for _, error in parameters.values()), (case, parameters, truth)


def with_global_latent(y, subsample_size):
    mean = numpyro.sample("mean", dist.Normal(0.0, 1.0))
    with numpyro.plate("data", len(DATA), subsample_size=subsample_size):
        numpyro.sample("y", dist.Normal(mean, 1.0), obs=numpyro.subsample(y, event_dim=0))


def its_guide(y, subsample_size):
    numpyro.sample("mean", dist.Normal(numpyro.param("loc", 0.0), 1.0))


@pytest.mark.parametrize("objective", [pf.IWELBO(), pf.VIS(), pf.ForwardKL(), pf.objective(jnp.var)])
@pytest.mark.parametrize("name", list(GRADIENTS))
def test_a_function_of_an_estimated_weight_is_refused(name, objective):
    """The logarithm of a minibatch's estimate is another objective; the ELBO is linear and all data are no estimate."""
    for family in (pf.MeanField(), pf.program_guide(its_guide)):
        for subsample_size in (None, 2):
            target = pf.from_numpyro(with_global_latent, jnp.asarray(DATA), subsample_size)
            guide = family.bind(target)
            resolve_gradient(GRADIENTS[name], guide, pf.ELBO()).check(pf.ELBO(), target, guide, 64)
            estimator = resolve_gradient(GRADIENTS[name], guide, objective)
            if subsample_size is None:
                estimator.check(objective, target, guide, 64)
            else:
                with pytest.raises(ValueError, match=r"minibatches of the plate\(s\) \['data'\]"):
                    estimator.check(objective, target, guide, 64)
    target, guide = programs(2)
    resolve_gradient(GRADIENTS[name], guide, objective).check(objective, target, guide, 64)
