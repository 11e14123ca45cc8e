"""Linear-Gaussian state space: z_0 ~ N(m, P), z_t ~ N(A z_(t-1), Q), y_t ~ N(C z_t, R). Kalman filter and smoother."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np


class StateSpace(NamedTuple):
    """The matrices of the model."""

    mean: np.ndarray
    covariance: np.ndarray
    transition: np.ndarray
    process: np.ndarray
    emission: np.ndarray
    noise: np.ndarray


class Smoothed(NamedTuple):
    """Filtered and smoothed moments, each with a leading time axis, and log p(y)."""

    filtered_mean: np.ndarray
    filtered_covariance: np.ndarray
    mean: np.ndarray
    covariance: np.ndarray
    log_evidence: float


def smooth(model: StateSpace, y: np.ndarray) -> Smoothed:
    """Forward filter (Joseph form) and Rauch-Tung-Striebel backward pass over y (t, k)."""
    m, p, a, q, c, r = model
    means, covariances, predicted, total = [], [], [], 0.0
    eye = np.eye(m.size)
    for t, value in enumerate(y):
        if t:
            m, p = a @ m, a @ p @ a.T + q
        predicted.append((m, p))
        s = c @ p @ c.T + r
        residual = value - c @ m
        total -= 0.5 * (np.linalg.slogdet(2 * np.pi * s)[1] + residual @ np.linalg.solve(s, residual))
        gain = np.linalg.solve(s, c @ p).T
        m = m + gain @ residual
        p = (eye - gain @ c) @ p @ (eye - gain @ c).T + gain @ r @ gain.T
        means.append(m)
        covariances.append(p)
    smooth_m, smooth_p = [means[-1]], [covariances[-1]]
    for t in range(len(y) - 2, -1, -1):
        next_m, next_p = predicted[t + 1]
        gain = np.linalg.solve(next_p, a @ covariances[t]).T
        smooth_p.append(covariances[t] + gain @ (smooth_p[-1] - next_p) @ gain.T)
        smooth_m.append(means[t] + gain @ (smooth_m[-1] - next_m))
    return Smoothed(
        np.array(means), np.array(covariances), np.array(smooth_m[::-1]), np.array(smooth_p[::-1]), float(total)
    )
