"""Stochastic-gradient samplers for the shared suite, with the stationary covariances of their linear recursions.

Each covariance is worked out from the update rule, written anew as a matrix recursion for a Gaussian of precision P.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import scipy.linalg

import pushforward as pf

Covariance = Callable[[np.ndarray], np.ndarray]


def lyapunov(transition: np.ndarray, noise: np.ndarray) -> np.ndarray:
    """S = A S A' + Q."""
    return scipy.linalg.solve_discrete_lyapunov(transition, noise)


def sghmc(step_size: float, friction: float, variance: float = 0.0, guess: float = 0.0) -> Covariance:
    """Momentum m' = (1 - a) m - eps P x + noise, then x' = x + eps m'."""

    def stationary(covariance: np.ndarray) -> np.ndarray:
        precision, one = np.linalg.inv(covariance), np.eye(len(covariance))
        momentum = np.hstack([-step_size * precision, (1 - friction) * one])
        transition = np.vstack([np.hstack([one, 0 * one]) + step_size * momentum, momentum])
        spread = 2 * friction + step_size**2 * (variance - guess)
        into = np.vstack([step_size * one, one])
        return lyapunov(transition, spread * into @ into.T)[: len(one), : len(one)]

    return stationary


def baoab(step_size: float, friction: float, variance: float = 0.0) -> Covariance:
    """Kick, half drift, friction and noise, half drift."""

    def stationary(covariance: np.ndarray) -> np.ndarray:
        precision, one = np.linalg.inv(covariance), np.eye(len(covariance))
        zero, c = 0 * one, np.exp(-friction)
        kick = np.block([[one, zero], [-step_size * precision, one]])
        drift = np.block([[one, 0.5 * step_size * one], [zero, one]])
        rub = np.block([[one, zero], [zero, c * one]])
        after = drift @ rub @ drift
        into_kick = after @ np.vstack([zero, step_size * one])
        into_rub = drift @ np.vstack([zero, np.sqrt(1 - c**2) * one])
        noise = variance * into_kick @ into_kick.T + into_rub @ into_rub.T
        return lyapunov(after @ kick, noise)[: len(one), : len(one)]

    return stationary


def psgld(step_size: float) -> Covariance:
    """Euler steps with M = diag(1 / rms gradient), which a long memory makes constant."""

    def stationary(covariance: np.ndarray) -> np.ndarray:
        precision, current = np.linalg.inv(covariance), covariance
        for _ in range(50):
            scale = np.diag(1 / np.sqrt(np.diag(precision @ current @ precision)))
            current = lyapunov(np.eye(len(scale)) - step_size * scale @ precision, 2 * step_size * scale)
        return current

    return stationary


def cyclical(step_size: float, length: int, first: int) -> Covariance:
    """Second moments over the drawing phase of a cycle that has become periodic."""

    def stationary(covariance: np.ndarray) -> np.ndarray:
        precision, one = np.linalg.inv(covariance), np.eye(len(covariance))
        current, total = 0 * one, 0 * one
        for _ in range(20):
            total = 0 * one
            for k in range(length):
                size = 0.5 * step_size * (1 + np.cos(np.pi * k / length))
                move = one - size * precision
                current = move @ current @ move.T + (2 * size * one if k >= first else 0)
                total = total + (current if k >= first else 0)
        return total / (length - first)

    return stationary


def entropy(step_size: float, eta: float, *, smoothed: bool) -> Covariance:
    """Kick x, then the exact law of x - a and x + a."""

    def stationary(covariance: np.ndarray) -> np.ndarray:
        precision, one = np.linalg.inv(covariance), np.eye(len(covariance))
        kick = scipy.linalg.block_diag(one - step_size * precision, one)
        keep = np.exp(-2 * step_size / eta)
        plus, minus = 0.5 * (1 + keep), 0.5 * (1 - keep)
        couple = np.kron(np.array([[plus, minus], [minus, plus]]), one)
        gap, total = eta * (1 - keep**2) / 4, step_size
        noise = np.kron(np.array([[total + gap, total - gap], [total - gap, total + gap]]), one)
        found = lyapunov(couple @ kick, noise)
        size = len(one)
        return found[size:, size:] if smoothed else found[:size, :size]

    return stationary


def structured(step_size: float, blocks: list[list[int]]) -> Covariance:
    """Blocks independent of each other; the others' past acts as gradient noise."""

    def stationary(covariance: np.ndarray) -> np.ndarray:
        precision, current = np.linalg.inv(covariance), covariance
        for _ in range(200):
            fresh = np.zeros_like(current)
            for block in blocks:
                others = [i for i in range(len(current)) if i not in block]
                own, cross = np.ix_(block, block), precision[np.ix_(block, others)]
                one = np.eye(len(block))
                noise = 2 * step_size * one + step_size**2 * cross @ current[np.ix_(others, others)] @ cross.T
                fresh[own] = lyapunov(one - step_size * precision[own], noise)
            current = fresh
        return current

    return stationary


SGMCMC: dict[str, dict[str, Any]] = {
    "PSGLD": {
        "build": lambda: pf.PSGLD(0.2, decay=0.9995, curvature=True),
        "covariance": psgld(0.2),
        "num_steps": 20_000,
        "num_warmup": 10_000,
    },
    "SGHMC": {"build": lambda: pf.SGHMC(0.5), "covariance": sghmc(0.5, 0.1), "num_steps": 10_000},
    "BAOAB": {"build": lambda: pf.BAOAB(0.5), "covariance": baoab(0.5, 0.1), "num_steps": 10_000},
    "SGNHT": {"build": lambda: pf.SGNHT(0.2), "covariance": lambda covariance: covariance, "num_steps": 20_000},
    "CyclicalSGLD": {
        "build": lambda: pf.CyclicalSGLD(0.5, cycle_length=200),
        "covariance": cyclical(0.5, 200, 100),
        "num_steps": 20_000,
    },
    "EntropyMCMC": {
        "build": lambda: pf.EntropyMCMC(0.2, eta=0.5),
        "covariance": entropy(0.2, 0.5, smoothed=True),
        "num_steps": 20_000,
    },
    "StructuredSGLD": {
        "build": lambda: pf.StructuredSGLD(0.1, memory=200, stride=5),
        "covariance": structured(0.1, [[0], [1, 2]]),
        "num_steps": 20_000,
        "num_warmup": 5_000,
    },
}
