"""Where Gaussian guides are not close enough to correct by importance sampling, and a spline flow is.

For every posterior: PSIS k-hat (16,384 draws) of `MeanField` and `FullRank`, fitted with defaults, and of `SplineFlow`.
Bound: 0.7, above for both Gaussians, below for the flow (Vehtari et al., arXiv:1507.02646, section 3.2.4).

Run ``python benchmarks/flow_khat.py [posterior ...]``.
"""

from __future__ import annotations

import sys
import time
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

import pushforward as pf
from pushforward.models import zoo

BOUND = 0.7
POSTERIORS = ("eight_schools_centered", "banana", "pump", "garch")
FLOW = pf.SplineFlow()
SETTINGS: dict[str, Any] = {"num_restarts": 1, "num_steps": 6000, "num_particles": 64}


class Row(NamedTuple):
    """One posterior."""

    posterior: str
    mean_field: float
    """PSIS k-hat."""
    full_rank: float
    spline: float
    steps: int
    """Of the flow."""
    seconds: float
    """Of the flow's fit, compilation included."""

    @property
    def holds(self) -> bool:
        """Whether only the flow is below the bound."""
        return self.spline < BOUND < min(self.mean_field, self.full_rank)


def banana(x: jax.Array) -> jax.Array:
    """A Gaussian bent along a parabola."""
    return -0.5 * x[0] ** 2 - 0.5 * ((x[1] - x[0] ** 2) / 0.5) ** 2


def target_of(name: str) -> pf.Target:
    """The banana, or a posterior of the zoo."""
    return pf.from_logdensity(banana, jnp.zeros(2)) if name == "banana" else zoo.load(name).target()


def measured(name: str, seed: int = 0) -> Row:
    """Fit all three guides to one posterior."""
    target = target_of(name)
    key = jax.random.key(seed)
    gaussians = [
        pf.fit(target, guide, key=jax.random.fold_in(key, i), progress=False).verdict.details["khat"]
        for i, guide in enumerate((pf.MeanField(), pf.FullRank()))
    ]
    began = time.perf_counter()
    flow = pf.fit(target, FLOW, key=jax.random.fold_in(key, 2), progress=False, **SETTINGS)
    seconds = time.perf_counter() - began
    steps = int(np.max(flow.data["optimization"]["restart_steps"].values))
    return Row(name, *gaussians, flow.verdict.details["khat"], steps, seconds)


def main(names: tuple[str, ...] = POSTERIORS, seed: int = 0) -> list[Row]:
    """One row per posterior; prints as it goes."""
    jax.config.update("jax_enable_x64", True)
    print(f"{'posterior':<24}{'mean field':>12}{'full rank':>12}{'spline':>12}{'steps':>9}{'seconds':>9}")
    rows = []
    for name in names:
        row = measured(name, seed)
        khats = "".join(f"{khat:>12.2f}" for khat in (row.mean_field, row.full_rank, row.spline))
        print(f"{name:<24}{khats}{row.steps:>9}{row.seconds:>9.0f}", flush=True)
        rows.append(row)
    return rows


if __name__ == "__main__":
    sys.exit(0 if all(row.holds for row in main(tuple(sys.argv[1:]) or POSTERIORS)) else 1)
