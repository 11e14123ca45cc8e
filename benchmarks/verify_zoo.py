"""Run NUTS on every posterior of the zoo and compare with the published references.

Every mean must lie within 4 combined standard errors of the reference (the chains' and the reference's Monte Carlo
error) and every standard deviation within 10 %. Printed with it is a bound on the probability that a correct sampler
fails somewhere: the sum over all checks of their normal tail probabilities.

Run ``python benchmarks/verify_zoo.py`` for all, or name some: ``python benchmarks/verify_zoo.py ark pump``. Also used
by ``make verify`` (tests/models/zoo/test_nuts.py). About 10 minutes for all on two cores.
"""

from __future__ import annotations

import argparse
import sys
import time
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from arviz_stats.base import array_stats
from scipy import stats

import pushforward as pf
from pushforward.models import zoo

MAX_STANDARD_ERRORS = 4.0
MAX_SD_ERROR = 0.10
NUM_CHAINS = 4
SEED = 20240611


@dataclass(frozen=True)
class Settings:
    """How long a posterior needs, and with which adaptation."""

    num_steps: int = 2000
    num_warmup: int = 1000
    nuts: dict[str, Any] = field(default_factory=dict)
    prior_draws: int = 0
    """Start every chain at the most probable of so many prior draws, instead of uniform points within 2 of zero."""


DENSE = {"dense_mass": True}
SETTINGS: dict[str, Settings] = {
    # The funnel: small steps for its neck, fixed because the adapted ones vary fivefold between chains; slow tau.
    "eight_schools_centered": Settings(num_steps=40000, num_warmup=2000, nuts={"step_size": 0.04}),
    "eight_schools_noncentered": Settings(num_steps=4000, nuts={"target_accept": 0.95}),
    "garch": Settings(nuts={"dense_mass": True, "target_accept": 0.9}),
    # a[8] has a tail of kurtosis 25 to 240: over seven runs of 24,000 draws its sd lay between 1.07 and 1.58 (pooled
    # 1.21, reference 1.205), so that a bound of 10 % means something from some 160,000 draws on.
    "irt_2pl": Settings(num_steps=40000),
    "kidiq": Settings(nuts=DENSE),
    "kilpisjarvi": Settings(num_warmup=2000, nuts=DENSE),
    # A second mode, 40 nats below the first, holds chains that start below it.
    "lotka_volterra": Settings(num_steps=1000, num_warmup=600, nuts=DENSE, prior_draws=5000),
    "mesquite": Settings(nuts=DENSE),
    "pump": Settings(num_steps=4000, nuts={"target_accept": 0.9}),
}


class Row(NamedTuple):
    """The comparison of one scalar."""

    posterior: str
    coordinate: str
    mean: float
    reference_mean: float
    standard_errors: float
    """Difference of the means in combined standard errors."""
    sd: float
    reference_sd: float
    sd_error: float
    """Relative difference of the standard deviations."""
    sd_standard_error: float
    """Of that difference, by the kurtosis of the draws."""
    false_alarm: float
    """Probability that these two checks fail for a correct sampler: normal tails."""

    @property
    def passes(self) -> bool:
        return abs(self.standard_errors) < MAX_STANDARD_ERRORS and abs(self.sd_error) < MAX_SD_ERROR

    def describe(self) -> str:
        """In words, for a miss."""
        return (
            f"{self.posterior} {self.coordinate}: mean {self.mean:.5g} against {self.reference_mean:.5g} "
            f"({self.standard_errors:+.1f} standard errors), sd {self.sd:.4g} against {self.reference_sd:.4g} "
            f"({self.sd_error:+.1%}, standard error {self.sd_standard_error:.1%})"
        )


def verify(name: str, *, frontend: str = "numpyro", seed: int = SEED) -> list[Row]:
    """Sample one posterior and compare every scalar of its reference.

    Args:
        name: a name of the zoo.
        frontend: "numpyro" or, where the entry has a Pyro program, "pyro".
        seed: of the run.
    """
    entry = zoo.load(name)
    target = entry.target() if frontend == "numpyro" else entry.pyro_target()
    settings = SETTINGS.get(name, Settings())
    key_start, key_run = jax.random.split(jax.random.key(seed))
    posterior = pf.sample(
        target,
        pf.NUTS(**settings.nuts),
        key=key_run,
        num_steps=settings.num_steps,
        num_warmup=settings.num_warmup,
        num_chains=NUM_CHAINS,
        init=_probable_start(target, key_start, settings.prior_draws) if settings.prior_draws else None,
        progress=False,
    )
    rows = []
    for site, reference in entry.reference.items():
        draws = np.asarray(posterior.data["posterior"][site].values, np.float64)
        for index in np.ndindex(reference.mean.shape):
            label = site + (f"[{','.join(map(str, index))}]" if index else "")
            rows.append(_compare(name, label, draws[(..., *index)], reference, index))
    return rows


