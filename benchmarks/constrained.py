"""Constrained targets without a learning rate: coin versions of mirrored Stein samplers against their best rates.

Two densities on the simplex of 20 coordinates: a sparse Dirichlet (0.1 + (90, 5, 5, 0, ...)) and the quadratic
``exp(-x'Ax / 2e-4)`` of the first 19, A random positive semi-definite with largest entry one. 50 particles from
Dirichlet(5), 500 steps; energy distance to 1,000 draws (exact for the Dirichlet; NUTS, ten chains thinned, for the
quadratic). Bounds: no particle outside, none lost, and each coin version at most 1.2 times the best of the learning
rates 0.1, 0.01, 0.001 of RMSprop.

After Shi, Liu and Mackey, arXiv:2106.12506, section 5.1.

Run ``python benchmarks/constrained.py``.
"""

from __future__ import annotations

import time
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from numpyro.distributions import constraints

import pushforward as pf

BOUND = 1.2
DIM, PARTICLES, STEPS = 20, 50, 500
LEARNING_RATES = (0.1, 0.01, 0.001)
ALPHA = 0.1 + np.array([90.0, 5.0, 5.0] + [0.0] * (DIM - 3))
PAIRS = {"MSVGD": (pf.CoinMirroredSVGD, pf.MirroredSVGD), "SVMD": (pf.CoinSVMD, pf.SVMD)}


class Row(NamedTuple):
    """One method on one target."""

    target: str
    method: str
    coin: float
    """Energy distance."""
    tuned: dict[float, float]
    """Energy distance per learning rate."""
    exact: float
    """Of as many independent draws, on average."""
    outside: int
    """Coordinates below zero, particles that do not sum to one, and values that are not finite, in all runs."""
    seconds: float

    @property
    def ratio(self) -> float:
        """Coin over the best learning rate."""
        return self.coin / min(self.tuned.values())

    @property
    def holds(self) -> bool:
        """Whether the bounds hold."""
        return self.ratio <= BOUND and self.outside == 0


def simplex_target(logdensity: Any) -> pf.Target:
    """A density of points of the simplex."""
    return pf.from_logdensity(logdensity, jnp.full(DIM, 1.0 / DIM), constraints.simplex)


def dirichlet() -> tuple[pf.Target, np.ndarray]:
    """The sparse Dirichlet and exact draws."""
    alpha = jnp.asarray(ALPHA)
    target = simplex_target(lambda x: jnp.sum((alpha - 1.0) * jnp.log(x)))
    return target, np.random.default_rng(1).dirichlet(ALPHA, 1000)


def quadratic() -> tuple[pf.Target, np.ndarray]:
    """The quadratic and draws by NUTS."""
    root = np.random.default_rng(4).uniform(-1.0, 1.0, (DIM - 1, DIM - 1))
    matrix = jnp.asarray(root @ root.T / np.abs(root @ root.T).max())
    target = simplex_target(lambda x: -0.5e4 * x[:-1] @ matrix @ x[:-1])
    posterior = pf.sample(
        target,
        pf.NUTS(),
        key=jax.random.key(5),
        num_steps=1000,
        num_warmup=1000,
        num_chains=10,
        thin=10,
        progress=False,
    )
    return target, posterior.data["posterior"]["x"].values.reshape(1000, DIM)


def energy_distance(x: np.ndarray, y: np.ndarray) -> float:
    """``2 E|x - y| - E|x - x'| - E|y - y'|``, all pairs."""

    def mean(a: np.ndarray, b: np.ndarray) -> float:
        return float(np.mean(np.sqrt(np.sum((a[:, None] - b[None]) ** 2, axis=-1))))

    return 2.0 * mean(x, y) - mean(x, x) - mean(y, y)


def cloud(target: pf.Target, sampler: Any) -> np.ndarray:
    """Final particles."""
    start = jnp.asarray(np.random.default_rng(2).dirichlet(np.full(DIM, 5.0), PARTICLES))
    positions = jax.vmap(lambda x: target.program.invert({"x": x})[0])(start)
    posterior = pf.sample(
        target, sampler, key=jax.random.key(0), num_steps=STEPS, init=positions, progress=False
    )  # fmt: skip
    return np.asarray(posterior.data["posterior"]["x"].values[0])


def violations(x: np.ndarray) -> int:
    """Particles that are missing, coordinates that are negative or not finite, sums that are not one."""
    off = np.abs(x.sum(axis=1) - 1.0) > 1e-9
    return int(PARTICLES - len(x) + np.sum(~np.isfinite(x)) + np.sum(x < 0) + np.sum(off))


def measured(name: str, method: str, target: pf.Target, truth: np.ndarray) -> Row:
    """One method on one target: coin and all learning rates."""
    began = time.perf_counter()
    coin, tuned = PAIRS[method]
    free = cloud(target, coin(PARTICLES))
    clouds = {rate: cloud(target, tuned(PARTICLES, optimizer=optax.rmsprop(rate))) for rate in LEARNING_RATES}
    generator = np.random.default_rng(3)
    draws = [truth[generator.choice(len(truth), PARTICLES, replace=False)] for _ in range(20)]
    return Row(
        name,
        method,
        energy_distance(free, truth),
        {rate: energy_distance(x, truth) for rate, x in clouds.items()},
        float(np.mean([energy_distance(x, truth) for x in draws])),
        violations(free) + sum(violations(x) for x in clouds.values()),
        time.perf_counter() - began,
    )


def main() -> list[Row]:
    """Measure and print."""
    print("| target | method | coin | rates 0.1, 0.01, 0.001 | ratio | independent draws | outside | seconds |")
    print("| --- | --- | --- | --- | --- | --- | --- | --- |")
    rows = []
    for name, build in (("dirichlet", dirichlet), ("quadratic", quadratic)):
        target, truth = build()
        for method in PAIRS:
            row = measured(name, method, target, truth)
            rows.append(row)
            rates = ", ".join(f"{x:.2g}" for x in row.tuned.values())
            print(
                f"| {name} | {method} | {row.coin:.2g} | {rates} | {row.ratio:.2f} | {row.exact:.2g} | {row.outside} | "
                f"{row.seconds:.0f} |",
                flush=True,
            )
    return rows


if __name__ == "__main__":
    jax.config.update("jax_enable_x64", True)
    main()
