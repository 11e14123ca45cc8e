"""Moving clouds with noise: fixed steps beside a scan written by hand and diffrax; adaptive beside a thousand steps.

The speed part moves 100,000 particles in two dimensions over 1,000 steps of Euler's method between two normal laws, so
that little but the loop is timed. Compilation is apart. Diffrax moves fewer particles, since it draws its Brownian tree
anew at every step; times are per particle.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from scipy import stats

import pushforward as pf

si = pf.interpolants
PARTICLES, STEPS, EPSILON = 100_000, 1_000, 0.5
OVER, FASTER, EXCESS = 1.5, 10.0, 0.1
"""Bounds: ours over a scan by hand, diffrax over ours, energy distance of adaptive steps beyond that of fixed ones."""
WIDTH = 2.0
"""Standard deviation of the target; that of the base is one."""


class Between(si.AbstractFields):
    """Of the linear interpolant between two normal laws around zero: everything is a multiple of x."""

    path: si.AbstractPath

    def velocity(self, t, x, condition=None):
        return ((t - 1.0) + t * WIDTH**2 + 0.5 - t) / _variance(t) * x

    def score(self, t, x, condition=None):
        return -x / _variance(t)


def _variance(t):
    return (1.0 - t) ** 2 + (t * WIDTH) ** 2 + t * (1.0 - t)


class Timed(NamedTuple):
    """One way of moving the cloud."""

    name: str
    compile_seconds: float
    nanoseconds: float
    """Median per particle and step."""
    deviation: float
    """Of the standard deviation at the end, in standard errors."""


class Law(NamedTuple):
    """How near one way comes to the law of the target."""

    name: str
    evaluations: float
    excess: float
    """Squared energy distance beyond chance, as a share of that between two exact samples of 5,000."""


def by_hand() -> Callable[[jax.Array, jax.Array], jax.Array]:
    """What a user would write for this drift alone."""

    @jax.jit
    def move(key: jax.Array, x: jax.Array) -> jax.Array:
        h = jnp.float32(1.0 / STEPS)

        def step(x: jax.Array, inputs: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, None]:
            t, key = inputs
            rate = ((t - 1.0) + t * WIDTH**2 + 0.5 - t - EPSILON) / _variance(t)
            noise = jax.random.normal(key, x.shape, x.dtype)
            return x + h * rate * x + jnp.sqrt(2.0 * EPSILON * h) * noise, None

        times = jnp.arange(STEPS, dtype=x.dtype) * h
        return jax.lax.scan(step, x, (times, jax.random.split(key, STEPS)))[0]

    return move


def with_diffrax() -> Callable[[jax.Array, jax.Array], jax.Array]:
    """Euler's method along a virtual Brownian tree whose tolerance is one step."""
    import diffrax
    import lineax

    def rate(t, x, args):
        return ((t - 1.0) + t * WIDTH**2 + 0.5 - t - EPSILON) / _variance(t) * x

    @jax.jit
    def move(key: jax.Array, x: jax.Array) -> jax.Array:
        def one(key: jax.Array, x: jax.Array) -> jax.Array:
            path = diffrax.VirtualBrownianTree(0.0, 1.0, tol=1.0 / STEPS, shape=x.shape, key=key)
            spread = lineax.DiagonalLinearOperator(jnp.full(x.shape, (2.0 * EPSILON) ** 0.5, x.dtype))
            noise = diffrax.ControlTerm(lambda t, x, args: spread, path)
            terms = diffrax.MultiTerm(diffrax.ODETerm(rate), noise)
            found = diffrax.diffeqsolve(terms, diffrax.Euler(), 0.0, 1.0, 1.0 / STEPS, x, max_steps=STEPS + 8)
            return found.ys[0]

        return jax.vmap(one)(jax.random.split(key, len(x)), x)

    return move


def timed(name: str, move: Callable[[jax.Array, jax.Array], jax.Array], count: int, repeats: int) -> Timed:
    """Compile, then the median of the runs."""
    start = jax.random.normal(jax.random.key(0), (count, 2), jnp.float32)
    began = time.perf_counter()
    end = np.asarray(move(jax.random.key(1), start))
    first = time.perf_counter() - began
    seconds = []
    for repeat in range(repeats):
        began = time.perf_counter()
        jax.block_until_ready(move(jax.random.key(repeat), start))
        seconds.append(time.perf_counter() - began)
    middle = statistics.median(seconds)
    deviation = (end.std() / WIDTH - 1.0) * (2.0 * end.size) ** 0.5
    return Timed(name, first - middle, 1e9 * middle / count / STEPS, float(deviation))