def _probable_start(target: pf.Target, key: jax.Array, num_draws: int) -> dict[str, jax.Array]:
    """The most probable of ``num_draws`` prior draws, once per chain."""
    latents = [site.name for site in target.program.sites if site.kind == "latent"]

    def draw(key: jax.Array) -> tuple[dict[str, jax.Array], jax.Array]:
        values = target.prior(key)
        position, _ = target.program.invert({name: values[name] for name in latents})
        return position, target.logdensity(position)

    positions, logdensity = jax.jit(jax.vmap(draw))(jax.random.split(key, num_draws))
    best = jnp.argmax(jnp.where(jnp.isfinite(logdensity), logdensity, -jnp.inf))
    return jax.tree.map(lambda leaf: jnp.repeat(leaf[best][None], NUM_CHAINS, axis=0), positions)


def _compare(name: str, label: str, draws: np.ndarray, reference: zoo.Reference, index: tuple[int, ...]) -> Row:
    mean, sd = float(draws.mean()), float(draws.std(ddof=1))
    reference_mean, reference_sd = float(reference.mean[index]), float(reference.sd[index])
    if reference.mcse_mean is None:
        # Printed to five significant digits, and nothing else is known of its error: count the rounding only.
        reference_error = 0.5e-4 * abs(reference_mean)
    else:
        reference_error = float(reference.mcse_mean[index])
    reference_ess = reference.n_draws if reference.ess is None else float(reference.ess[index])
    combined = float(np.hypot(array_stats.mcse(draws, method="mean"), reference_error))
    sd_error = float(np.hypot(array_stats.mcse(draws, method="sd") / sd, _relative_sd_error(draws, reference_ess)))
    return Row(
        posterior=name,
        coordinate=label,
        mean=mean,
        reference_mean=reference_mean,
        standard_errors=(mean - reference_mean) / combined,
        sd=sd,
        reference_sd=reference_sd,
        sd_error=sd / reference_sd - 1.0,
        sd_standard_error=sd_error,
        false_alarm=float(2 * stats.norm.sf(MAX_STANDARD_ERRORS) + 2 * stats.norm.sf(MAX_SD_ERROR / sd_error)),
    )


def _relative_sd_error(draws: np.ndarray, ess: float) -> float:
    """Standard error of the reference's standard deviation, relative: by the kurtosis and its effective sample size."""
    return float(np.sqrt((stats.kurtosis(draws.ravel(), fisher=False) - 1.0) / (4.0 * ess)))


def report(rows: list[Row], seconds: dict[str, float]) -> str:
    """A table with one line per posterior, then every failure, then the false-alarm rate of the whole family."""
    lines = [
        f"{'posterior':28}{'scalars':>8}{'max |z| mean':>14}{'max sd error':>14}"
        f"{'false alarm':>13}{'seconds':>9}  result"
    ]
    for name in dict.fromkeys(row.posterior for row in rows):
        mine = [row for row in rows if row.posterior == name]
        z = max(abs(row.standard_errors) for row in mine)
        sd = max(abs(row.sd_error) for row in mine)
        result = "pass" if all(row.passes for row in mine) else "FAIL"
        rate = sum(row.false_alarm for row in mine)
        lines.append(f"{name:28}{len(mine):>8}{z:>14.2f}{sd:>14.1%}{rate:>13.2%}{seconds[name]:>9.1f}  {result}")
    for row in rows:
        if not row.passes:
            lines.append(f"FAIL {row.describe()}")
    rate = sum(row.false_alarm for row in rows)
    lines.append(
        f"{len(rows)} means and {len(rows)} standard deviations; family-wise false-alarm rate at most {rate:.2%}"
    )
    return "\n".join(lines)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", help="posteriors; all when none is named")
    parser.add_argument("--frontend", choices=("numpyro", "pyro"), default="numpyro")
    parser.add_argument("--seed", type=int, default=SEED)
    options = parser.parse_args()
    available = zoo.names() if options.frontend == "numpyro" else zoo.pyro_names()
    rows: list[Row] = []
    seconds: dict[str, float] = {}
    with pf.enable_x64():
        for name in options.names or available:
            began = time.perf_counter()
            rows += verify(name, frontend=options.frontend, seed=options.seed)
            seconds[name] = time.perf_counter() - began
            print(f"{name}: {seconds[name]:.1f} s", file=sys.stderr, flush=True)
    print(report(rows, seconds))
    return 0 if all(row.passes for row in rows) else 1


if __name__ == "__main__":
    sys.exit(main())
