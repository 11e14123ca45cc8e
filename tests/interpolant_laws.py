"""Two mixtures on a line, the exact fields between them, and how far a cloud is from either."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
from scipy import stats

import pushforward as pf

si = pf.interpolants


def line(means, variances, weights=None):
    weights = np.ones(len(means)) if weights is None else weights
    means, variances = np.asarray(means, float)[:, None], np.asarray(variances, float)[:, None, None]
    return si.GaussianMixture(jnp.log(jnp.asarray(weights, float)), means, variances)


BASE, TARGET = line([-3.0, 3.0], [0.25, 0.25]), line([-6.0, 0.0, 6.0], [0.5, 0.33, 0.5], [1.0, 2.0, 1.0])
EXACT = si.MixtureFields(si.Linear(), BASE, TARGET)


def distribution(law, x):
    parts = stats.norm.cdf(x[:, None], np.asarray(law.means)[:, 0], np.sqrt(np.asarray(law.covariances)[:, 0, 0]))
    return parts @ np.exp(np.asarray(law.log_weights))


def excess(points, law, size=5_000):
    """What a wrong law adds to the energy distance of two exact samples of that size, as a share of it.

    With the law's distribution function F the squared distance of an empirical one is ``2 int (F_n - F)^2``, of which
    ``2 int F (1 - F) / n`` is expected from chance alone.
    """
    grid = np.linspace(-12.0, 12.0, 20_001)
    truth, found = distribution(law, grid), np.searchsorted(np.sort(points), grid) / len(points)
    chance = 2.0 * np.trapezoid(truth * (1.0 - truth), grid)
    return (2.0 * np.trapezoid((found - truth) ** 2, grid) - chance / len(points)) / (2.0 * chance / size)
