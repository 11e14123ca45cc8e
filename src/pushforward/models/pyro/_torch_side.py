"""Torch half of the callback backend. Imports torch and pyro: load only from inside a function."""

from __future__ import annotations

import threading
import warnings
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
import torch

from ._compile import compile_model
from ._host import Host
from ._simulate import as_torch


class TorchSide:
    """A density that is run in torch, with values and gradients as NumPy arrays."""

    def __init__(self, host: Host) -> None:
        model, args, kwargs, data = host.content
        compiled = compile_model(model, args, kwargs, as_torch(data), latent=host.latent, callback=True)
        self.density = compiled.density
        self.indices = compiled.indices
        self.lifted = set(compiled.lifted)
        # Torch's and Pyro's handler stacks are global.
        self._lock = threading.Lock()
        self._outputs: dict[bool, tuple[dict[str, Any], dict[str, Any]]] = {}

    def outputs(self, minibatch: bool) -> tuple[dict[str, Any], dict[str, Any]]:
        """Outputs that are Python numbers, and shapes of those that are arrays."""
        if minibatch not in self._outputs:
            found = self._run(self._example(minibatch))
            numbers = {k: v for k, v in found.items() if not isinstance(v, torch.Tensor)}
            arrays = {
                k: jax.ShapeDtypeStruct(tuple(v.shape), jax.dtypes.canonicalize_dtype(v.detach().numpy().dtype))
                for k, v in found.items()
                if isinstance(v, torch.Tensor)
            }
            self._outputs[minibatch] = numbers, arrays
        return self._outputs[minibatch]

    def _example(self, minibatch: bool) -> dict[str, torch.Tensor]:
        return self.density.inputs(0, lift=self.lifted, indices=self.indices if minibatch else None)

    def _run(self, inputs: Mapping[str, torch.Tensor]) -> dict[str, Any]:
        with self._lock, warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return self.density(inputs)

    def _inputs(self, given: Mapping[str, Any], minibatch: bool) -> dict[str, torch.Tensor]:
        # Inputs that are not known yet (later latents, asked for an earlier bound) take example values.
        inputs = self._example(minibatch)
        for key, value in given.items():
            if key in inputs:
                inputs[key] = torch.from_numpy(np.array(value)).to(inputs[key].dtype)
        return inputs

    def value(
        self, given: Mapping[str, Any], wanted: tuple[str, ...], minibatch: bool
    ) -> dict[str, np.ndarray[Any, Any]]:
        """Chosen outputs."""
        with torch.no_grad(), _held(self.density, given) as kept:
            found = self._run(self._inputs(kept, minibatch))
        shapes = self.outputs(minibatch)[1]
        return {k: found[k].detach().numpy().astype(shapes[k].dtype) for k in wanted}

    def pullback(
        self, given: Mapping[str, Any], cotangents: Mapping[str, Any], moving: tuple[str, ...], minibatch: bool
    ) -> dict[str, np.ndarray[Any, Any]]:
        """Product of the cotangents with the derivative of the outputs."""
        with torch.enable_grad(), _held(self.density, given) as kept:
            inputs = self._inputs(kept, minibatch)
            leaves = {
                k: (v if isinstance(v, torch.nn.Parameter) else v.detach().requires_grad_(True)) if k in moving else v
                for k, v in inputs.items()
            }
            found = self._run(leaves)
            outputs = [
                (found[k], torch.from_numpy(np.array(c)).to(found[k].dtype))
                for k, c in cotangents.items()
                if found[k].requires_grad
            ]
            gradients: tuple[Any, ...] = (None,) * len(moving)
            if outputs:
                gradients = torch.autograd.grad(
                    [o for o, _ in outputs], [leaves[k] for k in moving], [c for _, c in outputs], allow_unused=True
                )
        return {
            k: np.zeros(np.shape(given[k]), np.asarray(given[k]).dtype)
            if g is None
            else g.detach().numpy().astype(np.asarray(given[k]).dtype)
            for k, g in zip(moving, gradients, strict=True)
        }


class _held:  # noqa: N801  (used like a function)
    """Put values of raw module parameters into the modules; what is left are inputs to pass."""

    def __init__(self, density: Any, given: Mapping[str, Any]) -> None:
        raws = {f"param/{k}": p.raw for k, p in density.structure.params.items() if p.raw is not None}
        self.writes = [(raws[k], raws[k].data, given[k]) for k in given if k in raws]
        self.rest = {k: v for k, v in given.items() if k not in raws}

    def __enter__(self) -> dict[str, Any]:
        for raw, _, value in self.writes:
            raw.data = torch.from_numpy(np.array(value)).to(raw.dtype)
        return self.rest

    def __exit__(self, *_: object) -> None:
        for raw, before, _ in self.writes:
            raw.data = before
