"""A million steps of SGLD, 1,000 chains in ten dimensions: memory, progress line, compilation.

python benchmarks/million_steps.py [steps]
"""

from __future__ import annotations

import contextlib
import functools
import io
import resource
import sys
import time
from statistics import median
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

import pushforward as pf
from pushforward.samplers.engine._run import _chunk as loop_program

CHAINS, DIM, STEPS, SHORT, PAIRS = 1_000, 10, 1_000_000, 20_000, 5
GROWTH_MB, OVERHEAD = 50.0, 0.05


class Row(NamedTuple):
    """What was measured."""

    growth_mb: float
    """Peak memory of the process beyond that of a run of 20,000 steps."""
    overhead: float
    """Share of time that the progress line adds: median over pairs of runs in turn."""
    compilations: int
    """Programs that the loop was compiled to, over all runs, short and long, with and without the progress line."""
    seconds: float
    worst_variance: float
    """Largest relative error of the ten variances against the closed form of the Euler step."""

    @property
    def holds(self) -> bool:
        """Whether all bounds are met."""
        return self.growth_mb <= GROWTH_MB and self.overhead <= OVERHEAD and self.compilations <= 1


@functools.cache
def target() -> pf.Target:
    """A standard normal; one object, since another function would be another program."""
    return pf.from_logdensity(lambda x: -0.5 * jnp.sum(x**2), jnp.zeros(DIM))


def run(num_steps: int, *, progress: bool) -> Any:
    """One run; the progress line goes to a buffer."""
    with contextlib.redirect_stderr(io.StringIO()), contextlib.redirect_stdout(io.StringIO()):
        return pf.sample(
            target(),
            pf.SGLD(0.1),
            key=jax.random.key(0),
            num_steps=num_steps,
            num_chains=CHAINS,
            max_draws=16,
            progress=progress,
        )


def seconds(num_steps: int, *, progress: bool) -> float:
    """Wall time of a run."""
    began = time.perf_counter()
    run(num_steps, progress=progress)
    return time.perf_counter() - began


def peak_mb() -> float:
    """Peak memory of this process."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def main(num_steps: int | None = None) -> Row:
    """Measure and print."""
    run(SHORT, progress=True)
    pairs = [(seconds(SHORT, progress=True), seconds(SHORT, progress=False)) for _ in range(PAIRS)]
    before = peak_mb()
    began = time.perf_counter()
    posterior = run(num_steps or int((sys.argv[1:] or [STEPS])[0]), progress=True)
    taken = time.perf_counter() - began
    online = posterior.data["online"]
    name = next(n for n in online.data_vars if n != "covariance")
    variance = online[name].sel(statistic="sd").values ** 2
    # x' = (1 - eps) x + sqrt(2 eps) xi: variance 1 / (1 - eps / 2).
    worst = float(abs(variance * (1 - 0.05) - 1).max())
    overhead = median(a / b for a, b in pairs) - 1
    row = Row(peak_mb() - before, overhead, loop_program._cache_size(), taken, worst)
    print(f"{row}, holds: {row.holds}", flush=True)
    return row


if __name__ == "__main__":
    main()
