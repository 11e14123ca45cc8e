"""What 64 chains of a stochastic-gradient sampler cost beside one, each chain with minibatches of its own.

Logistic regression, 100,000 data, 10 features, minibatches of 100. First ``pf.sample`` from call to result, 20,000
steps, compilation and diagnostics included: what a user pays, and what the bound is for. Then seconds per step of
the compiled loop, medians in turn, without a bound: one chain of so small a model is four fifths overhead, 64 chains
are bound by their 6,400 random rows and their densities. The last rows set the library's minibatch draw beside a
permutation of all data.
"""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist

import pushforward as pf
from pushforward.models._subset import draw_subset
from pushforward.samplers import Chains
from pushforward.samplers.engine import run

N, D, B = 100_000, 10, 100
CHAINS = 64
NUM_STEPS = 2000
REPEATS = 5
BOUND = 8.0


def logistic(features, labels):
    """Bayesian logistic regression on minibatches."""
    weights = numpyro.sample("weights", dist.Normal(0.0, 5.0).expand([D]).to_event(1))
    with numpyro.plate("data", N, subsample_size=B):
        batch = numpyro.subsample(features, event_dim=1)
        numpyro.sample("y", dist.Bernoulli(logits=batch @ weights), obs=numpyro.subsample(labels, event_dim=0))


def target() -> pf.Target:
    """The regression on generated data."""
    rng = np.random.default_rng(0)
    features = rng.normal(size=(N, D)).astype("float32")
    labels = (rng.random(N) < 1 / (1 + np.exp(-features @ np.linspace(-1, 1, D)))).astype("float32")
    return pf.from_numpyro(logistic, jnp.asarray(features), jnp.asarray(labels))


def stepper(kernel, num_chains: int) -> Callable[[], float]:
    """A function that runs the chains and says how long a step took."""
    chains = Chains(kernel, num_chains)
    state = chains.init(jax.random.key(1), jnp.zeros((num_chains, D), "float32"))

    def seconds() -> float:
        began = time.perf_counter()
        run(chains, state, key=jax.random.key(2), num_steps=NUM_STEPS, thin=NUM_STEPS, chunk=NUM_STEPS)
        return (time.perf_counter() - began) / NUM_STEPS

    seconds()
    return seconds


def whole(model: pf.Target, kernel, num_chains: int) -> float:
    """Seconds from call to result, nothing compiled before."""
    jax.clear_caches()
    start = {"weights": jnp.zeros((num_chains, D), "float32")}
    began = time.perf_counter()
    pf.sample(
        model,
        kernel,
        key=jax.random.key(4),
        num_steps=20_000,
        thin=500,
        num_chains=num_chains,
        init=start,
        progress=False,
    )
    return time.perf_counter() - began


def subset(draw: Callable, num_chains: int, num_steps: int) -> Callable[[], float]:
    """A function that draws minibatches for all chains and says how long that took."""

    @jax.jit
    def loop(key):
        def body(i, total):
            keys = jax.random.split(jax.random.fold_in(key, i), num_chains)
            return total + jnp.sum(jax.vmap(draw)(keys))

        return jax.lax.fori_loop(0, num_steps, body, jnp.zeros((), jnp.int32))

    def seconds() -> float:
        began = time.perf_counter()
        loop(jax.random.key(3)).block_until_ready()
        return (time.perf_counter() - began) / num_steps

    seconds()
    return seconds


class Row(NamedTuple):
    """Whole calls of one sampler."""

    sampler: str
    one: float
    """Seconds of one chain."""
    many: float

    @property
    def ratio(self) -> float:
        """What many chains cost beside one."""
        return self.many / self.one


def main() -> list[Row]:
    """Print the table; the rows of whole calls."""
    model = target()
    kernels = {
        "SGLD": pf.SGLD(1e-5),
        "SGHMC": pf.SGHMC(1e-3),
        "SGLD, control variate": pf.SGLD(1e-5, gradient=pf.ControlVariate()),
    }
    rows = []
    print(f"{'':34s}{'1 chain':>10s}{f'{CHAINS} chains':>12s}{'ratio':>8s}")
    for name, kernel in kernels.items():
        one, many = (whole(model, kernel, count) for count in (1, CHAINS))
        rows.append(Row(name, one, many))
        print(f"{'pf.sample, ' + name:34s}{one:8.2f} s{many:10.2f} s{many / one:8.2f}", flush=True)
    for name, kernel in kernels.items():
        bound = kernel.bind(model, 0)
        pair = stepper(bound, 1), stepper(bound, CHAINS)
        times = [[measure() for measure in pair] for _ in range(REPEATS)]
        one, many = (statistics.median(column) for column in zip(*times, strict=True))
        print(f"{'a step, ' + name:34s}{one * 1e6:7.0f} us{many * 1e6:9.0f} us{many / one:8.2f}", flush=True)
    for name, draw, count in (
        ("minibatch: stratified", lambda k: draw_subset(k, N, B), 2000),
        ("minibatch: permutation", lambda k: jax.random.choice(k, N, (B,), replace=False), 5),
    ):
        one, many = (
            statistics.median([m() for _ in range(3)]) for m in (subset(draw, 1, count), subset(draw, 8, count))
        )
        print(f"{name:34s}{one * 1e6:7.0f} us{many * 1e6:9.0f} us{many / one:8.2f}  (8 chains)", flush=True)
    print(f"largest ratio of whole calls {max(row.ratio for row in rows):.2f}, bound {BOUND}")
    return rows


if __name__ == "__main__":
    sys.exit(0 if all(row.ratio <= BOUND for row in main()) else 1)
