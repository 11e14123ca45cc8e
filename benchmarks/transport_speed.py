"""Entropic transport against OTT-JAX, POT and a blockwise loop in the manner of GeomLoss, at the same marginal error.

Three questions: 500 by 500 uniform costs at falling regularisation (float64); plain sweeps of our own where those are
best; clouds whose costs are not stored (float32). All run in one process in turn, compilation apart; medians.

    python benchmarks/transport_speed.py [costs] [streamed] [points]

``points`` is how many of each cloud; the published size is 20,000, which takes the peers an hour on two cores.
"""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Callable, Iterator
from statistics import median
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

import pushforward as pf

RATIO, ETA, SIZE = 50.0, 1200.0, 500
POINTS, DIM, BLUR = 4_000, 3, 0.1
NO_SLOWER = 0.95
"""Times of plain sweeps over ours at eta 10: no slower, but for the noise of two medians of milliseconds."""
LIMIT = 300.0
"""Seconds after which the blockwise loop is stopped where it is."""


class Row(NamedTuple):
    """One solver on one problem."""

    problem: str
    solver: str
    seconds: float
    error: float
    """Summed deviation of the marginals."""
    ratio: float
    """Its time over ours."""


def timed(run: Callable[[], Any], repeats: int) -> tuple[float, Any]:
    """Median seconds after one run that compiles, and the result."""
    result = jax.block_until_ready(run())
    taken = []
    for _ in range(repeats):
        began = time.perf_counter()
        result = jax.block_until_ready(run())
        taken.append(time.perf_counter() - began)
    return median(taken), result


def plan_error(plan: Any, weight: float) -> float:
    """Both marginals of a plan of equal weights."""
    plan = np.asarray(plan, np.float64)
    return float(np.abs(plan.sum(0) - weight).sum() + np.abs(plan.sum(1) - weight).sum())


def costs(eta: float, tolerance: float = 1e-12, seed: int = 0) -> list[Row]:
    """Uniform costs: ours, our plain sweeps, and the peers that are installed, each until it meets the tolerance."""
    cost = jax.random.uniform(jax.random.key(seed), (SIZE, SIZE), jnp.float64)
    weights = np.full(SIZE, 1.0 / SIZE)
    name = f"{SIZE} x {SIZE} uniform costs, eta = {eta:g}"

    def ours(method: str) -> pf.transport.Transport:
        return pf.transport.solve(cost=cost, epsilon=1 / eta, method=method, tolerance=tolerance, max_sweeps=200_000)

    seconds, found = timed(lambda: ours("auto"), 5)
    rows = [Row(name, "pushforward", seconds, plan_error(found.plan, 1 / SIZE), 1.0)]

    def add(solver: str, taken: float, plan: Any) -> None:
        rows.append(Row(name, solver, taken, plan_error(plan, 1 / SIZE), taken / seconds))
        print(rows[-1], flush=True)

    print(rows[0], flush=True)
    if eta <= 100:
        taken, plain = timed(lambda: ours("sinkhorn"), 5)
        add("pushforward, plain sweeps", taken, plain.plan)
    repeats = 3 if eta <= 100 else 1
    try:
        from ott.geometry.geometry import Geometry
        from ott.problems.linear.linear_problem import LinearProblem
        from ott.solvers.linear.sinkhorn import Sinkhorn
    except ImportError:
        print("OTT-JAX is not installed")
    else:
        # Its threshold is on one marginal, summed; the other one is met.
        solver = jax.jit(Sinkhorn(threshold=tolerance, max_iterations=200_000))
        problem = LinearProblem(Geometry(cost_matrix=cost, epsilon=1 / eta))
        taken, found = timed(lambda: solver(problem).matrix, repeats)
        add("OTT-JAX", taken, found)
    try:
        import ot
    except ImportError:
        print("POT is not installed")
    else:
        for method in ("sinkhorn", "sinkhorn_log"):
            if method == "sinkhorn_log" and eta > 100:
                continue  # Slower by the cost of its exponentials than the kernel form, which does not fail here.

            def peer(method: str = method) -> np.ndarray:
                given = {"stopThr": tolerance / SIZE**0.5, "numItermax": 200_000, "warn": False}
                return ot.sinkhorn(weights, weights, np.asarray(cost), 1 / eta, method=method, **given)

            taken, found = timed(peer, repeats)
            add(f"POT, {method}", taken, found)
    return rows


