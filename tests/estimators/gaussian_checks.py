"""A curved target, the exact gradient of its ELBO for a Gaussian guide, and how far an estimator is from it."""

from __future__ import annotations

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import scipy.stats

import pushforward as pf
from pushforward.estimators.gradients import split


def curved_target():
    """Neither quadratic nor separable."""

    def logdensity(position):
        x = jnp.concatenate([position["a"][None], position["b"]])
        return -jnp.sum(jnp.cosh(x - 0.3)) + 0.3 * jnp.sin(x[0] * x[1]) + jnp.tanh(x[2] * x[0])

    return pf.from_logdensity(logdensity, {"a": jnp.zeros(()), "b": jnp.zeros(2)})


def draws(gradient, target, guide, num_particles, key, repeats):
    def one(key):
        grads = gradient.value_and_grad(key, pf.ELBO(), target, guide, num_particles)[1].guide
        return jnp.concatenate([jnp.ravel(x) for x in jax.tree.leaves(grads)])

    return np.asarray(jax.jit(jax.vmap(one))(jax.random.split(key, repeats)))


def quadrature(target, guide, count=14):
    """Gradient of minus the ELBO by a tensor product of Gauss-Hermite rules over the guide's noise."""
    nodes, weights = np.polynomial.hermite_e.hermegauss(count)
    inner = guide.inner if hasattr(guide, "inner") else guide
    dim = inner.noise_dim
    eps = jnp.asarray(np.stack(np.meshgrid(*[nodes] * dim, indexing="ij"), -1).reshape(-1, dim))
    mass = jnp.asarray(np.prod(np.stack(np.meshgrid(*[weights] * dim, indexing="ij"), -1).reshape(-1, dim), 1))
    parameters, static = split(target, guide)

    def loss(learned):
        joined = eqx.combine(learned, static)

        def one(eps):
            position, log_q = joined.sample_and_log_prob(eps)
            return target.logdensity(position) - log_q

        return -jnp.vdot(mass / mass.sum(), jax.vmap(one)(eps))

    return np.concatenate([np.ravel(x) for x in jax.tree.leaves(jax.jit(jax.grad(loss))(parameters.guide))])


def z_score(found, exact):
    return np.abs((found.mean(0) - exact) / (found.std(0) / np.sqrt(len(found)) + 1e-7)).max()


def limit(count):
    """Largest |z| that a correct estimator exceeds anywhere here with probability 1e-6."""
    return scipy.stats.norm.isf(1e-6 / (2 * 16 * count))
