"""Sets of samples as points: what the distances between them work on."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ..models import Target
from ..models._layout import Layout
from ._arguments import check_count
from ._posterior import Posterior
from ._summary import chain_statistic

DEFAULT_POINTS = 2000


@dataclasses.dataclass(frozen=True)
class Discrepancy:
    """A distance and what it is worth."""

    value: float
    """The distance of the two sets (of the set and the target), zero where they are equal."""
    unbiased: float
    """Unbiased estimate for the distributions, of the square of the distance (of an energy distance itself); may be
    negative."""
    p_value: float | None
    """Probability, were the distributions equal, of an estimate at least this large; None where no key was given."""
    num_points: tuple[int, ...]
    """Points used of each set."""

    def __float__(self) -> float:
        return self.value


def points_of(
    samples: Any, target: Target | None = None, *, name: str = "samples", max_points: int | None = DEFAULT_POINTS
) -> np.ndarray:
    """Points of shape (n, d), evenly thinned to at most ``max_points``.

    Draws of Markov chains are first thinned by twice their largest autocorrelation time, so that what is left is close
    to independent, as p-values assume.

    Args:
        samples: a `Posterior` (its positions on unconstrained space), an array (n, d) or (n,), or, with a target, a
            pytree of its positions with a leading axis.
        target: gives positions their structure.
        name: for messages.
        max_points: at most this many, or None for all.

    Raises:
        ValueError: for points that are fewer than two, not finite, or of the wrong shape.
    """
    chains = None
    if isinstance(samples, Posterior):
        layout = Layout.of(jax.tree.map(lambda x: x[0, 0], samples.positions))
        leaves = layout.treedef.flatten_up_to(samples.positions)
        chains = np.concatenate([x.reshape(*x.shape[:2], -1) for x in leaves], axis=2)
        if samples.kind == "mcmc" and chains.shape[1] >= 4:
            chains = chains[:, :: _stride(chains)]
        points = chains.reshape(-1, chains.shape[2])
    elif target is not None and not hasattr(samples, "ndim") and _structured_like(samples, target.example):
        points = np.asarray(jax.vmap(Layout.of(target.example).ravel)(jax.tree.map(jnp.asarray, samples)))
    else:
        points = np.asarray(samples)
        points = points[:, None] if points.ndim == 1 else points
    expected = "an array of points (n, d)" + (f" with d = {target.dim}" if target is not None else "")
    if points.dtype.kind != "f" or points.ndim != 2 or (target is not None and points.shape[1] != target.dim):
        raise ValueError(
            f"{name} has shape {points.shape} and dtype {points.dtype}: expected a posterior, or {expected} on "
            "unconstrained space, of floating point."
        )
    if points.shape[0] < 2 or not np.isfinite(points).all():
        raise ValueError(f"{name} has {points.shape[0]} points, all of which must be finite: expected at least 2.")
    if max_points is not None and points.shape[0] > check_count("max_points", max_points, 2):
        points = points[np.linspace(0, points.shape[0] - 1, max_points).round().astype(int)]
    return points


def _structured_like(samples: Any, example: Any) -> bool:
    return bool(jax.tree.structure(samples) == jax.tree.structure(example))  # type: ignore[operator]


def _stride(chains: np.ndarray) -> int:
    """Draws to go on by, for close to independent ones: twice the largest autocorrelation time."""
    ess = chain_statistic(np.moveaxis(chains, 2, 0), "mean")
    time = chains.shape[0] * chains.shape[1] / np.nanmin(ess) if np.isfinite(ess).any() else 1.0
    return 1 if time < 1.1 else min(int(np.ceil(2 * time)), max(chains.shape[1] // 2, 1))
