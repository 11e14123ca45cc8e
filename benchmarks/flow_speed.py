"""What a path gradient of a flow costs beyond plain reparameterisation: time per gradient, and memory with depth.

Both estimators share guide, target and noise and run in turn; a ratio is taken per round, compile time apart, and its
median is reported. The two-pass form (draw, then invert) is timed with them. Bound: 1.6 for coupling flows.

Run ``python benchmarks/flow_speed.py``. About two minutes.
"""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import jax
import jax.numpy as jnp

import pushforward as pf
from pushforward.estimators.gradients import join, split
from pushforward.models.guides import AbstractFlow, AbstractGuide, AbstractLocationScale

BOUND = 1.6
DIM = 16
NUM_PARTICLES = 128
ROUNDS = 25
COUPLINGS = {
    "RealNVP": pf.RealNVP(num_layers=6, hidden=64),
    "SplineFlow": pf.SplineFlow(num_layers=4, hidden=64),
}
OTHERS = {"IAF": pf.IAF(num_layers=4, hidden=64), "Planar": pf.Planar(), "Radial": pf.Radial()}


def funnel(x: jax.Array) -> jax.Array:
    """Neal's funnel: a target that costs next to nothing, so that the ratio is that of the flows."""
    return -0.5 * (x[0] / 3.0) ** 2 - 0.5 * jnp.sum(x[1:] ** 2) * jnp.exp(-x[0]) - 0.5 * (DIM - 1) * x[0]


@contextmanager
def two_passes() -> Iterator[None]:
    """Within, flows have the force by inverting the draw."""
    saved = AbstractFlow.sample_and_force, AbstractFlow.forward_path
    AbstractFlow.sample_and_force = AbstractGuide.sample_and_force
    AbstractFlow.forward_path = AbstractLocationScale.forward_path
    try:
        yield
    finally:
        AbstractFlow.sample_and_force, AbstractFlow.forward_path = saved


def gradient_step(guide: Any, target: pf.Target, gradient: Any, objective: Any) -> Callable[[int], None]:
    """A compiled gradient of the guide's parameters."""
    parameters, static = split(target, guide)

    def grads(parameters: Any, key: Any) -> Any:
        _, joined = join(parameters, target, static)
        return gradient.value_and_grad(key, objective, target, joined, NUM_PARTICLES)[1].guide

    compiled = jax.jit(grads).lower(parameters, jax.random.key(0)).compile()
    return lambda seed: jax.block_until_ready(compiled(parameters, jax.random.key(seed)))


def measured(flow: Any, objective: Any) -> dict[str, float]:
    """Milliseconds of the plain gradient, and median ratios to it."""
    target = pf.from_logdensity(funnel, jnp.zeros(DIM))
    guide = flow.bind(target).fresh(jax.random.key(0))
    steps = {
        "plain": gradient_step(guide, target, pf.Reparam(), objective),
        "single": gradient_step(guide, target, pf.Path(), objective),
    }
    with two_passes():
        steps["double"] = gradient_step(guide, target, pf.Path(), objective)
    taken: dict[str, list[float]] = {name: [] for name in steps}
    for i in range(ROUNDS):
        for name, step in steps.items():
            began = time.perf_counter()
            for j in range(5):
                step(5 * i + j)
            taken[name].append((time.perf_counter() - began) / 5)
    ratios = {
        name: statistics.median(a / b for a, b in zip(taken[name], taken["plain"], strict=True))
        for name in ("single", "double")
    }
    return {"ms": 1e3 * statistics.median(taken["plain"]), **ratios}


def memory_per_layer(*, checkpoint: bool) -> float:
    """Bytes of intermediate values per layer and draw, beyond gradients of the weights."""
    target = pf.from_logdensity(funnel, jnp.zeros(DIM))

    def temporary(num_layers: int, num_particles: int) -> int:
        guide = pf.RealNVP(num_layers=num_layers, hidden=64, checkpoint=checkpoint).bind(target)
        shapes = jax.eval_shape(guide.fresh, jax.random.key(0))

        def grads(guide: Any, key: Any) -> Any:
            return pf.Path().value_and_grad(key, pf.ELBO(), target, guide, num_particles)[1].guide

        lowered = jax.jit(grads).lower(shapes, jax.eval_shape(jax.random.key, 0))
        return lowered.compile().memory_analysis().temp_size_in_bytes

    few, many = (temporary(n, 256) - temporary(n, 128) for n in (4, 36))
    return (many - few) / (32 * 128)


def forward_objective() -> pf.ForwardKL:
    """Draws of the funnel."""
    first, rest = jax.random.split(jax.random.key(1))
    x = 3.0 * jax.random.normal(first, (4096, 1))
    return pf.ForwardKL(jnp.concatenate([x, jnp.exp(0.5 * x) * jax.random.normal(rest, (4096, DIM - 1))], 1))


def main() -> int:
    """Print the table; exit status 1 where a bound is missed."""
    jax.config.update("jax_enable_x64", True)
    holds = True
    print(f"{DIM} dimensions, {NUM_PARTICLES} draws, float64; ratios to the plain gradient, couplings at most {BOUND}")
    print(f"{'flow':<12}{'divergence':<12}{'plain ms':>10}{'single pass':>13}{'two passes':>12}")
    for direction, objective in (("reverse", pf.ELBO()), ("forward", forward_objective())):
        for name, flow in {**COUPLINGS, **OTHERS}.items():
            row = measured(flow, objective)
            holds &= name in OTHERS or row["single"] <= BOUND
            ratios = f"{row['single']:>13.2f}{row['double']:>12.2f}"
            print(f"{name:<12}{direction:<12}{row['ms']:>10.2f}{ratios}", flush=True)
    for checkpoint in (False, True):
        print(f"bytes per layer and draw, checkpoint={checkpoint}: {memory_per_layer(checkpoint=checkpoint):.0f}")
    print(f"All hold: {'yes' if holds else 'no'}.")
    return 0 if holds else 1


if __name__ == "__main__":
    sys.exit(main())
