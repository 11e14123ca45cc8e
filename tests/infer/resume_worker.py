"""Runs one fit or sampling run in a process of its own; the resume tests start, kill and continue it."""

from __future__ import annotations

import sys

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist

import pushforward as pf


def regression(x, y):
    w = numpyro.sample("w", dist.Normal(0.0, 1.0).expand([x.shape[1]]).to_event(1))
    s = numpyro.sample("s", dist.HalfNormal(1.0))
    numpyro.sample("y", dist.StudentT(4.0, x @ w, s), obs=y)


def guide(x, y):
    loc = numpyro.param("loc", jnp.zeros(3))
    numpyro.sample("w", dist.Normal(loc, 0.3).to_event(1))
    numpyro.sample("s", dist.LogNormal(numpyro.param("m", -1.0), 0.2))


def build():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(40, 3))
    return pf.from_numpyro(regression, x, x.sum(1) + 0.3 * rng.standard_t(4, size=40))


def bits(posterior) -> bytes:
    draws = [
        np.asarray(posterior.data["posterior"][n]).tobytes() for n in sorted(posterior.data["posterior"].data_vars)
    ]
    return b"".join(draws) + np.asarray(posterior.data["sample_stats"]["lp"]).tobytes()


def start(kind: str, **settings):
    if kind == "fit":
        settings = {"num_steps": 3000, "num_restarts": 2, "num_draws": 100, **settings}
        return pf.fit(build(), pf.MeanField(), key=jax.random.key(3), **settings)
    if kind == "program":
        settings = {"num_steps": 300, "num_restarts": 2, "num_draws": 100, "stop_early": False, **settings}
        return pf.fit(build(), pf.program_guide(guide), key=jax.random.key(3), **settings)
    settings = {"num_steps": 400, "num_warmup": 200, "num_chains": 2, **settings}
    return pf.sample(build(), pf.NUTS(), key=jax.random.key(3), **settings)


if __name__ == "__main__":
    jax.config.update("jax_enable_x64", True)
    command, kind, path = sys.argv[1:4]
    if command == "start":
        start(kind, progress=False, checkpoint=path, checkpoint_every=0.0)
    else:
        posterior = pf.resume(path, progress=False)
        np.save(path + ".bits.npy", np.frombuffer(bits(posterior), dtype=np.uint8))
    jnp.zeros(()).block_until_ready()