def streamed(points: int = POINTS, tolerance: float = 1e-3) -> list[Row]:
    """Clouds in three dimensions whose costs are computed again at each pass."""
    keys = jax.random.split(jax.random.key(0), 2)
    x = jax.random.normal(keys[0], (points, DIM), jnp.float32)
    y = 0.7 * jax.random.normal(keys[1], (points, DIM), jnp.float32) + 0.5
    name = f"{points:,} points, d = {DIM}, epsilon = {BLUR}"
    seconds, found = timed(lambda: pf.transport.solve(x, y, epsilon=BLUR, tolerance=tolerance), 1)
    print(name, "pushforward", seconds, found.marginal_error, found.num_sweeps, found.num_newton_steps, flush=True)
    rows = [Row(name, "pushforward", seconds, float(found.marginal_error), 1.0)]
    own = pf.transport.solve(x, y, cost=user_cost, epsilon=BLUR, tolerance=tolerance)
    taken, own = timed(lambda: pf.transport.solve(x, y, cost=user_cost, epsilon=BLUR, tolerance=tolerance), 1)
    rows.append(Row(name, "pushforward, a cost of the user's", taken, float(own.marginal_error), taken / seconds))
    print(rows[-1], flush=True)
    try:
        from ott.geometry.pointcloud import PointCloud
        from ott.problems.linear.linear_problem import LinearProblem
        from ott.solvers.linear.sinkhorn import Sinkhorn
    except ImportError:
        print("OTT-JAX is not installed")
    else:
        solver = jax.jit(Sinkhorn(threshold=tolerance, max_iterations=2000))
        problem = LinearProblem(PointCloud(x, y, epsilon=BLUR, batch_size=1000))
        with is_vmappable():
            taken, peer = timed(lambda: solver(problem), 1)
        error = float(peer.errors[peer.errors > 0][-1])
        rows.append(Row(name, "OTT-JAX, batches of 1,000", taken, error, taken / seconds))
        print(rows[-1], flush=True)
    began = time.perf_counter()
    found = blockwise(np.asarray(x), np.asarray(y), tolerance)
    if found is not None:
        taken, (error, sweeps) = time.perf_counter() - began, found
        rows.append(Row(name, f"torch, blocks of 1,000, {sweeps} sweeps", taken, error, taken / seconds))
        print(rows[-1], flush=True)
    return rows


@contextlib.contextmanager
def is_vmappable() -> Iterator[None]:
    """A name that OTT-JAX's batches look up where JAX no longer has it."""
    from jax._src.interpreters import batching as old
    from jax.interpreters import batching

    missing = "is_vmappable" not in vars(batching)
    if missing:
        batching.is_vmappable = old.is_vmappable
    try:
        yield
    finally:
        if missing:
            del batching.is_vmappable


def user_cost(x: jax.Array, y: jax.Array) -> jax.Array:
    """Squared distance, written by a user."""
    return jnp.sum((x - y) ** 2)


def blockwise(x: np.ndarray, y: np.ndarray, tolerance: float) -> tuple[float, int] | None:
    """Symmetric updates with a falling regularisation, as GeomLoss makes them, in torch on blocks of rows."""
    began = time.perf_counter()
    try:
        import torch
    except ImportError:
        return None
    points, others = torch.from_numpy(x.copy()), torch.from_numpy(y.copy())
    n, m = len(points), len(others)

    def soft(rows: Any, columns: Any, potential: Any, epsilon: float, count: int) -> Any:
        found = [
            torch.logsumexp((potential[None] - torch.cdist(block, columns) ** 2) / epsilon, dim=1)
            for block in rows.split(1000)
        ]
        return -epsilon * (torch.cat(found) - float(np.log(count)))

    with torch.no_grad():
        f, g, epsilon, error, sweeps = torch.zeros(n), torch.zeros(m), 32.0, 2.0, 0
        while True:
            sweeps += 1
            to_f, to_g = soft(points, others, g, epsilon, m), soft(others, points, f, epsilon, n)
            if epsilon <= BLUR:
                error = float(torch.exp((f - to_f) / epsilon).sub(1).abs().mean())
                error += float(torch.exp((g - to_g) / epsilon).sub(1).abs().mean())
                if error <= tolerance or time.perf_counter() - began > LIMIT:
                    return error, sweeps
            f, g = 0.5 * (f + to_f), 0.5 * (g + to_g)
            epsilon = max(BLUR, 0.5 * epsilon)


def bound(row: Row) -> float | None:
    """The ratio promised of a row: as fast as plain sweeps at eta 10, 50 times the peers at 1,200, faster on clouds."""
    if row.solver.startswith("pushforward"):
        return NO_SLOWER if row.solver.endswith("plain sweeps") else None
    if "eta" not in row.problem:
        return 1.0
    return RATIO if f"eta = {ETA:g}" in row.problem else None


def main(parts: list[str] | None = None) -> list[Row]:
    """The named parts, by default all."""
    parts = parts or []
    jax.config.update("jax_enable_x64", True)
    rows, sizes = [], [int(part) for part in parts if part.isdigit()]
    parts = [part for part in parts if not part.isdigit()]
    if not parts or "costs" in parts:
        rows += [row for eta in (10.0, ETA) for row in costs(eta)]
    if not parts or "streamed" in parts:
        rows += streamed(*sizes[:1])
    return rows


if __name__ == "__main__":
    main(sys.argv[1:])
