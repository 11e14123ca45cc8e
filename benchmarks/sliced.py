"""Sliced Wasserstein with control variates: variance, cost and bias against plain Monte Carlo, at ten directions.

Two clouds of Gaussian points in 50 dimensions, anisotropic with axes turned against each other, and shifted. Variance
and bias from 20,000 estimates of clouds of 100 points each; the truth for the bias is the mean of plain estimates over
whole orthonormal bases, with its own error. Cost with 1,000 points each, in turn, medians, one compiled call. For
comparison the published estimators, whose coefficients are regressions over the same directions (arXiv:2305.00402).

Run ``python benchmarks/sliced.py``.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Callable
from statistics import median
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

import pushforward as pf

DIM, DIRECTIONS = 50, 10
REPEATS, BASES = 20_000, 20_000
VARIANCE, COST, BIAS = 0.1, 1.3, 1e-3


class Row(NamedTuple):
    """One way to estimate."""

    what: str
    variance: float
    """Relative to plain Monte Carlo."""
    cost: float
    """Relative to plain Monte Carlo."""
    bias: float
    """Relative to the distance."""
    bias_error: float
    promised: bool

    @property
    def holds(self) -> bool:
        """Whether the bounds hold."""
        return self.variance <= VARIANCE and self.cost <= COST and abs(self.bias) <= BIAS


def clouds(num: int) -> tuple[jax.Array, jax.Array]:
    """Variances between 0.1 and 2 along random axes; a shift of length 2."""
    rng = np.random.default_rng(0)
    axes = np.sqrt(np.linspace(0.1, 2.0, DIM))
    turn = np.linalg.qr(rng.normal(size=(DIM, DIM)))[0]
    shift = rng.normal(size=DIM)
    x, y = rng.normal(size=(num, DIM)) * axes, (rng.normal(size=(num, DIM)) * axes[::-1]) @ turn
    return jnp.asarray(x), jnp.asarray(y + 2.0 * shift / np.linalg.norm(shift))


def regressed(key: jax.Array, x: jax.Array, y: jax.Array, *, upper: bool) -> jax.Array:
    """The published estimator: one control, its coefficient from the same directions."""
    directions = jax.random.normal(key, (DIRECTIONS, DIM), x.dtype)
    directions = directions / jnp.linalg.norm(directions, axis=1, keepdims=True)
    low, high = directions @ x.T, directions @ y.T
    values = jnp.mean((jnp.sort(low, axis=1) - jnp.sort(high, axis=1)) ** 2, axis=1)
    control = (low.mean(1) - high.mean(1)) ** 2
    known = jnp.sum((x.mean(0) - y.mean(0)) ** 2) / DIM
    if upper:
        control = control + low.var(1) + high.var(1)
        known = known + (jnp.sum(x.var(0)) + jnp.sum(y.var(0))) / DIM
    centred = control - control.mean()
    slope = jnp.mean(centred * (values - values.mean())) / jnp.mean(centred**2)
    return jnp.mean(values) - slope * (jnp.mean(control) - known)


def truth() -> tuple[float, float]:
    """The sliced distance and its standard error, without a control."""
    x, y = clouds(100)

    def one(key: jax.Array) -> jax.Array:
        basis = jnp.linalg.qr(jax.random.normal(key, (DIM, DIM), x.dtype))[0]
        return jnp.mean((jnp.sort(basis @ x.T, axis=1) - jnp.sort(basis @ y.T, axis=1)) ** 2)

    values = np.asarray(
        jax.jit(lambda k: jax.lax.map(one, k, batch_size=100))(jax.random.split(jax.random.key(1), BASES))
    )
    return float(values.mean()), float(values.std() / BASES**0.5)


def estimates(method: Callable[..., jax.Array]) -> np.ndarray:
    """Independent estimates of one distance."""
    x, y = clouds(100)
    keys = jax.random.split(jax.random.key(2), REPEATS)
    return np.asarray(jax.jit(lambda k: jax.lax.map(lambda key: method(key, x, y), k, batch_size=200))(keys))


def costs(methods: dict[str, Any]) -> dict[str, float]:
    """Seconds per call, in turn."""
    x, y = clouds(1000)
    key = jax.random.key(3)
    programs = {name: jax.jit(method) for name, method in methods.items()}
    taken: dict[str, list[float]] = {name: [] for name in programs}
    for _ in range(201):
        for name, program in programs.items():
            began = time.perf_counter()
            jax.block_until_ready(program(key, x, y))
            taken[name].append(time.perf_counter() - began)
    return {name: median(seconds[1:]) for name, seconds in taken.items()}


def main() -> list[Row]:
    """Measure and print."""
    jax.config.update("jax_enable_x64", True)
    ours = functools.partial(pf.transport.sliced_wasserstein, num_directions=DIRECTIONS)
    methods: dict[str, Any] = {
        "plain": functools.partial(ours, control=None),
        "lower": functools.partial(ours, control="lower"),
        "upper": functools.partial(ours, control="upper"),
        "lower, regressed": functools.partial(regressed, upper=False),
        "upper, regressed": functools.partial(regressed, upper=True),
    }
    exact, exact_error = truth()
    seconds = costs(methods)
    rows, plain = [], float(estimates(methods["plain"]).var())
    for name, method in methods.items():
        values = estimates(method)
        error = (values.var() / REPEATS + exact_error**2) ** 0.5
        relative = float(values.var() / plain), seconds[name] / seconds["plain"]
        row = Row(name, *relative, float(values.mean() / exact - 1), float(error / exact), name in ("lower", "upper"))
        rows.append(row)
        print(
            f"{name}: variance {row.variance:.4f}, cost {row.cost:.2f}, bias {row.bias:+.1e} +- {row.bias_error:.0e}, "
            f"holds: {row.holds}",
            flush=True,
        )
    return rows


if __name__ == "__main__":
    main()
