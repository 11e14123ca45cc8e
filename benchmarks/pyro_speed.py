"""Compiled Pyro programs against Pyro itself: one value-and-gradient, and one per particle of a thousand.

For each Pyro program of the zoo, in one process: the log density on unconstrained space and its gradient as Pyro's HMC
computes them (conditioned trace, torch autograd, argument checks off), the compiled density jitted at one position, and
the same vectorised over 1,000 positions. Compile time is apart. Times are medians over repetitions; the three are
interleaved, so that load on the machine hits all of them.

Run with ``python benchmarks/pyro_speed.py``; exits with 1 unless both ratios hold on at least eight models.
"""

from __future__ import annotations

import statistics
import sys
import time
import warnings
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

NUM_PARTICLES = 1000
BLOCK = 100
TARGET_ONE = 40.0
TARGET_PARTICLE = 1000.0
NUM_MODELS = 8


class Row(NamedTuple):
    """Times of one model, in seconds."""

    name: str
    build: float
    compile: float
    pyro: float
    one: float
    particle: float


def main() -> list[Row]:
    """Time every Pyro program of the zoo and print a table."""
    import torch

    import pushforward as pf
    from pushforward.models import zoo

    pf.enable_x64()
    torch.set_default_dtype(torch.float64)
    warnings.simplefilter("ignore")
    rows = [measure(name, *zoo.load(name).pyro()) for name in zoo.pyro_names()]
    print(table(rows))
    return rows


def measure(name: str, model: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Row:
    """Times for one model."""
    from pushforward import from_pyro

    start = time.perf_counter()
    target = from_pyro(model, *args, **kwargs)
    build = time.perf_counter() - start

    value_and_grad = jax.value_and_grad(target.logdensity)
    position = target.initial(jax.random.key(0))
    positions = target.initial(jax.random.key(1), NUM_PARTICLES)
    one, many = jax.jit(value_and_grad), jax.jit(jax.vmap(value_and_grad))
    blocks = jax.jit(lambda p: jax.lax.map(value_and_grad, p, batch_size=BLOCK))
    start = time.perf_counter()
    jax.block_until_ready(one(position))
    compiled = time.perf_counter() - start
    reference = pyro_value_and_grad(target.constrain(position), model, args, kwargs)

    reference()
    jax.block_until_ready((one(position), many(positions), blocks(positions)))
    times: tuple[list[float], ...] = ([], [], [], [])
    for _ in range(7):
        times[0].append(timed(reference, 10))
        times[1].append(timed(lambda: one(position), 200))
        times[2].append(timed(lambda: many(positions), 10) / NUM_PARTICLES)
        times[3].append(timed(lambda: blocks(positions), 10) / NUM_PARTICLES)
    pyro, ours, at_once, in_blocks = (statistics.median(t) for t in times)
    return Row(name, build, compiled, pyro, ours, min(at_once, in_blocks))


def pyro_value_and_grad(
    values: dict[str, Any], model: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
) -> Callable[[], Any]:
    """Log density on unconstrained space and its gradient, the way `pyro.infer.mcmc` evaluates a potential."""
    import numpy as np
    import pyro
    import torch
    from pyro import poutine
    from torch.distributions import biject_to

    known = {k: torch.as_tensor(np.array(v)) for k, v in values.items()}
    first = poutine.trace(poutine.condition(model, known)).get_trace(*args, **kwargs)
    latent = [k for k in known if not first.nodes[k]["infer"].get("_deterministic")]
    transforms = {k: biject_to(first.nodes[k]["fn"].support) for k in latent}
    start = {k: transforms[k].inv(known[k]).detach() for k in latent}

    def evaluate() -> Any:
        with pyro.validation_enabled(False):
            leaves = {k: v.clone().requires_grad_(True) for k, v in start.items()}
            constrained = {k: transforms[k](v) for k, v in leaves.items()}
            trace = poutine.trace(poutine.condition(model, constrained)).get_trace(*args, **kwargs)
            value = trace.log_prob_sum()
            for k, v in leaves.items():
                value = value + transforms[k].log_abs_det_jacobian(v, constrained[k]).sum()
            return value, torch.autograd.grad(value, list(leaves.values()))

    return evaluate


def timed(function: Callable[[], Any], repetitions: int) -> float:
    """Seconds per call."""
    start = time.perf_counter()
    for _ in range(repetitions):
        out = function()
    jax.block_until_ready([x for x in jax.tree.leaves(out) if isinstance(x, jnp.ndarray)])
    return (time.perf_counter() - start) / repetitions


def table(rows: list[Row]) -> str:
    """The measurements as text."""
    head = f"{'model':28}{'build s':>9}{'compile s':>11}{'Pyro us':>10}{'ours us':>10}{'ratio':>8}"
    head += f"{'particle us':>13}{'ratio':>9}"
    lines = [head, "-" * len(head)]
    for r in rows:
        lines.append(
            f"{r.name:28}{r.build:9.1f}{r.compile:11.2f}{r.pyro * 1e6:10.0f}{r.one * 1e6:10.1f}{r.pyro / r.one:8.0f}"
            f"{r.particle * 1e6:13.2f}{r.pyro / r.particle:9.0f}"
        )
    return "\n".join(lines)


def misses(rows: list[Row]) -> list[str]:
    """Which targets are missed: each ratio must hold on at least eight models."""
    one = sum(r.pyro / r.one >= TARGET_ONE for r in rows)
    particle = sum(r.pyro / r.particle >= TARGET_PARTICLE for r in rows)
    out = []
    if one < NUM_MODELS:
        out.append(f"{TARGET_ONE:g}x per value-and-gradient holds on {one} models: expected at least {NUM_MODELS}")
    if particle < NUM_MODELS:
        out.append(f"{TARGET_PARTICLE:g}x per particle holds on {particle} models: expected at least {NUM_MODELS}")
    return out


if __name__ == "__main__":
    missed = misses(main())
    print("\n".join(missed) or "all targets met")
    sys.exit(bool(missed))
