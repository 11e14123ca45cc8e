"""Gaussian process regression with a squared-exponential kernel and Gaussian noise."""

from __future__ import annotations

import numpy as np
from scipy import linalg


def kernel(a, b, amplitude: float, length: float) -> np.ndarray:
    """amplitude^2 exp(-(a - b)^2 / (2 length^2)) for one-dimensional inputs."""
    return amplitude**2 * np.exp(-0.5 * ((a[:, None] - b[None, :]) / length) ** 2)


def log_evidence(x, y, amplitude: float, length: float, noise: float) -> float:
    """Log N(y; 0, K + noise^2 I), by Cholesky."""
    root = linalg.cho_factor(kernel(x, x, amplitude, length) + noise**2 * np.eye(x.size), lower=True)
    log_det = 2 * np.log(np.diagonal(root[0])).sum()
    return float(-0.5 * (y @ linalg.cho_solve(root, y) + log_det + x.size * np.log(2 * np.pi)))


def posterior(x, y, at, amplitude: float, length: float, noise: float) -> tuple[np.ndarray, np.ndarray]:
    """Mean and covariance of the latent function at the points ``at``."""
    root = linalg.cho_factor(kernel(x, x, amplitude, length) + noise**2 * np.eye(x.size), lower=True)
    cross = kernel(at, x, amplitude, length)
    covariance = kernel(at, at, amplitude, length) - cross @ linalg.cho_solve(root, cross.T)
    return cross @ linalg.cho_solve(root, y), covariance
