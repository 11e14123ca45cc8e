"""Facts of entropic transport that need no clock: iterations, float32 against float64, closed forms, memory.

python benchmarks/transport_truth.py [iterations] [single] [gaussian] [memory]
"""

from __future__ import annotations

import sys
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

import pushforward as pf

SIZE = 500
ETAS = (10.0, 100.0, 1e3, 1200.0, 1e4)
ERROR, CLOSED_FORM, MEMORY = 1e-12, 1e-6, 300e6
SHARES = (1e-1, 1e-2, 1e-3, 1e-4)


class Row(NamedTuple):
    """One fact."""

    what: str
    figure: str
    bound: str
    holds: bool


def marginal_error(cost: np.ndarray, a: np.ndarray, b: np.ndarray, potentials: object, epsilon: float) -> float:
    """Summed deviation of both marginals, from the potentials alone, in float64."""
    f, g = (np.asarray(p, np.float64) for p in potentials)  # type: ignore[attr-defined]
    plan = a[:, None] * b * np.exp((f[:, None] + g - cost) / epsilon)
    return float(np.abs(plan.sum(1) - a).sum() + np.abs(plan.sum(0) - b).sum())


def images(norm: str, side: int = 28) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Costs on a square grid, the largest one, and two images of uneven brightness."""
    grid = np.stack(np.meshgrid(np.arange(side), np.arange(side)), -1).reshape(-1, 2) / (side - 1)
    apart = grid[:, None] - grid[None]
    cost = np.sum(apart**2, -1) if norm == "L2" else np.sum(np.abs(apart), -1)
    light = [np.random.default_rng(seed).uniform(size=side**2) ** 4 + 1e-3 for seed in (1, 2)]
    return cost / cost.max(), light[0] / light[0].sum(), light[1] / light[1].sum()


def iterations() -> list[Row]:
    """Sweeps and Newton steps to 1e-12, from zero and from far-off potentials, with and without sweeps."""
    rows, equal = [], np.full(SIZE, 1.0 / SIZE)
    cost = np.asarray(jax.random.uniform(jax.random.key(0), (SIZE, SIZE)))
    wild = 1e3 * jax.random.normal(jax.random.key(1), (SIZE,))
    for eta in ETAS:
        for start, initial, most in (("zero", None, 20), ("far off", wild, 20), ("far off, no sweeps", wild, 0)):
            found = pf.transport.solve(cost=cost, epsilon=1 / eta, initial=initial, max_sweeps=most)
            rows.append(_counted(f"uniform costs, eta {eta:g}, from {start}", found, cost, equal, equal, eta, (20, 15)))
    for norm, bound in (("L2", (20, 15)), ("L1", (100, 80))):
        given = images(norm)
        found = pf.transport.solve(
            cost=given[0], a=given[1], b=given[2], epsilon=1 / 1200, max_sweeps=bound[0], max_newton_steps=bound[1]
        )
        rows.append(_counted(f"28 x 28 images, {norm}, eta 1200", found, *given, 1200.0, bound))
    return rows


def _counted(
    what: str,
    found: pf.transport.Transport,
    cost: np.ndarray,
    a: np.ndarray,
    b: np.ndarray,
    eta: float,
    bound: tuple[int, int],
) -> Row:
    error = marginal_error(cost, a, b, found.potentials, 1 / eta)
    counts = int(found.num_sweeps), int(found.num_newton_steps)
    holds = error <= ERROR and counts[0] <= bound[0] and counts[1] <= bound[1]
    row = Row(what, f"{counts[0]} + {counts[1]}, error {error:.1e}", f"{bound[0]} + {bound[1]}, {ERROR:g}", holds)
    print(row, flush=True)
    return row


def single() -> list[Row]:
    """`converged` in float32 against the marginal error in float64: 40 cases."""
    right = total = 0
    rng = np.random.default_rng(7)
    for what in ("costs 0", "costs 1", "cloud 2", "cloud 10", "euclidean 2"):
        name, number = what.split()
        if name == "costs":
            n, given = SIZE, {"cost": rng.uniform(size=(SIZE, SIZE)).astype(np.float32)}
            exact = given["cost"].astype(np.float64)
        else:
            n = 1000
            x, y = (rng.normal(size=(n, int(number))).astype(np.float32) for _ in "xy")
            x[:100], y[:100] = x[100:200], y[100:200]
            given = {"x": x, "y": y, "cost": "euclidean" if name == "euclidean" else "sqeuclidean"}
            exact = sum((x[:, None, k].astype(np.float64) - y[None, :, k]) ** 2 for k in range(x.shape[1]))
            exact = np.sqrt(exact) if name == "euclidean" else exact
        a, b = (rng.gamma(1.0, size=n) * (np.arange(n) < 0.9 * n) for _ in "ab")
        for share in SHARES:
            for tolerance in (None, 1e-4):
                epsilon = np.float32(share * exact.mean())
                with jax.enable_x64(False):
                    found = pf.transport.solve(
                        **given,
                        a=(a / a.sum()).astype(np.float32),
                        b=(b / b.sum()).astype(np.float32),
                        epsilon=epsilon,
                        tolerance=tolerance,
                    )
                used = (np.asarray(w, np.float64) for w in (found.problem.a, found.problem.b))
                error = marginal_error(exact, *used, found.potentials, float(epsilon))
                right += bool(found.converged) == (error <= float(found.tolerance))
                total += 1
        print(what, right, total, flush=True)
    return [Row("float32: converged is true", f"{right} of {total}", f"{total} of {total}", right == total)]


def gaussian() -> list[Row]:
    """Normals on quadrature nodes: relative errors of value, cross-covariance and derivatives."""
    z, w = (jnp.asarray(v) for v in np.polynomial.hermite_e.hermegauss(60))
    w = w / w.sum()

    def value(p: jax.Array) -> jax.Array:
        return pf.transport.solve((p[0] + p[1] * z)[:, None], (0.3 + 1.4 * z)[:, None], a=w, b=w, epsilon=0.5).cost

    def truth(p: jax.Array) -> jax.Array:
        given = p[:1], p[1:, None] ** 2, jnp.asarray([0.3]), jnp.asarray([[1.96]])
        return pf.transport.gaussian_transport(*given, 0.5).cost

    at, rows = jnp.asarray([-0.2, 0.8]), []
    for name, ours, known in (
        ("value", value(at), truth(at)),
        ("derivatives in mean and deviation", jax.grad(value)(at), jax.grad(truth)(at)),
        ("Hessian", jax.jacfwd(jax.grad(value))(at), jax.hessian(truth)(at)),
    ):
        error = float(jnp.max(jnp.abs(ours - known)) / jnp.max(jnp.abs(known)))
        rows.append(Row(f"normals on 60 nodes: {name}", f"{error:.1e}", f"{CLOSED_FORM:g}", error <= CLOSED_FORM))
        print(rows[-1], flush=True)
    return rows


def memory() -> list[Row]:
    """20,000 by 20,000 points in three dimensions: what the compiled program needs beyond its inputs."""
    x = jax.ShapeDtypeStruct((20_000, 3), jnp.float32)

    def value(x: jax.Array, y: jax.Array) -> object:
        found = pf.transport.solve(x, y, epsilon=0.05)
        return found.cost, found.potentials, found.gap

    needed = jax.jit(value).lower(x, x).compile().memory_analysis()
    used = needed.temp_size_in_bytes + needed.output_size_in_bytes
    return [Row("20,000 x 20,000 points: memory", f"{used / 1e6:.0f} MB", f"{MEMORY / 1e6:.0f} MB", used <= MEMORY)]


def main(parts: tuple[str, ...] = ("iterations", "single", "gaussian", "memory")) -> list[Row]:
    """The named parts, by default all."""
    jax.config.update("jax_enable_x64", True)
    known = {"iterations": iterations, "single": single, "gaussian": gaussian, "memory": memory}
    return [row for part in parts for row in known[part]()]


if __name__ == "__main__":
    for row in main(*([tuple(sys.argv[1:])] if sys.argv[1:] else [])):
        print(row)
