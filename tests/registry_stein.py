"""Stein and other particle flows, for the shared suite over samplers."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

import pushforward as pf


def reference(target: Any) -> Any:
    """Draws for `pf.MMDFlow`: of the Gaussian of `registry`, or any points for other targets."""
    import registry

    if target.dim != registry.DIM:
        return target.initial(jax.random.key(3), 50)
    white = np.random.default_rng(3).standard_normal((400, 3))
    white = (white - white.mean(0)) @ np.linalg.inv(np.linalg.cholesky(np.cov(white.T, bias=True))).T
    draws = registry.MEAN + white @ registry.ROOT.T
    return {"a": jnp.asarray(draws[:, 0]), "b": jnp.asarray(draws[:, 1:])}


def identity(position: Any) -> Any:
    """The metric that changes nothing."""
    return jnp.eye(sum(x.size for x in jax.tree.leaves(position)))


STEIN: dict[str, dict[str, Any]] = {
    "MirroredSVGD": {"build": lambda: pf.MirroredSVGD(50, optimizer=optax.adagrad(0.5)), "num_steps": 600},
    "CoinMirroredSVGD": {"build": lambda: pf.CoinMirroredSVGD(50), "num_steps": 600},
    "SVMD": {"build": lambda: pf.SVMD(50, optimizer=optax.adagrad(0.5)), "num_steps": 400},
    "CoinSVMD": {"build": lambda: pf.CoinSVMD(50), "num_steps": 400},
    "SVNG": {"build": lambda: pf.SVNG(identity, 50, optimizer=optax.adagrad(0.5)), "num_steps": 400},
    "KSDDescent": {"build": lambda: pf.KSDDescent(50, optimizer=optax.adagrad(0.5)), "num_steps": 800},
    "CoinKSDD": {"build": lambda: pf.CoinKSDD(50), "num_steps": 800},
    "MMDFlow": {"build": lambda: pf.MMDFlow(reference, 50, optimizer=optax.adagrad(0.5)), "num_steps": 1500},
    "BirthDeath": {
        "build": lambda: pf.BirthDeath(0.05, 500, rate=0.1),
        "num_steps": 200,
        "cloud": (0.8, 1.2),
    },
}

# One box for targets of one and of two dimensions.
BOX = {"lower": -7.0, "upper": 7.0, "num_particles": 50, "num_grid": 56, "num_functions": 30}
GRID = {"dim": 2, "num_steps": 800, "cloud": (0.8, 1.2)}
STEIN["LAWGD"] = {"build": lambda: pf.LAWGD(**BOX, optimizer=optax.adagrad(0.5)), **GRID}
STEIN["CoinLAWGD"] = {"build": lambda: pf.CoinLAWGD(**BOX), **GRID}
for name, case in STEIN.items():
    case.setdefault("cloud", (0.7, 1.05))
    case["slow"] = name in ("MirroredSVGD", "SVMD", "SVNG", "KSDDescent", "MMDFlow", "LAWGD", "CoinLAWGD")
