"""Does coin sampling need no learning rate? CoinSVGD against 30 learning rates of AdaGrad-SVGD on six planar targets.

20 particles from 0.1 N(0, I), 1,000 steps, 10 seeds; kernel Stein discrepancy with k = (1 + r^2)^-1/2. All learning
rates and seeds of a target are one compiled program. Bound: the median of CoinSVGD at most 1.15 times that of the best
learning rate on five of the six targets.

Targets and settings after Sharrock and Nemeth, arXiv:2301.11294, section 5.1; AdaGrad is their baseline with a running
mean of squares (decay 0.9, fudge 1e-6).

Run ``python benchmarks/coin.py [target ...]``.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

import pushforward as pf
from pushforward.samplers.engine import reduce_pairs
from pushforward.samplers.pairs import IMQ, RBF, Median, stein_kernel_rows
from pushforward.samplers.stein import AbstractUpdate

BOUND = 1.15
LEAST = 5
PARTICLES, STEPS, SEEDS = 20, 1000, 10
LEARNING_RATES = np.logspace(-5, 1, 30)


def normal(mean: Any, covariance: Any) -> Callable[[jax.Array], jax.Array]:
    """Log-density of a Gaussian, up to a constant."""
    mean, precision = jnp.asarray(mean, float), jnp.linalg.inv(jnp.asarray(covariance, float))
    return lambda x: -0.5 * (x - mean) @ precision @ (x - mean)


def two_modes(x: jax.Array) -> jax.Array:
    """Equal Gaussians of precision 2 at (-2, 2) and (2, -2)."""
    mode = jnp.asarray([-2.0, 2.0])
    return jnp.logaddexp(-jnp.sum((x - mode) ** 2), -jnp.sum((x + mode) ** 2))


def banana(x: jax.Array) -> jax.Array:
    """A correlated Gaussian under the map (x, y) -> (a x, y / a - b (x^2 a^2 + a^2)), a = -1, b = 1."""
    a, b = -1.0, 1.0
    straight = jnp.stack([x[0] / a, a * (x[1] + b * (x[0] ** 2 + a**2))])
    return normal([0.0, 1.0], [[1.0, 0.5], [0.5, 1.0]])(straight)


def donut(x: jax.Array) -> jax.Array:
    """A ring of radius 2.5."""
    return -((jnp.sqrt(jnp.sum(x**2) + 1e-12) - 2.5) ** 2) / 0.5


def funnel(x: jax.Array) -> jax.Array:
    """N(4, 3^2) for the log-variance of N(1, .)."""
    return -0.5 * ((x[0] - 4.0) / 3.0) ** 2 - 0.5 * (x[1] - 1.0) ** 2 * jnp.exp(-x[0]) - 0.5 * x[0]


def squiggle(x: jax.Array) -> jax.Array:
    """A Gaussian bent by a sine."""
    return normal([1.0, 1.0], [[2.0, 0.25], [0.25, 0.5]])(jnp.stack([x[0], x[1] + jnp.sin(2.0 * x[0])]))


TARGETS: dict[str, Callable[[jax.Array], jax.Array]] = {
    "gaussian": normal([-1.0, 1.0], np.linalg.inv([[3.0, -0.5], [-0.5, 1.0]])),
    "two modes": two_modes,
    "banana": banana,
    "donut": donut,
    "funnel": funnel,
    "squiggle": squiggle,
}


class RunningAdaGrad(AbstractUpdate):
    """``x += lr c / (1e-6 + sqrt(h))``, h a running mean of squares that starts at the first square."""

    learning_rate: jax.Array

    def init(self, particles: jax.Array) -> tuple[jax.Array, jax.Array]:
        """No square yet."""
        return jnp.zeros_like(particles), jnp.zeros(())

    def __call__(self, particles: jax.Array, direction: jax.Array, state: Any) -> tuple[jax.Array, Any]:
        """See `AbstractUpdate`."""
        mean, step = state
        mean = jnp.where(step == 0, direction**2, 0.9 * mean + 0.1 * direction**2)
        return particles + self.learning_rate * direction / (1e-6 + jnp.sqrt(mean)), (mean, step + 1)


class Row(NamedTuple):
    """One target."""

    target: str
    coin: float
    """Median kernel Stein discrepancy over seeds."""
    best: float
    """That of the best learning rate."""
    learning_rate: float
    failed: int
    """Learning rates at which some seed met a value that is not finite."""
    too_small: float
    """Discrepancy at a tenth of the best learning rate."""
    too_large: float
    """At ten times it."""
    seconds: float

    @property
    def ratio(self) -> float:
        """Coin over best."""
        return self.coin / self.best

    @property
    def holds(self) -> bool:
        """Whether the ratio is within the bound."""
        return self.ratio <= BOUND


def discrepancy(logdensity: Callable[[jax.Array], jax.Array], x: jax.Array) -> jax.Array:
    """Kernel Stein discrepancy of a cloud."""
    pair = (x, jax.vmap(jax.grad(logdensity))(x))
    rows = reduce_pairs(stein_kernel_rows, (IMQ(1.0), jnp.ones(())), pair, pair)
    return jnp.sqrt(jnp.mean(rows) / x.shape[0])


def measured(name: str, *, num_steps: int = STEPS, seeds: int = SEEDS) -> Row:
    """One target: all learning rates, all seeds."""
    began = time.perf_counter()
    logdensity = TARGETS[name]
    target = pf.from_logdensity(logdensity, jnp.zeros(2))
    kernel = RBF(Median(diagonal=True))
    svgd = pf.SVGD(PARTICLES, kernel=kernel).bind(target, 0)
    coin = pf.CoinSVGD(PARTICLES, kernel=kernel).bind(target, 0)

    def final(sampler: Any, key: jax.Array) -> jax.Array:
        start = 0.1 * jax.random.normal(key, (PARTICLES, 2))
        state = sampler.init(key, start)
        state = jax.lax.fori_loop(0, num_steps, lambda i, s: sampler.step(jax.random.fold_in(key, i), s)[0], state)
        # A cloud that has lost particles has not done what was asked of it.
        whole = jnp.all(state.failed_step < 0)
        return jnp.where(whole, discrepancy(logdensity, state.particles), jnp.inf)

    @jax.jit
    def everything(rates: jax.Array, keys: jax.Array) -> tuple[jax.Array, jax.Array]:
        def with_rate(rate: jax.Array, key: jax.Array) -> jax.Array:
            return final(eqx.tree_at(lambda s: s.update, svgd, RunningAdaGrad(rate)), key)

        tuned = jax.vmap(lambda rate: jax.vmap(lambda key: with_rate(rate, key))(keys))(rates)
        return tuned, jax.vmap(lambda key: final(coin, key))(keys)

    keys = jax.random.split(jax.random.key(0), seeds)
    tuned, free = (np.asarray(x) for x in everything(jnp.asarray(LEARNING_RATES), keys))
    tuned = np.where(np.isfinite(tuned), tuned, np.inf)
    medians = np.median(tuned, axis=1)
    best = int(np.argmin(medians))
    at = lambda factor: int(np.argmin(np.abs(np.log(LEARNING_RATES / (factor * LEARNING_RATES[best])))))  # noqa: E731
    return Row(
        name,
        float(np.median(free)),
        float(medians[best]),
        float(LEARNING_RATES[best]),
        int(np.sum(np.any(~np.isfinite(tuned), axis=1))),
        float(medians[at(0.1)]),
        float(medians[at(10.0)]),
        time.perf_counter() - began,
    )


def main(names: list[str] | None = None) -> list[Row]:
    """Measure and print."""
    print("| target | CoinSVGD | best learning rate | at | ratio | a tenth of it | ten times it | seconds |")
    print("| --- | --- | --- | --- | --- | --- | --- | --- |")
    rows = []
    for name in names or list(TARGETS):
        row = measured(name)
        rows.append(row)
        print(
            f"| {name} | {row.coin:.4f} | {row.best:.4f} | {row.learning_rate:.2g} | {row.ratio:.3f} | "
            f"{row.too_small:.3f} | {row.too_large:.3f} | {row.seconds:.0f} |",
            flush=True,
        )
    held = sum(row.holds for row in rows)
    print(f"\nWithin {BOUND} of the best learning rate on {held} of {len(rows)} targets (bound: {LEAST} of 6).")
    return rows


if __name__ == "__main__":
    jax.config.update("jax_enable_x64", True)
    main(sys.argv[1:] or None)
