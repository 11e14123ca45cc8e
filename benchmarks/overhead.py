"""What a fit costs beyond its arithmetic: pf.fit with progress, guard and k-hat against a bare ``lax.scan``.

Both run the same 20,000 Adam steps of the same path gradient on a 100 x 3 regression; compile time apart, in turn,
medians. Also the front end's log density against hand-written JAX.
"""

from __future__ import annotations

import statistics
import sys
import time

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import optax

import pushforward as pf
from pushforward.estimators.gradients import join, split

NUM_STEPS = 20_000
NUM_PARTICLES = 8
REPEATS = 5


def regression(x, y):
    """Linear regression with unknown noise."""
    w = numpyro.sample("w", dist.Normal(0.0, 1.0).expand([x.shape[1]]).to_event(1))
    s = numpyro.sample("s", dist.HalfNormal(1.0))
    numpyro.sample("y", dist.Normal(x @ w, s), obs=y)


def data() -> tuple[jax.Array, jax.Array]:
    """A 100 x 3 design and its response."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(100, 3))
    return jnp.asarray(x), jnp.asarray(x @ [1.0, -0.5, 2.0] + 0.5 * rng.normal(size=100))


def bare_scan(target: pf.Target):
    """The same update in a plain scan: no guard, no progress, no verdict, no averaging."""
    guide = pf.MeanField(target)
    parameters, static = split(target, guide)
    optimizer = optax.adam(1e-2)
    gradient, objective = pf.Path(), pf.ELBO()

    @jax.jit
    def scan(target, parameters, key):
        def step(carry, i):
            parameters, state = carry
            joined_target, joined_guide = join(parameters, target, static)
            estimate, grads = gradient.value_and_grad(
                jax.random.fold_in(key, i), objective, joined_target, joined_guide, NUM_PARTICLES
            )
            updates, state = optimizer.update(grads, state, parameters)
            return (optax.apply_updates(parameters, updates), state), -estimate.value

        return jax.lax.scan(step, (parameters, optimizer.init(parameters)), jnp.arange(NUM_STEPS))

    return lambda key: jax.block_until_ready(scan(target, parameters, key))


def fit_overhead() -> dict[str, float]:
    """Median seconds of both, and the ratio pair by pair."""
    target = pf.from_numpyro(regression, *data())
    scan = bare_scan(target)
    optimizer = optax.adam(1e-2)

    def fit(key):
        return pf.fit(
            target,
            pf.MeanField(),
            optimizer=optimizer,
            num_steps=NUM_STEPS,
            num_particles=NUM_PARTICLES,
            num_restarts=1,
            num_draws=1000,
            stop_early=False,
            init=pf.MeanField(target),
            key=key,
            progress=True,
        )

    times: dict[str, list[float]] = {"scan": [], "fit": []}
    first: dict[str, float] = {}
    for repeat in range(REPEATS + 1):
        for name, call in (("scan", scan), ("fit", fit)):
            began = time.perf_counter()
            call(jax.random.key(repeat))
            seconds = time.perf_counter() - began
            if repeat == 0:
                first[name] = seconds
            else:
                times[name].append(seconds)
    ratio = statistics.median(f / s for f, s in zip(times["fit"], times["scan"], strict=True))
    scan_s, fit_s = statistics.median(times["scan"]), statistics.median(times["fit"])
    return {
        "scan_s": scan_s,
        "fit_s": fit_s,
        "ratio": ratio,
        "scan_compile_s": first["scan"] - scan_s,
        "fit_compile_s": first["fit"] - fit_s,
    }


def density_overhead() -> dict[str, float]:
    """Front-end log density against hand-written JAX: seconds per value-and-gradient of 1,000 positions, in turn."""
    x, y = data()
    target = pf.from_numpyro(regression, x, y)

    def by_hand(position):
        w, log_s = position["w"], position["s"]
        s = jnp.exp(log_s)
        prior = -0.5 * jnp.sum(w**2) - 1.5 * jnp.log(2 * jnp.pi)
        prior_s = 0.5 * jnp.log(2 / jnp.pi) - 0.5 * s**2 + log_s
        r = (y - x @ w) / s
        return prior + prior_s - 0.5 * jnp.sum(r**2) - y.size * (log_s + 0.5 * jnp.log(2 * jnp.pi))

    positions = target.initial(jax.random.key(0), 1000)
    functions = {
        "front_end": jax.jit(jax.vmap(jax.value_and_grad(target.logdensity))),
        "by_hand": jax.jit(jax.vmap(jax.value_and_grad(by_hand))),
    }
    values = {name: jax.block_until_ready(f(positions))[0] for name, f in functions.items()}
    np.testing.assert_allclose(values["front_end"], values["by_hand"], rtol=1e-5)
    ratios, times = [], {name: [] for name in functions}
    for _ in range(200):
        for name, f in functions.items():
            began = time.perf_counter()
            jax.block_until_ready(f(positions))
            times[name].append(time.perf_counter() - began)
        ratios.append(times["front_end"][-1] / times["by_hand"][-1])
    return {
        "front_end_us": 1e6 * statistics.median(times["front_end"]),
        "by_hand_us": 1e6 * statistics.median(times["by_hand"]),
        "ratio": statistics.median(ratios),
    }


def main() -> list[dict[str, object]]:
    """Run both and print them."""
    rows: list[dict[str, object]] = []
    for name, limit, figures in (
        ("fit / lax.scan", 1.25, fit_overhead()),
        ("front-end density / by hand", 1.05, density_overhead()),
    ):
        rows.append({"what": name, "limit": limit, **figures})
        print(name, f"(limit {limit}):", {k: round(v, 3) for k, v in figures.items()}, file=sys.stdout, flush=True)
    return rows


if __name__ == "__main__":
    main()
