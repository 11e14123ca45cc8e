"""The Stein identity as a test that a target has the density its draws came from.

For draws x of a density p on unconstrained space and its score s = grad log p: E[s_j] = 0 and Cov(x_j, s_j) = -1. Both
sides are estimated from independent draws, so the test needs no sampler and no reference but the draws.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree
from scipy import stats

from pushforward.models import Target


class SteinCheck(NamedTuple):
    z: np.ndarray
    """z-scores of E[s_j] = 0, then of Cov(x_j, s_j) = -1: length 2 x dim."""
    threshold: float
    """Two-sided bound with the family-wise false-alarm rate that was asked for (Bonferroni, Student t)."""

    @property
    def passes(self) -> bool:
        return bool(np.all(np.isfinite(self.z)) and np.max(np.abs(self.z)) < self.threshold)


def stein_check(target: Target, latents: dict[str, Any], *, false_alarm_rate: float, num_tests: int) -> SteinCheck:
    """Check the identity at independent draws of the latent sites, as one part of a family of ``num_tests`` tests."""

    def position_and_score(values: dict[str, jax.Array]) -> tuple[jax.Array, jax.Array]:
        position = target.program.invert(values)[0]
        return ravel_pytree(position)[0], ravel_pytree(jax.grad(target.logdensity)(position))[0]

    arrays = {site: jnp.asarray(value) for site, value in latents.items()}
    x, s = (np.asarray(out) for out in jax.jit(jax.vmap(position_and_score))(arrays))
    n = len(x)
    products = (x - x.mean(axis=0)) * (s - s.mean(axis=0)) * n / (n - 1)
    z = [_z(s), _z(products + 1.0)]
    return SteinCheck(np.concatenate(z), float(stats.t.isf(false_alarm_rate / num_tests / 2, n - 1)))


def _z(sample: np.ndarray) -> np.ndarray:
    return sample.mean(axis=0) / (sample.std(axis=0, ddof=1) / np.sqrt(len(sample)))
