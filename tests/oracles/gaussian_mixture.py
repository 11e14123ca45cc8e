"""Gaussian mixtures: density, moments, conditional expectation of a function by quadrature, draws."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from scipy import special


class Mixture(NamedTuple):
    """Weights (c,), means (c, d), covariances (c, d, d)."""

    weights: np.ndarray
    means: np.ndarray
    covariances: np.ndarray


def log_density(mixture: Mixture, x: np.ndarray) -> np.ndarray:
    """Log-density of x (n, d)."""
    parts = []
    for weight, mean, covariance in zip(*mixture, strict=True):
        root = np.linalg.cholesky(covariance)
        white = np.linalg.solve(root, (x - mean).T)
        norm = np.log(np.diagonal(root)).sum() + 0.5 * len(mean) * np.log(2 * np.pi)
        parts.append(np.log(weight) - norm - 0.5 * (white**2).sum(0))
    return special.logsumexp(parts, axis=0)


def moments(mixture: Mixture) -> tuple[np.ndarray, np.ndarray]:
    """Mean and covariance."""
    mean = mixture.weights @ mixture.means
    d = mixture.means - mean
    within = np.einsum("c,cij->ij", mixture.weights, mixture.covariances)
    return mean, within + np.einsum("c,ci,cj->ij", mixture.weights, d, d)


def expectation(mixture: Mixture, function, count: int = 100) -> float:
    """E[function(z)] of a one-dimensional mixture, by Gauss-Hermite quadrature within each component."""
    points, weights = np.polynomial.hermite_e.hermegauss(count)
    z = mixture.means[:, 0, None] + np.sqrt(mixture.covariances[:, 0, 0, None]) * points
    return float(mixture.weights @ (function(z) @ (weights / weights.sum())))


def draw(rng: np.random.Generator, mixture: Mixture, count: int) -> np.ndarray:
    """Independent draws (count, d)."""
    component = rng.choice(len(mixture.weights), count, p=mixture.weights / mixture.weights.sum())
    roots = np.linalg.cholesky(mixture.covariances)
    noise = rng.standard_normal((count, mixture.means.shape[1]))
    return mixture.means[component] + np.einsum("nij,nj->ni", roots[component], noise)