def speed(repeats: int = 3, few: int = 2_000) -> list[Timed]:
    """Ours, by hand and diffrax, in turn."""
    fields = Between(path=si.Linear())

    def ours(key: jax.Array, x: jax.Array) -> jax.Array:
        return si.diffuse(key, fields, x, epsilon=EPSILON, num_steps=STEPS, rule="euler")

    return [
        timed("diffuse", ours, PARTICLES, repeats),
        timed("a scan by hand", by_hand(), PARTICLES, repeats),
        timed("diffrax, virtual Brownian tree", with_diffrax(), few, 3),
    ]


def line(means: list[float], variances: list[float], weights: list[float]) -> si.GaussianMixture:
    """A mixture on a line."""
    return si.GaussianMixture(
        jnp.log(jnp.array(weights)), jnp.array(means)[:, None], jnp.array(variances)[:, None, None]
    )


def adaptive(count: int = 48_000) -> list[Law]:
    """Two modes to three on a line, exact fields, Euler's 1,000 steps beside steps to a tolerance."""
    base, target = (
        line([-3.0, 3.0], [0.25, 0.25], [1.0, 1.0]),
        line([-6.0, 0.0, 6.0], [0.5, 0.33, 0.5], [1.0, 2.0, 1.0]),
    )
    fields = si.MixtureFields(si.Linear(), base, target)
    start = base.sample(jax.random.key(5), count)
    fixed = si.diffuse(jax.random.key(6), fields, start, epsilon=EPSILON, num_steps=1_000, rule="euler")
    moved, again = (adapted(fields, start, tolerance) for tolerance in (0.004, 0.01))
    return [
        Law("1,000 steps of Euler's method", 1_000.0, excess(fixed, target)),
        Law("adaptive, tolerance 0.004", moved[1], excess(moved[0], target)),
        Law("adaptive, tolerance 0.01", again[1], excess(again[0], target)),
    ]


def adapted(fields: si.MixtureFields, start: jax.Array, tolerance: float) -> tuple[jax.Array, float]:
    """Points and mean evaluations."""
    moved = si.diffuse_adaptive(jax.random.key(6), fields, start, epsilon=EPSILON, rtol=tolerance, atol=tolerance)
    return moved.points, float(moved.evaluations.mean())


def excess(points: jax.Array, law: si.GaussianMixture, size: int = 5_000) -> float:
    """Squared energy distance to the law beyond what chance gives, over that of two exact samples."""
    grid = np.linspace(-12.0, 12.0, 20_001)
    deviations = np.sqrt(np.asarray(law.covariances)[:, 0, 0])
    truth = stats.norm.cdf(grid[:, None], np.asarray(law.means)[:, 0], deviations) @ np.exp(np.asarray(law.log_weights))
    found = np.searchsorted(np.sort(np.asarray(points)[:, 0]), grid) / len(points)
    chance = 2.0 * np.trapezoid(truth * (1.0 - truth), grid)
    return float((2.0 * np.trapezoid((found - truth) ** 2, grid) - chance / len(points)) / (2.0 * chance / size))


def ratios(rows: list[Timed]) -> tuple[float, float]:
    """Ours over the scan by hand, and diffrax over ours."""
    ours, hand, other = (row.nanoseconds for row in rows)
    return ours / hand, other / ours


def main() -> list[list[tuple]]:
    """Print both parts."""
    moved = speed()
    with jax.enable_x64(True):
        laws = adaptive()
    for row in moved:
        print(
            f"{row.name:32} compile {row.compile_seconds:5.1f} s, {row.nanoseconds:8.1f} ns a step, spread "
            f"off by {row.deviation:+.1f} standard errors"
        )
    print("over the scan by hand {:.2f}, diffrax over ours {:.1f}".format(*ratios(moved)))
    for law in laws:
        print(f"{law.name:32} {law.evaluations:6.0f} evaluations, excess {law.excess:+.4f}")
    return [list(moved), list(laws)]


if __name__ == "__main__":
    main()
