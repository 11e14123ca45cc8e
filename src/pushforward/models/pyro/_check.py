"""Compare a traced density with torch, value and gradient. Imports torch: load only from inside a function."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import torch

from ._density import Density
from ._execute import Execution
from ._graph import Graph

_POINTS = (1, 2, 3)
"""Draws to compare at; the trace was made at draw 0, so a value that was baked in shows."""


def check(
    density: Density,
    graph: Graph,
    constants: Mapping[str, np.ndarray[Any, Any]],
    lifted: frozenset[str],
    indices: dict[str, torch.Tensor] | None,
) -> None:
    """Refuse a graph whose value or gradient differs from torch's.

    Each site's log-probability and the gradient of their scaled sum with respect to latent sites and parameters are
    compared at three draws of the prior (points uniform on (-2, 2) before transformation where it is improper).

    Raises:
        ValueError: if they differ by more than 1e-8 (float64) or 1e-4 (float32), relative to their largest entry.
    """
    moving = [k for k in graph.inputs if k.partition("/")[0] in ("latent", "param") and "float" in graph.dtypes[k]]

    @jax.jit
    def compiled(inputs: dict[str, Any], constants: dict[str, Any]) -> Any:
        def total(moved: dict[str, Any]) -> Any:
            run = Execution(graph, {**inputs, **moved}, constants)
            terms = {k: run.output(k) for k in graph.outputs if k.startswith("term/")}
            return _total(terms, {k: run.output(k) for k in graph.outputs if k.startswith("scale/")}, jnp), terms

        (_, terms), gradient = jax.value_and_grad(total, has_aux=True)({k: inputs[k] for k in moving})
        return terms, gradient

    draws = _POINTS if indices is None else _POINTS[:1]
    for draw in draws:
        inputs = density.inputs(draw, lift=set(lifted), indices=indices)
        arrays = {k: jnp.asarray(_numpy(v)) for k, v in inputs.items()}
        terms, gradient = compiled(
            arrays, {k: jnp.asarray(v) for k, v in constants.items() if k in graph.constants.values()}
        )
        # The reference uses the program's own data and its own indexing, so that lifting the data is checked as well.
        expected_terms, expected_gradient = reference(
            density, density.inputs(draw, lift=set(), indices=indices), moving
        )
        tolerance = 1e-8 if all(t.dtype == torch.float64 for t in expected_terms.values()) else 1e-4
        _compare(terms, expected_terms, gradient, expected_gradient, tolerance)


def reference(
    density: Density, inputs: Mapping[str, torch.Tensor], moving: list[str]
) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
    """Terms and gradient of their scaled sum, by torch."""
    with torch.enable_grad():
        leaves = {
            k: v if isinstance(v, torch.nn.Parameter) else v.detach().clone().requires_grad_(k in moving)
            for k, v in inputs.items()
        }
        outputs = density(leaves)
        terms = {k: v for k, v in outputs.items() if k.startswith("term/")}
        total = _total(terms, {k: v for k, v in outputs.items() if k.startswith("scale/")}, torch)
        gradients: tuple[Any, ...] = (None,) * len(moving)
        if moving and isinstance(total, torch.Tensor) and total.requires_grad:
            gradients = torch.autograd.grad(total, [leaves[k] for k in moving], allow_unused=True)
    found = {k: torch.zeros_like(leaves[k]) if g is None else g for k, g in zip(moving, gradients, strict=True)}
    return {k: v.detach() for k, v in terms.items()}, found


def _total(terms: Mapping[str, Any], scales: Mapping[str, Any], np_like: Any) -> Any:
    total: Any = 0.0
    for name, term in terms.items():
        # Impossible values of enumerated sites are -inf and carry no gradient.
        kept = np_like.where(np_like.isfinite(term), term, np_like.zeros_like(term))
        scale = scales[f"scale/{name.partition('/')[2]}"]
        if hasattr(scale, "dtype"):
            rank = max(scale.ndim, kept.ndim)
            scale, kept = _lead(scale, rank), _lead(kept, rank)
            total = total + (kept * scale).sum()
        else:
            total = total + kept.sum() * scale
    return total


def _lead(x: Any, rank: int) -> Any:
    return x.reshape((1,) * (rank - x.ndim) + tuple(x.shape)) if 0 < x.ndim < rank else x


def _numpy(tensor: torch.Tensor) -> np.ndarray[Any, Any]:
    return np.asarray(tensor.detach().resolve_conj().numpy())


def _compare(
    terms: Mapping[str, Any],
    expected_terms: Mapping[str, torch.Tensor],
    gradient: Mapping[str, Any],
    expected_gradient: Mapping[str, torch.Tensor],
    tolerance: float,
) -> None:
    for name, expected in expected_terms.items():
        _same(terms[name], _numpy(expected), tolerance, f"the log-probability of site '{name.partition('/')[2]}'")
    scale = max(
        [1.0] + [float(np.abs(g[np.isfinite(g)]).max(initial=0.0)) for g in map(_numpy, expected_gradient.values())]
    )
    for name, wanted in expected_gradient.items():
        array = _numpy(wanted)
        if np.isfinite(array).all():
            _same(gradient[name], array, tolerance, f"the gradient with respect to {name.replace('/', ' ')}", scale)


def _same(got: Any, expected: np.ndarray[Any, Any], tolerance: float, what: str, scale: float | None = None) -> None:
    array = np.asarray(got)
    finite = np.isfinite(expected)
    size = scale if scale is not None else 1.0 + float(np.abs(expected[finite]).max(initial=0.0))
    same_pattern = array.shape == expected.shape and np.array_equal(np.isnan(array), np.isnan(expected))
    if same_pattern:
        infinite = ~finite & ~np.isnan(expected)
        same_pattern = np.array_equal(array[infinite], expected[infinite])
        difference = float(np.abs(array[finite] - expected[finite]).max(initial=0.0))
        if same_pattern and difference <= tolerance * size:
            return
    else:
        difference = float("nan")
    raise ValueError(
        f"The compiled program differs from torch in {what}: expected agreement to {tolerance:g} (relative), got a "
        f"difference of {difference:.3g} at magnitude {size:.3g}. A tensor whose value was fixed while tracing "
        "(x.data, numpy calls, .item()) or a custom autograd Function is the usual cause. Rewrite that part with "
        "differentiable torch operations, correct a lowering you "
        'registered, or pass backend="callback" (slow).'
    )
