"""One step of Stein variational gradient descent, bandwidth included, against BlackJAX and NumPyro, on one thread.

Standard normal in 50 dimensions, single precision. The peers use their own median rule, we ours. All run in one process
in turn; the median of several steps, compilation apart.

    python benchmarks/svgd_speed.py [1000] [4096]
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable
from statistics import median
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpyro
import numpyro.distributions as dist
import optax

import pushforward as pf

DIM, RATIO = 50, 60.0


class Row(NamedTuple):
    """Seconds per step at one number of particles."""

    num_particles: int
    ours: float
    peers: dict[str, float]

    @property
    def holds(self) -> bool:
        """Whether every peer that is installed takes at least 60 times as long."""
        return all(seconds >= RATIO * self.ours for seconds in self.peers.values())


def seconds_per_step(step: Callable[[Any], Any], state: Any, repeats: int) -> float:
    """Median over steps, after one that compiles."""
    state = jax.block_until_ready(step(state))
    taken = []
    for _ in range(repeats):
        began = time.perf_counter()
        state = jax.block_until_ready(step(state))
        taken.append(time.perf_counter() - began)
    return median(taken)


def logdensity(x: jax.Array) -> jax.Array:
    """A standard normal."""
    return -0.5 * jnp.sum(x**2)


def ours(start: jax.Array) -> float:
    """A step of `pf.SVGD`."""
    target = pf.from_logdensity(logdensity, jnp.zeros(DIM, jnp.float32))
    kernel = pf.SVGD(len(start), optimizer=optax.adagrad(0.1)).bind(target, 0)
    key = jax.random.key(0)
    step = jax.jit(lambda state: kernel.step(key, state)[0])
    return seconds_per_step(step, kernel.init(key, start), 21)


def blackjax_step(start: jax.Array) -> float | None:
    """A step of `blackjax.svgd` with its median heuristic; None where it is not installed."""
    try:
        import blackjax
        from blackjax.vi.svgd import rbf_kernel, update_median_heuristic
    except ImportError:
        return None
    algorithm = blackjax.svgd(jax.grad(logdensity), optax.adagrad(0.1), rbf_kernel, update_median_heuristic)
    state = algorithm.init(start, {"length_scale": 1.0})
    return seconds_per_step(jax.jit(algorithm.step), state, 3)


def numpyro_step(start: jax.Array) -> float:
    """A step of `numpyro.contrib.einstein.SVGD`."""
    from numpyro.contrib.einstein import SVGD, RBFKernel

    def model() -> None:
        numpyro.sample("x", dist.Normal(jnp.zeros(DIM), 1.0).to_event(1))

    svgd = SVGD(model, numpyro.optim.Adagrad(0.1), RBFKernel(), num_stein_particles=len(start))
    state = svgd.init(jax.random.key(0))
    return seconds_per_step(jax.jit(lambda s: svgd.update(s)[0]), state, 3)


def main(sizes: list[int] | None = None) -> list[Row]:
    """Measure and print. The process is bound to one core, before JAX makes its threads."""
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    rows = []
    for count in sizes or [int(n) for n in sys.argv[1:]] or [1000, 4096]:
        start = jax.random.normal(jax.random.key(1), (count, DIM), jnp.float32)
        peers = {"BlackJAX": blackjax_step(start), "NumPyro": numpyro_step(start)}
        row = Row(count, ours(start), {name: taken for name, taken in peers.items() if taken is not None})
        rows.append(row)
        ratios = ", ".join(f"{name} {taken:.3f} s ({taken / row.ours:.0f}x)" for name, taken in row.peers.items())
        print(f"n = {count}: ours {1e3 * row.ours:.1f} ms; {ratios}; at least {RATIO:.0f}x: {row.holds}", flush=True)
    return rows


if __name__ == "__main__":
    main()
