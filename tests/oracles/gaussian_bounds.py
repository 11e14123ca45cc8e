"""Divergences and bounds between a Gaussian guide q and a Gaussian posterior p, in closed form."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np


class Gaussian(NamedTuple):
    """Mean (d,) and covariance (d, d)."""

    mean: np.ndarray
    covariance: np.ndarray


def gaussian(mean, covariance) -> Gaussian:
    """From scalars or arrays."""
    mean = np.atleast_1d(np.asarray(mean, float))
    return Gaussian(mean, np.asarray(covariance, float).reshape(mean.size, mean.size))


def kl(a: Gaussian, b: Gaussian) -> float:
    """KL(a || b)."""
    precision, d = np.linalg.inv(b.covariance), b.mean - a.mean
    log_ratio = np.linalg.slogdet(b.covariance)[1] - np.linalg.slogdet(a.covariance)[1]
    return float(0.5 * (np.trace(precision @ a.covariance) + d @ precision @ d - d.size + log_ratio))


def log_moment(q: Gaussian, p: Gaussian, n: float) -> float:
    """Log E_q[(p / q)^n], infinite where n P + (1 - n) Q (precisions) is not positive definite."""
    big_p, big_q = np.linalg.inv(p.covariance), np.linalg.inv(q.covariance)
    a = n * big_p + (1 - n) * big_q
    if np.linalg.eigvalsh(a).min() <= 0:
        return np.inf
    b = n * big_p @ p.mean + (1 - n) * big_q @ q.mean
    c = n * p.mean @ big_p @ p.mean + (1 - n) * q.mean @ big_q @ q.mean
    dets = n * np.linalg.slogdet(big_p)[1] + (1 - n) * np.linalg.slogdet(big_q)[1] - np.linalg.slogdet(a)[1]
    return float(0.5 * (dets + b @ np.linalg.solve(a, b) - c))


def elbo(q: Gaussian, p: Gaussian, log_evidence: float) -> float:
    """Log evidence - KL(q || p)."""
    return log_evidence - kl(q, p)


def renyi(q: Gaussian, p: Gaussian, log_evidence: float, alpha: float) -> float:
    """Log E_q[w^(1 - alpha)] / (1 - alpha) with infinitely many draws; alpha = 1 is the ELBO."""
    if alpha == 1:
        return elbo(q, p, log_evidence)
    if np.isposinf(alpha):
        return log_evidence + essential_minimum(q, p)
    return log_evidence + log_moment(q, p, 1 - alpha) / (1 - alpha)


def cubo(q: Gaussian, p: Gaussian, log_evidence: float, n: float) -> float:
    """Log E_q[w^n] / n."""
    return log_evidence + log_moment(q, p, n) / n


def chi_square(q: Gaussian, p: Gaussian) -> float:
    """Forward chi-square divergence E_q[(p / q)^2] - 1."""
    return float(np.expm1(log_moment(q, p, 2.0)))


def essential_minimum(q: Gaussian, p: Gaussian) -> float:
    """Min over z of log p(z) - log q(z), minus infinity where it is unbounded below."""
    big_p, big_q = np.linalg.inv(p.covariance), np.linalg.inv(q.covariance)
    a = big_q - big_p
    if np.linalg.eigvalsh(a).min() <= 0:
        return -np.inf
    z = np.linalg.solve(a, big_q @ q.mean - big_p @ p.mean)
    return float(log_density(p, z) - log_density(q, z))


def log_density(g: Gaussian, z) -> float:
    """Log-density of one point."""
    d = z - g.mean
    logdet = np.linalg.slogdet(2 * np.pi * g.covariance)[1]
    return -0.5 * (logdet + d @ np.linalg.solve(g.covariance, d))
