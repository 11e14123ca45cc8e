"""Shared suite over gradient estimators: unbiasedness against the exact gradient, and known variances."""

from __future__ import annotations

import itertools

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import registry
import scipy.stats
from tiers import fast

import pushforward as pf
from pushforward.estimators.gradients import split

NUM_KEYS = 10_000
FAMILY_WISE_ALPHA = 1e-6
"""False-alarm probability of one test, all coordinates together (Bonferroni over two-sided z-tests)."""

SETTINGS = list(itertools.product(["MeanField", "FullRank", "LowRank"], [1, 4]))


def exact_loss(guide) -> jax.Array:
    """KL(q || p) - log evidence for Gaussian q and p, in closed form."""
    covariance = guide.covariance()
    precision = jnp.linalg.inv(jnp.asarray(registry.COVARIANCE))
    d = jnp.asarray(registry.MEAN) - guide.loc
    kl = 0.5 * (
        jnp.trace(precision @ covariance) + d @ precision @ d - 3 - jnp.linalg.slogdet(precision @ covariance)[1]
    )
    return kl - registry.LOG_EVIDENCE


def flat(tree) -> np.ndarray:
    return np.concatenate([np.ravel(x) for x in jax.tree.leaves(tree)])


def gradient_draws(gradient, target, guide, num_particles, key):
    def one(key):
        estimate, grads = gradient.value_and_grad(key, pf.ELBO(), target, guide, num_particles)
        return estimate.value, grads.guide

    values, grads = jax.jit(jax.vmap(one))(jax.random.split(key, NUM_KEYS))
    return np.asarray(values), np.concatenate([np.reshape(x, (NUM_KEYS, -1)) for x in jax.tree.leaves(grads)], 1)


def z_scores(draws, exact):
    sd = draws.std(0)
    keep = sd > 1e-12
    np.testing.assert_allclose(draws.mean(0)[~keep], exact[~keep], atol=1e-9)
    return (draws.mean(0) - exact)[keep] / (sd[keep] / np.sqrt(len(draws)))


def limit(count: int) -> float:
    return scipy.stats.norm.isf(FAMILY_WISE_ALPHA / (2 * count))


@pytest.mark.parametrize(("family", "num_particles"), fast(SETTINGS, ("MeanField", 4), ("FullRank", 1), several=True))
@pytest.mark.parametrize("name", list(registry.GRADIENTS))
def test_unbiased(name, family, num_particles, getkey):
    target = registry.gaussian_target()
    guide = registry.GUIDES[family].build(target)
    dynamic, static = split(target, guide)
    exact = flat(jax.grad(lambda d: exact_loss(eqx.combine(d, static)))(dynamic.guide))
    values, draws = gradient_draws(registry.GRADIENTS[name], target, guide, num_particles, getkey())
    z = z_scores(draws, exact)
    assert np.abs(z).max(initial=0.0) < limit(max(len(z), 1))
    assert abs(values.mean() + float(exact_loss(guide))) < limit(1) * values.std() / np.sqrt(NUM_KEYS)


class DroppedScale(pf.Path):
    """Path with the entropy's gradient dropped: a mutation that the unbiasedness test must see."""

    def value_and_grad(self, key, objective, target, guide, num_particles, batch=None):
        class Flat(type(guide)):
            def sample_and_force(self, key, batch=None):
                position, log_q, force = super().sample_and_force(key, batch)
                return position, log_q, jax.tree.map(jnp.zeros_like, force)

        mutated = object.__new__(Flat)
        for field in guide.__dataclass_fields__:
            object.__setattr__(mutated, field, getattr(guide, field))
        return super().value_and_grad(key, objective, target, mutated, num_particles, batch)


def test_the_test_sees_a_dropped_term(getkey):
    target = registry.gaussian_target()
    guide = registry.GUIDES["MeanField"].build(target)
    dynamic, static = split(target, guide)
    exact = flat(jax.grad(lambda d: exact_loss(eqx.combine(d, static)))(dynamic.guide))
    gradient = DroppedScale()
    _, draws = gradient_draws(gradient, target, guide, 1, getkey())
    z = z_scores(draws, exact)
    assert np.abs(z).max() > 2 * limit(len(z))


