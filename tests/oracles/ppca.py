"""Probabilistic PCA: x ~ N(mean, W W' + s2 I), maximum likelihood (Tipping and Bishop, 1999)."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np


class PPCA(NamedTuple):
    """Maximum-likelihood parameters and the mean log-likelihood per datum that they reach."""

    mean: np.ndarray
    loadings: np.ndarray
    variance: float
    log_likelihood: float


def maximum_likelihood(x: np.ndarray, rank: int) -> PPCA:
    """From the spectrum of the sample covariance of x (n, d)."""
    n, d = x.shape
    mean = x.mean(0)
    values, vectors = np.linalg.eigh((x - mean).T @ (x - mean) / n)
    values, vectors = values[::-1], vectors[:, ::-1]
    variance = values[rank:].mean()
    loadings = vectors[:, :rank] * np.sqrt(values[:rank] - variance)
    log_det = np.log(values[:rank]).sum() + (d - rank) * np.log(variance)
    return PPCA(mean, loadings, float(variance), float(-0.5 * (d * np.log(2 * np.pi) + log_det + d)))


def log_likelihood(x: np.ndarray, mean, loadings, variance) -> float:
    """Mean log-density per datum at any parameters."""
    c = loadings @ loadings.T + variance * np.eye(x.shape[1])
    centred = x - mean
    quadratic = np.einsum("nd,dn->n", centred, np.linalg.solve(c, centred.T))
    return float(-0.5 * (np.linalg.slogdet(2 * np.pi * c)[1] + quadratic.mean()))
