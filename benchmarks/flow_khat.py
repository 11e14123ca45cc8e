"""Where Gaussian guides are not close enough to correct by importance sampling, and a spline flow is.

For every posterior: PSIS k-hat of `MeanField` and `FullRank`, fitted with defaults, and of `SplineFlow`. Bound: 0.7,
above for both Gaussians, below for the flow (Vehtari et al., arXiv:1507.02646, section 3.2.4). The k-hat of one set of
16,384 draws, which a fit reports, varies by 0.09 from set to set: too much for values near the bound. So 262,144 draws
are taken of every guide, eight times over, and the mean k-hat is judged. The flow is fitted in two stages: the ELBO
hardly looks at tails, which is where k-hat looks; the importance-weighted bound does.

`LEFT_OUT` are posteriors of the zoo that `FullRank` is close enough to already.

Run ``python benchmarks/flow_khat.py [posterior ...]``.
"""

from __future__ import annotations

import sys
import time
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

import pushforward as pf
from pushforward.infer._variational_checks import pareto_khat
from pushforward.models import zoo

BOUND = 0.7
POSTERIORS = ("eight_schools_centered", "banana", "pump", "garch")
LEFT_OUT = {
    "ark": 0.47,
    "blr": 0.55,
    "eight_schools_noncentered": 0.67,
    "gauss_mix": 0.29,
    "german_credit": 0.43,
    "gp_regr": 0.54,
    "hmm": 0.51,
    "kidiq": 0.50,
    "kilpisjarvi": 0.59,
    "lotka_volterra": 0.61,
    "mesquite": 0.53,
}
"""k-hat of `FullRank`, most from one set of 16,384 draws, measured 2026-11-22."""
FLOW = pf.SplineFlow()
STAGES: tuple[dict[str, Any], ...] = (
    {"num_steps": 6000, "num_particles": 64},
    {"num_steps": 3000, "num_particles": 128, "objective": pf.IWELBO()},
)
NUM_DRAWS, NUM_SETS = 2**18, 8


class Khat(NamedTuple):
    """Mean over sets of draws."""

    mean: float
    error: float
    """Its standard error; the draws alone are random, not the fit."""

    def __str__(self) -> str:
        return f"{self.mean:.3f} +- {self.error:.3f}"


class Row(NamedTuple):
    """One posterior."""

    posterior: str
    mean_field: Khat
    full_rank: Khat
    spline: Khat
    steps: int
    """Of the flow, both stages."""
    seconds: float
    """Of the flow's fit, compilation included."""

    @property
    def holds(self) -> bool:
        """Whether only the flow is below the bound."""
        return self.spline.mean < BOUND < min(self.mean_field.mean, self.full_rank.mean)


def banana(x: jax.Array) -> jax.Array:
    """A Gaussian bent along a parabola."""
    return -0.5 * x[0] ** 2 - 0.5 * ((x[1] - x[0] ** 2) / 0.5) ** 2


def target_of(name: str) -> pf.Target:
    """The banana, or a posterior of the zoo."""
    return pf.from_logdensity(banana, jnp.zeros(2)) if name == "banana" else zoo.load(name).target()


@eqx.filter_jit
def log_weights(key: jax.Array, target: pf.Target, guide: Any) -> jax.Array:
    """Of one set of draws."""

    def one(key: jax.Array) -> jax.Array:
        position, log_q = guide.sample_and_log_prob(key)
        return target.logdensity(position) - log_q

    return jax.lax.map(one, jax.random.split(key, NUM_DRAWS), batch_size=4096)


def khat_of(key: jax.Array, target: pf.Target, guide: Any) -> Khat:
    """The mean k-hat of a fitted guide."""
    sets = [np.asarray(log_weights(k, target, guide)) for k in jax.random.split(key, NUM_SETS)]
    khats = np.array([pareto_khat(weights)[1] for weights in sets])
    return Khat(float(khats.mean()), float(khats.std(ddof=1) / np.sqrt(NUM_SETS)))


def measured(name: str, seed: int = 0) -> Row:
    """Fit all three guides to one posterior."""
    target = target_of(name)
    key = jax.random.key(seed)
    key_draws = jax.random.fold_in(key, 3)
    gaussians = [
        khat_of(key_draws, target, pf.fit(target, guide, key=jax.random.fold_in(key, i), progress=False).guide)
        for i, guide in enumerate((pf.MeanField(), pf.FullRank()))
    ]
    began = time.perf_counter()
    flow, steps = None, 0
    for i, stage in enumerate(STAGES):
        key_stage = jax.random.fold_in(key, 4 + i)
        flow = pf.fit(target, FLOW, init=flow, num_restarts=1, key=key_stage, progress=False, **stage)
        steps += int(np.max(flow.data["optimization"]["restart_steps"].values))
    seconds = time.perf_counter() - began
    return Row(name, *gaussians, khat_of(key_draws, target, flow.guide), steps, seconds)


def main(names: tuple[str, ...] = POSTERIORS, seed: int = 0) -> list[Row]:
    """One row per posterior; prints as it goes."""
    jax.config.update("jax_enable_x64", True)
    print(f"{'posterior':<24}{'mean field':>18}{'full rank':>18}{'spline':>18}{'steps':>9}{'seconds':>9}")
    rows = []
    for name in names:
        row = measured(name, seed)
        khats = "".join(f"{khat!s:>18}" for khat in (row.mean_field, row.full_rank, row.spline))
        print(f"{name:<24}{khats}{row.steps:>9}{row.seconds:>9.0f}", flush=True)
        rows.append(row)
    return rows


if __name__ == "__main__":
    sys.exit(0 if all(row.holds for row in main(tuple(sys.argv[1:]) or POSTERIORS)) else 1)
