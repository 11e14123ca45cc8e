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
        expected = {**expected_terms, **{f"gradient/{k}": g for k, g in expected_gradient.items()}}
        found = {**terms, **{f"gradient/{k}": g for k, g in gradient.items()}}
        problem = _difference(found, expected, tolerance, {})
        if problem is not None:
            slack = _rounding(density, density.inputs(draw, lift=set(), indices=indices), moving, expected)
            problem = _difference(found, expected, tolerance, slack)
        if problem is not None:
            raise ValueError(problem)


def _rounding(
    density: Density, inputs: Mapping[str, torch.Tensor], moving: list[str], expected: Mapping[str, torch.Tensor]
) -> dict[str, float]:
    """How far torch's own values move when its inputs move by a few units in the last place.

    An ill-conditioned density (a nearly singular covariance at a far-out draw) cannot agree better than this.
    """
    out = dict.fromkeys(expected, 0.0)
    for seed in range(2):
        generator = torch.Generator().manual_seed(seed)
        moved = {
            k: v * (1 + 8 * torch.finfo(v.dtype).eps * torch.empty_like(v).uniform_(-1, 1, generator=generator))
            if k in moving and not isinstance(v, torch.nn.Parameter)
            else v
            for k, v in inputs.items()
        }
        terms, gradient = reference(density, moved, moving)
        again = {**terms, **{f"gradient/{k}": g for k, g in gradient.items()}}
        for k in out:
            change = (again[k] - expected[k]).abs()
            out[k] = max(out[k], float(change[change.isfinite()].max()) if change.isfinite().any() else 0.0)
    return {k: 10 * v for k, v in out.items()}


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


def _difference(
    found: Mapping[str, Any], expected: Mapping[str, torch.Tensor], tolerance: float, slack: Mapping[str, float]
) -> str | None:
    """What differs, in words; None if nothing does. Entries that are NaN in torch are not compared."""
    arrays = {k: _numpy(v) for k, v in expected.items()}
    gradients = [a[np.isfinite(a)] for k, a in arrays.items() if k.startswith("gradient/")]
    steepest = max([1.0] + [float(np.abs(g).max(initial=0.0)) for g in gradients])
    for name, wanted in arrays.items():
        got = np.asarray(found[name])
        finite, known = np.isfinite(wanted), ~np.isnan(wanted)
        is_gradient = name.startswith("gradient/")
        if is_gradient and not finite.all():
            continue
        size = steepest if is_gradient else 1.0 + float(np.abs(wanted[finite]).max(initial=0.0))
        gap = float("nan")
        if got.shape == wanted.shape and np.array_equal(got[known & ~finite], wanted[known & ~finite]):
            gap = float(np.abs(got[finite] - wanted[finite]).max(initial=0.0))
        if not gap <= tolerance * size + slack.get(name, 0.0):
            kind, _, rest = name.partition("/")
            what = f"the gradient with respect to {rest.replace('/', ' ')}"
            what = f"the log-probability of site '{rest}'" if kind == "term" else what
            return (
                f"The compiled program differs from torch in {what}: expected agreement to {tolerance:g} (relative), "
                f"got a difference of {gap:.3g} at magnitude {size:.3g}. A tensor whose value was fixed while tracing "
                "(x.data, numpy calls, .item()) or a custom autograd Function is the usual cause. Rewrite that part "
                "with differentiable torch operations, correct a lowering you registered, or pass "
                'backend="callback" (slow).'
            )
    return None
