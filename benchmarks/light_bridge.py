"""The light Schroedinger bridge with one default setting, against entropic plans known in closed form.

Standard normal x, five Gaussians in the potential, 2 and 16 dimensions, epsilon 0.1, 1 and 10 (after Gushchin et al.,
arXiv:2306.10161). 20,000 points of each side. Errors are Bures-Wasserstein distances in per cent of half the total
variance of y: of y given x (cBW2-UVP, moments in closed form), and of y (BW2-UVP). Bounds: 2 and 1 per cent, 60 s each
with compilation.

Run ``python benchmarks/light_bridge.py``.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import NamedTuple

import jax

import pushforward as pf

sys.path.append(str(Path(__file__).resolve().parents[1] / "tests"))
from oracles.schroedinger import draws, errors, true_plan  # noqa: E402

NUM_POINTS = 20_000
CONDITIONAL, MARGINAL, SECONDS = 2.0, 1.0, 60.0


class Row(NamedTuple):
    """One problem."""

    dim: int
    epsilon: float
    conditional: float
    marginal: float
    num_components: int
    steps: int
    converged: bool
    seconds: float
    """Wall clock, compilation included."""
    processor_seconds: float
    """Of all cores together."""

    @property
    def holds(self) -> bool:
        """Whether the bounds hold."""
        return self.conditional <= CONDITIONAL and self.marginal <= MARGINAL and self.seconds <= SECONDS


def measure(dim: int, epsilon: float, seed: int = 0) -> Row:
    """Fit with the defaults."""
    truth = true_plan(dim, epsilon, seed)
    key_data, key_fit, key_test = jax.random.split(jax.random.key(seed), 3)
    x, y = jax.block_until_ready(draws(truth, key_data, NUM_POINTS))
    began, worked = time.perf_counter(), time.process_time()
    plan = jax.block_until_ready(pf.transport.LightSB.fit(key_fit, x, y, epsilon=epsilon))
    seconds, processor = time.perf_counter() - began, time.process_time() - worked
    conditional, marginal = errors(plan, truth, key_test)
    steps, converged = int(plan.record.num_steps), bool(plan.record.converged)
    return Row(dim, epsilon, conditional, marginal, len(plan.log_weights), steps, converged, seconds, processor)


def main() -> list[Row]:
    """Measure and print."""
    jax.config.update("jax_enable_x64", True)
    rows = []
    for dim in (2, 16):
        for epsilon in (0.1, 1.0, 10.0):
            rows.append(row := measure(dim, epsilon))
            print(
                f"d = {dim}, epsilon = {epsilon}: conditional {row.conditional:.3f} %, marginal {row.marginal:.3f} %, "
                f"{row.num_components} components, {row.steps} steps, {row.seconds:.1f} s "
                f"({row.processor_seconds:.1f} s of processors), holds: {row.holds}",
                flush=True,
            )
    return rows


if __name__ == "__main__":
    main()
