"""Every registered objective on a one-dimensional conjugate Gaussian, with exact gradients by quadrature.

y | z ~ N(theta z, 1), z ~ N(0, 1); the guide is wider than the posterior, so that all weights are bounded.
"""

from __future__ import annotations

import functools

import jax.numpy as jnp
import numpy as np
import registry
from oracles import k_draws

import pushforward as pf

Y, AT = 1.3, np.array([0.4, 0.0, 0.7])
"""Datum; guide's location and log scale, and model parameter, at which gradients are taken."""
LOG_CONSTANT = 1.6
"""Added to the log-density: log evidence near zero, so that score gradients without a baseline are not all noise."""


@pf.objective
def soft(log_weights):
    """A user's objective, which is no power mean."""
    return jnp.mean(log_weights) - 0.1 * jnp.mean((log_weights - jnp.mean(log_weights)) ** 2)


def soft_exact(log_w):
    return log_w.mean(-1) - 0.1 * log_w.var(-1)


CASES = {
    **{f"{name} {i}": case for name, cases in registry.OBJECTIVES.items() for i, case in enumerate(cases)},
    "custom": registry.ObjectiveCase(soft, soft_exact, soft_exact, soft_exact),
    "custom, minimised": registry.ObjectiveCase(
        pf.objective(minimise=True)(lambda w: jnp.var(w)),
        lambda log_w: log_w.var(-1),
        lambda log_w: -log_w.var(-1),
        lambda log_w: k_draws.power_mean(log_w, 1.0),
    ),
}


def log_weights(eps, at, y=Y):
    """Log-weights of draws at + scale * eps, (n, K)."""
    loc, log_scale, theta = at
    z = loc + np.exp(log_scale) * eps
    log_p = -0.5 * z**2 - 0.5 * (y - theta * z) ** 2 - np.log(2 * np.pi) + LOG_CONSTANT
    return log_p + 0.5 * eps**2 + log_scale + 0.5 * np.log(2 * np.pi)


@functools.cache
def exact_gradient(
    name: str, num_particles: int, count: int = 20, y: float = Y, at: tuple[float, ...] = tuple(AT)
) -> np.ndarray:
    """Gradient of the losses in (loc, log scale, theta)."""
    case, at = CASES[name], np.array(at)

    def gain(function, moved):
        return float(k_draws.expectation(lambda eps: function(log_weights(eps, moved, y)), num_particles, count))

    theta = k_draws.derivative(lambda t: gain(case.model, np.array([*at[:2], t[0]])), at[2:])
    if case.objective.fixed_draws:

        def scores(eps):
            factors = case.guide(log_weights(eps, at, y))
            return np.stack([(factors * eps).sum(-1) / np.exp(at[1]), (factors * (eps**2 - 1)).sum(-1)], -1)

        guide = k_draws.expectation(scores, num_particles, count)
    else:
        guide = k_draws.derivative(lambda g: gain(case.guide, np.array([*g, at[2]])), at[:2])
    return -np.concatenate([guide, theta])
