"""NumPyro programs as ends of an interpolant: posteriors of the zoo by a learned transport with exact weights.

``python benchmarks/density_end.py`` prints one line per posterior. A Gaussian fit sets the coordinates, a small network
learns the velocity from the variance of the weights, and weighted particles are compared with the published reference
and with the evidence of `SMC`.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

import pushforward as pf
from pushforward.models import zoo

si = pf.interpolants
POSTERIORS = ("eight_schools_noncentered", "german_credit")
SEED = 20261122
MEAN, ERRORS = 0.05, 2.0
"""Promised: errors of means in posterior standard deviations, and of evidences in standard errors."""


class Row(NamedTuple):
    """One posterior."""

    posterior: str
    mean_error: float
    """The worst, in posterior standard deviations."""
    log_evidence: float
    evidence_error: float
    smc: float
    smc_error: float
    share: float
    """Effective share of the particles."""
    share_untrained: float
    """The same with a velocity of zero and no resampling."""
    seconds: float

    @property
    def apart(self) -> float:
        """Of the two evidences, in standard errors of their difference."""
        return abs(self.log_evidence - self.smc) / float(np.hypot(self.evidence_error, self.smc_error))

    @property
    def holds(self) -> bool:
        """Whether both promises are kept."""
        return self.mean_error <= MEAN and self.apart <= ERRORS


def measure(name: str, num_particles: int = 4_000, num_updates: int = 60) -> Row:
    """Fit, train, weigh."""
    entry = zoo.load(name)
    target = entry.target()
    keys = jax.random.split(jax.random.key(SEED), 6)
    began = time.perf_counter()
    guide: Any = pf.fit(target, pf.FullRank, key=keys[0], progress=False).guide
    end = si.density_end(target, guide.loc, 1.1 * guide.cholesky())

    def log_base(y: jax.Array) -> jax.Array:
        return jnp.sum(jax.scipy.stats.norm.logpdf(y))

    def draw(key: jax.Array, num: int) -> jax.Array:
        return jax.random.normal(key, (num, end.dim))

    untrained = si.AnnealedFields(si.Control(keys[1], end.dim), log_base, end.log_density)
    trained = si.train_annealed(keys[2], untrained, draw, num_steps=16, num_updates=num_updates)
    ends: dict[str, Any] = {"log_base": log_base, "log_target": end.log_density, "num_steps": 32}
    start = draw(keys[3], num_particles)
    found = si.weighted(keys[4], trained.fields, start, resample=0.5, **ends)
    plain = si.weighted(keys[4], untrained, start, **ends)
    seconds = time.perf_counter() - began
    weights = np.asarray(jax.nn.softmax(found.log_weights))
    values = jax.jit(jax.vmap(lambda y: target.constrain(end.position(y))))(found.particles)
    errors = [
        np.abs(np.tensordot(weights, np.asarray(values[site]), 1) - exact.mean) / exact.sd
        for site, exact in entry.reference.items()
    ]
    smc = pf.sample(target, pf.SMC(4000, num_moves=3), num_steps=300, key=keys[5], progress=False)
    return Row(
        name,
        float(max(np.max(e) for e in errors)),
        float(found.log_evidence),
        float(found.standard_error),
        float(smc.data.attrs["log_evidence"]),
        float(smc.data.attrs["log_evidence_error"]),
        float(found.ess) / num_particles,
        float(plain.ess) / num_particles,
        seconds,
    )


def main(posteriors: Sequence[str] = POSTERIORS) -> list[Row]:
    """Measure and print."""
    jax.config.update("jax_enable_x64", True)
    rows = []
    for name in posteriors:
        rows.append(measure(name))
        print(rows[-1], f"apart {rows[-1].apart:.2f} holds {rows[-1].holds}", flush=True)
    return rows


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("posteriors", nargs="*", default=POSTERIORS, help="names of the zoo")
    main(parser.parse_args().posteriors)
