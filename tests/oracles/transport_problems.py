"""Transport problems, and what is asked of any solution of them, computed from its potentials alone in float64."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from scipy.special import logsumexp


class Histograms(NamedTuple):
    cost: jax.Array
    a: jax.Array
    b: jax.Array


def random_costs(seed: int, n: int = 500) -> Histograms:
    """Costs uniform on [0, 1] and equal weights: an assignment problem, smoothed."""
    uniform = jnp.full((n,), 1.0 / n)
    return Histograms(jax.random.uniform(jax.random.key(seed), (n, n)), uniform, uniform)


def images(norm: str, side: int) -> Histograms:
    """Two images of uneven brightness on a square grid; the largest cost is one."""
    grid = np.stack(np.meshgrid(np.arange(side), np.arange(side)), -1).reshape(-1, 2) / (side - 1)
    difference = grid[:, None] - grid[None]
    cost = np.sum(difference**2, -1) if norm == "L2" else np.sum(np.abs(difference), -1)

    def brightness(seed: int) -> jax.Array:
        light = np.random.default_rng(seed).uniform(size=side**2) ** 4 + 1e-3
        return jnp.asarray(light / light.sum())

    return Histograms(jnp.asarray(cost / cost.max()), brightness(1), brightness(2))


def clouds(seed: int, dim: int, n: int = 1000) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Two clouds with weights, a tenth of which are zero, and a tenth of whose points are doubled."""
    rng = np.random.default_rng(seed)
    sets = []
    for shift in (0.0, 0.5):
        points = rng.normal(size=(n, dim)) + shift
        points[: n // 10] = points[n // 10 : 2 * (n // 10)]
        weights = rng.gamma(1.0, size=n)
        weights[-(n // 10) :] = 0.0
        sets.append((points, weights / weights.sum()))
    (x, a), (y, b) = sets
    return x, y, a, b


def marginal_error(cost: np.ndarray, a: np.ndarray, b: np.ndarray, potentials: object, epsilon: float) -> float:
    """Summed deviation of both marginals of the plan of these potentials."""
    f, g = (np.asarray(p, np.float64) for p in potentials)  # type: ignore[attr-defined]
    plan = np.asarray(a)[:, None] * np.asarray(b) * np.exp((f[:, None] + g - np.asarray(cost)) / epsilon)
    return float(np.abs(plan.sum(1) - a).sum() + np.abs(plan.sum(0) - b).sum())


def optimum(cost: np.ndarray, a: np.ndarray, b: np.ndarray, potentials: object, epsilon: float) -> float:
    """Value at the optimum, from potentials near it: plain sweeps, the dual being flat there."""
    g = np.asarray(potentials[1], np.float64)  # type: ignore[index]
    rows, columns = a > 0, b > 0
    cost, a, b, g = cost[rows][:, columns], a[rows], b[columns], g[columns]
    for _ in range(20):
        f = -epsilon * logsumexp((g - cost) / epsilon, b=b, axis=1)
        g = -epsilon * logsumexp((f[:, None] - cost) / epsilon, b=a[:, None], axis=0)
    return float(a @ f + b @ g)
