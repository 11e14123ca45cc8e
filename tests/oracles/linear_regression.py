"""Bayesian linear regression: y ~ N(X b, s2 I), b ~ N(0, t2 I), variances known."""

from __future__ import annotations

import numpy as np
from scipy import linalg


def posterior(x, y, noise_variance: float, prior_variance: float) -> tuple[np.ndarray, np.ndarray]:
    """Mean and covariance of the coefficients."""
    precision = x.T @ x / noise_variance + np.eye(x.shape[1]) / prior_variance
    covariance = np.linalg.inv(precision)
    return covariance @ x.T @ y / noise_variance, covariance


def log_evidence(x, y, noise_variance: float, prior_variance: float) -> float:
    """Log p(y), by the matrix inversion and determinant lemmas (d x d work only)."""
    n, d = x.shape
    precision = x.T @ x / noise_variance + np.eye(d) / prior_variance
    root = np.linalg.cholesky(precision)
    half = linalg.solve_triangular(root, x.T @ y / noise_variance, lower=True)
    log_det = 2 * np.log(np.diagonal(root)).sum() + d * np.log(prior_variance) + n * np.log(noise_variance)
    return float(-0.5 * (n * np.log(2 * np.pi) + log_det + y @ y / noise_variance - half @ half))
