"""Expectations over K independent draws of a one-dimensional Gaussian, by Gauss-Hermite quadrature.

A function of the draws that is symmetric in them needs each multiset of nodes only once, so that four draws with 40
nodes cost 1e5 evaluations instead of 2.6e6.
"""

from __future__ import annotations

import functools
import itertools
import math

import numpy as np
from scipy import special


@functools.cache
def nodes(num_draws: int, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Multisets of standard normal nodes, (n, num_draws), and their probabilities, (n,)."""
    points, weights = np.polynomial.hermite_e.hermegauss(count)
    weights = weights / weights.sum()
    index = np.array(list(itertools.combinations_with_replacement(range(count), num_draws)))
    same = np.array([np.bincount(row, minlength=count) for row in index])
    orders = math.factorial(num_draws) / np.prod(special.factorial(same), axis=1)
    return points[index], orders * np.prod(weights[index], axis=1)


def expectation(function, num_draws: int, count: int = 40) -> np.ndarray:
    """E[function(eps)] for eps (n, num_draws) standard normal; the function returns (n, ...) and is symmetric."""
    eps, weights = nodes(num_draws, count)
    return np.tensordot(weights, np.asarray(function(eps)), 1)


def derivative(function, at: np.ndarray, step: float = 1e-2) -> np.ndarray:
    """Gradient of a smooth scalar function of a vector by sixth-order central differences."""
    out = np.zeros(len(at))
    for i in range(len(at)):
        for multiple, weight in ((1, 45.0), (2, -9.0), (3, 1.0)):
            shift = np.zeros(len(at))
            shift[i] = multiple * step
            out[i] += weight * (function(at + shift) - function(at - shift)) / (60.0 * step)
    return out


# Objectives of log-weights (n, K), written anew from their definitions.


def power_mean(log_w, power):
    """Log mean w^power / power over the last axis."""
    if power == 0:
        return log_w.mean(-1)
    return (special.logsumexp(power * log_w, axis=-1) - np.log(log_w.shape[-1])) / power


def tvo(log_w, partition):
    """Left Riemann sum of self-normalised tempered means."""
    total = 0.0
    for low, high in itertools.pairwise(partition):
        w = np.exp(low * (log_w - log_w.max(-1, keepdims=True)))
        total = total + (high - low) * (w * log_w).sum(-1) / w.sum(-1)
    return total
