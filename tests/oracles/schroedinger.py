"""Entropic plans known in closed form, from a chosen potential, and how far a fitted one is from them.

After Gushchin et al., Building the bridge of Schroedinger, arXiv:2306.10161, section 4: x is standard normal and
``pi(y | x)`` proportional to ``N(y; x, epsilon I) sum_k N(y; mu_k, Sigma_k)`` with mu_k on a sphere of radius 5. Their
covariances are multiples of the identity, ours have random axes and variances.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

import pushforward as pf

NUM_COMPONENTS, RADIUS = 5, 5.0


def true_plan(dim: int, epsilon: float, seed: int) -> pf.transport.LightSB:
    """Products of Gaussians, written as v(y) exp(<x, y> / epsilon)."""
    rng = np.random.default_rng(seed)
    centres = rng.normal(size=(NUM_COMPONENTS, dim))
    centres *= RADIUS / np.linalg.norm(centres, axis=1, keepdims=True)
    log_weights, locations, scales = [], [], []
    for centre in centres:
        axes = np.linalg.qr(rng.normal(size=(dim, dim)))[0]
        covariance = axes * rng.uniform(0.3, 1.5, size=dim) @ axes.T
        both = np.linalg.inv(np.eye(dim) / epsilon + np.linalg.inv(covariance))
        predictive = covariance + epsilon * np.eye(dim)
        log_weights.append(-0.5 * centre @ np.linalg.solve(predictive, centre) - 0.5 * np.linalg.slogdet(predictive)[1])
        locations.append(both @ np.linalg.solve(covariance, centre))
        scales.append(both / epsilon)
    return pf.transport.LightSB(*(jnp.asarray(np.stack(v)) for v in (log_weights, locations, scales)), epsilon)


def draws(plan: pf.transport.LightSB, key: jax.Array, num: int) -> tuple[jax.Array, jax.Array]:
    """Independent x and y."""
    keys = jax.random.split(key, 3)
    x, others = (jax.random.normal(k, (num, plan.dim)) for k in keys[:2])
    return x, plan.sample(keys[2], others)


def errors(plan: pf.transport.LightSB, truth: pf.transport.LightSB, key: jax.Array) -> tuple[float, float]:
    """Bures-Wasserstein errors of y given x and of y, in per cent of half the total variance of y (cBW2-UVP, BW2-UVP).

    All moments given x are in closed form; only x is drawn, the same for both plans.
    """
    x = jax.random.normal(key, (10_000, truth.dim))
    ours, theirs = plan.moments(x), truth.moments(x)
    distance = jax.vmap(pf.transport.bures_wasserstein)
    conditional = jnp.mean(distance(*(v[:2_000] for v in (*ours, *theirs))))
    both = [(m.mean(0), jnp.atleast_2d(jnp.cov(m.T)) + c.mean(0)) for m, c in (ours, theirs)]
    unit = 0.5 * jnp.trace(both[1][1])
    marginal = pf.transport.bures_wasserstein(*both[0], *both[1])
    return float(100 * conditional / unit), float(100 * marginal / unit)
