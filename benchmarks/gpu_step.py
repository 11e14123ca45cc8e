"""A step of SVGD with its bandwidth on a GPU: 1e5 particles (bound 30 ms) and 1e6 (3 s, 8 GiB) in ten dimensions.

The force alone is timed in both forms, blocked and fused into one kernel. Says so when no GPU is found.

    python benchmarks/gpu_step.py
"""

from __future__ import annotations

import time
from collections.abc import Callable
from statistics import median
from typing import Any

import jax
import jax.numpy as jnp

import pushforward as pf
from pushforward.samplers.pairs import RBF, fused_force, stein_force

DIM = 10
BOUNDS = {100_000: 0.030, 1_000_000: 3.0}
MEMORY_GIB = 8.0


def seconds(function: Callable[..., Any], *arguments: Any, repeats: int = 5) -> float:
    """Median time of a call, after one that compiles."""
    jax.block_until_ready(function(*arguments))
    taken = []
    for _ in range(repeats):
        began = time.perf_counter()
        jax.block_until_ready(function(*arguments))
        taken.append(time.perf_counter() - began)
    return median(taken)


def measure(count: int, bound: float) -> bool:
    """Print the figures of one size; whether the bounds hold."""
    target = pf.from_logdensity(lambda x: -0.5 * jnp.sum(x**2), jnp.zeros(DIM))
    kernel = pf.SVGD(count).bind(target, 0)
    x = jax.random.normal(jax.random.key(0), (count, DIM))
    state, weight, squared = kernel.init(jax.random.key(1), x), jnp.ones(count), jnp.asarray(0.8)
    step = jax.jit(lambda key, state: kernel.step(key, state)[0])
    whole = seconds(step, jax.random.key(2), state)
    blocked = seconds(jax.jit(lambda x, w: stein_force(RBF(), squared, x, -x, w)), x, weight)
    fused = seconds(jax.jit(lambda x, w: fused_force(RBF(), squared, x, x, -x, w, jnp.asarray(1.0))), x, weight)
    peak = jax.devices()[0].memory_stats().get("peak_bytes_in_use", 0) / 2**30
    holds = whole <= bound and peak <= MEMORY_GIB
    print(
        f"n = {count}: step {1e3 * whole:.1f} ms (bound {1e3 * bound:.0f}), force blocked {1e3 * blocked:.1f} ms, "
        f"fused {1e3 * fused:.1f} ms, peak memory {peak:.2f} GiB (bound {MEMORY_GIB:.0f}), holds: {holds}",
        flush=True,
    )
    return holds


def main() -> bool:
    """All sizes; True without a GPU, where there is nothing to hold."""
    device = jax.devices()[0]
    if device.platform != "gpu":
        print(f"No GPU was found ({device.device_kind}): nothing measured.")
        return True
    print(device.device_kind)
    return all([measure(count, bound) for count, bound in BOUNDS.items()])


if __name__ == "__main__":
    raise SystemExit(0 if main() else 1)