def optimal(target):
    guide = pf.FullRank(target)
    return guide.affine(jnp.asarray(registry.MEAN) - 0.0 * guide.loc, jnp.asarray(registry.ROOT) / guide.init_scale)


def test_path_is_zero_where_the_guide_is_the_posterior(getkey):
    target = registry.gaussian_target()
    guide = optimal(target)
    values, draws = gradient_draws(pf.Path(), target, guide, 2, getkey())
    assert np.abs(draws).max() < 1e-10
    np.testing.assert_allclose(values, registry.LOG_EVIDENCE, rtol=1e-10)
    _, plain = gradient_draws(pf.Reparam(), target, guide, 2, getkey())
    assert plain.std(0).max() > 0.1


def test_general_objective_second_derivatives(getkey):
    """For F = logmeanexp the path formula's weights are the squared normalised weights (DReG)."""
    target = registry.gaussian_target()
    guide = registry.GUIDES["MeanField"].build(target)

    class LogMeanExp(pf.ELBO):
        def __call__(self, log_weights):
            return jax.nn.logsumexp(log_weights) - jnp.log(log_weights.size)

    key = getkey()
    estimate, grads = pf.Path().value_and_grad(key, LogMeanExp(), target, guide, 3)
    dynamic, static = split(target, guide)
    squared = jax.nn.softmax(estimate.log_weights) ** 2

    def surrogate(d):
        moving, total = eqx.combine(d, static), 0.0
        for k in range(3):
            z, _ = moving.sample_and_log_prob(jax.random.fold_in(key, k))
            total = total - squared[k] * (target.logdensity(z) - guide.log_prob(z))
        return total

    np.testing.assert_allclose(flat(grads.guide), flat(jax.grad(surrogate)(dynamic.guide)), rtol=1e-10)


@pytest.mark.parametrize("name", list(registry.GRADIENTS))
def test_model_parameters_get_the_plain_gradient(name, getkey):
    """d/dtheta of the ELBO of y | z ~ N(theta z, 1): closed form by moments of the guide."""
    import numpyro
    import numpyro.distributions as dist

    def model(y):
        theta = numpyro.param("theta", 0.7)
        z = numpyro.sample("z", dist.Normal(0.0, 1.0))
        numpyro.sample("y", dist.Normal(theta * z, 1.0), obs=y)

    target = pf.from_numpyro(model, jnp.asarray(1.3))
    guide = pf.MeanField(target, init_scale=0.5).affine(jnp.asarray([0.4]), jnp.asarray([1.0]))
    exact = -(1.3 * 0.4 - 0.7 * (0.4**2 + 0.25))

    def one(key):
        return registry.GRADIENTS[name].value_and_grad(key, pf.ELBO(), target, guide, 2)[1].model["theta"]

    draws = np.asarray(jax.jit(jax.vmap(one))(jax.random.split(getkey(), NUM_KEYS)))
    assert abs(draws.mean() - exact) < limit(1) * draws.std() / np.sqrt(NUM_KEYS)


def test_a_learned_baseline_may_be_any_network(getkey):
    """Activation functions are no arrays: what passes through ``jit`` must be, and steps must fit the estimator."""
    network = eqx.nn.MLP(2, "scalar", 4, 1, activation=jnp.tanh, key=getkey())
    gradient = pf.Score(pf.LearnedBaseline(eqx.nn.Sequential([eqx.nn.Lambda(lambda batch: jnp.ones(2)), network])))
    assert all(eqx.is_array(leaf) for leaf in jax.tree.leaves(gradient))
    target = registry.gaussian_target()
    guide = pf.MeanField(target)
    step = jax.jit(lambda gradient, key: gradient.value_and_grad(key, pf.ELBO(), target, guide, 4)[1].estimator)
    moved = jax.tree.map(jnp.subtract, gradient, step(gradient, getkey()))
    assert jax.tree.structure(moved) == jax.tree.structure(gradient)
    assert any(not np.array_equal(a, b) for a, b in zip(jax.tree.leaves(moved), jax.tree.leaves(gradient), strict=True))
