"""Trace a torch function and compare its JAX translation with torch, value and gradient."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import torch
from hypothesis import HealthCheck, Phase, settings

from pushforward.models.pyro._execute import Execution
from pushforward.models.pyro._graph import Graph
from pushforward.models.pyro._trace import Recorder, trace

QUICK = settings(
    max_examples=1, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck), phases=[Phase.generate]
)
"""Every example compiles a program, so failures are not shrunk."""

TOLERANCE = {torch.float64: 1e-10, torch.float32: 1e-4}


class Gen:
    """Random tensors of one dtype."""

    def __init__(self, seed: int, dtype: torch.dtype) -> None:
        self.source = torch.Generator().manual_seed(seed)
        self.dtype = dtype

    def real(self, *shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=self.source, dtype=torch.float64).to(self.dtype)

    def unit(self, *shape: int) -> torch.Tensor:
        return (0.1 + 0.8 * torch.rand(shape, generator=self.source, dtype=torch.float64)).to(self.dtype)

    def positive(self, *shape: int) -> torch.Tensor:
        return 0.5 + 1.5 * self.unit(*shape)

    def simplex(self, *shape: int) -> torch.Tensor:
        x = self.positive(*shape)
        return x / x.sum(-1, keepdim=True)

    def tril(self, *shape: int) -> torch.Tensor:
        x = 0.3 * self.real(*shape)
        return x.tril(-1) + torch.diag_embed(self.positive(*shape[:-1]))

    def spd(self, *shape: int) -> torch.Tensor:
        x = self.tril(*shape)
        return x @ x.mT

    def ints(self, high: int, *shape: int) -> torch.Tensor:
        return torch.randint(0, high, shape, generator=self.source)

    def floats_below(self, high: int, *shape: int) -> torch.Tensor:
        return self.ints(high, *shape).to(self.dtype)


def translate(
    function: Callable[[dict[str, Any]], Any], inputs: Mapping[str, torch.Tensor]
) -> tuple[Graph, dict[str, Any]]:
    recorder = Recorder()
    return trace(lambda x: _named(function(x)), {k: v.detach().clone() for k, v in inputs.items()}, recorder)


def _named(output: Any) -> dict[str, torch.Tensor]:
    outputs = output if isinstance(output, (tuple, list)) else (output,)
    return {str(i): o for i, o in enumerate(outputs)}


class Compared(NamedTuple):
    """What agreed with torch."""

    outputs: list[Any]
    gradients: dict[str, Any]
    """By the name of the input."""


def compare(
    function: Callable[[dict[str, Any]], Any],
    traced_at: Mapping[str, torch.Tensor],
    inputs: Mapping[str, torch.Tensor],
    tolerance: float,
    *,
    gradient: bool = True,
) -> Compared:
    """Trace at one point; assert that value and vector-Jacobian product at another are those of torch.

    The cotangent of an output counts evenly from 0.5 to 1.5.
    """
    graph, constants = translate(function, traced_at)
    moving = [k for k, v in inputs.items() if v.is_floating_point() and not k.startswith("buffer")] if gradient else []

    leaves = {k: v.detach().clone().requires_grad_(k in moving) for k, v in inputs.items()}
    outputs = _named(function(leaves))
    weights = {
        k: torch.linspace(0.5, 1.5, max(v.numel(), 1), dtype=torch.float64)[: v.numel()].reshape(v.shape)
        for k, v in outputs.items()
    }
    total = sum((v * weights[k].to(v.dtype)).sum() for k, v in outputs.items() if v.is_floating_point())
    wanted: Any = [None] * len(moving)
    if moving and isinstance(total, torch.Tensor) and total.requires_grad:
        wanted = torch.autograd.grad(total, [leaves[k] for k in moving], allow_unused=True)

    arrays = {k: jnp.asarray(v.detach().numpy()) for k, v in inputs.items()}

    def run(moved: dict[str, Any], rest: dict[str, Any]) -> Any:
        def scalar(moved: dict[str, Any]) -> Any:
            execution = Execution(graph, {**rest, **moved}, constants)
            found = {k: execution.output(k) for k in outputs}
            parts = [
                jnp.sum(v * jnp.asarray(weights[k].numpy(), v.dtype)).astype(jnp.float64)
                for k, v in found.items()
                if jnp.issubdtype(v.dtype, jnp.floating)
            ]
            return sum(parts[1:], parts[0]) if parts else jnp.zeros(()), found

        return jax.value_and_grad(scalar, has_aux=True)(moved) if moved else (scalar({}), {})

    with jax.numpy_dtype_promotion("strict"), jax.numpy_rank_promotion("raise"):
        moved, rest = {k: arrays[k] for k in moving}, {k: v for k, v in arrays.items() if k not in moving}
        # Compile time is what these tests consist of.
        fast = jax.jit(run).lower(moved, rest).compile(compiler_options={"xla_backend_optimization_level": 0})
        (_, found), gradients = fast(moved, rest)
    for k, v in outputs.items():
        assert str(found[k].dtype) == str(v.dtype).removeprefix("torch."), (k, found[k].dtype, v.dtype)
        close(found[k], v, tolerance, f"output {k}")
    for k, g in zip(moving, wanted, strict=True):
        close(gradients[k], torch.zeros_like(leaves[k]) if g is None else g, tolerance, f"gradient of {k}")
    return Compared(list(found.values()), gradients)


def close(got: Any, expected: torch.Tensor, tolerance: float, what: str) -> None:
    a, b = np.asarray(got, np.float64), expected.detach().double().numpy()
    assert a.shape == b.shape, (what, a.shape, b.shape)
    finite = np.isfinite(b)
    assert np.array_equal(np.isnan(a), np.isnan(b)), (what, a, b)
    infinite = np.isinf(b)
    assert np.array_equal(a[infinite], b[infinite]), (what, a, b)
    size = max(1.0, float(np.abs(b[finite]).max(initial=0.0)))
    error = float(np.abs(a[finite] - b[finite]).max(initial=0.0)) / size
    assert error <= tolerance, (what, error, a, b)
