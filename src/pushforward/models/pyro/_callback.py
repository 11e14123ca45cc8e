"""The slow fallback: the density in torch, called from JAX at every evaluation."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array

from ._host import Host


class CallbackRun:
    """Like `Execution`, with ``jax.pure_callback`` into torch and torch's own gradient.

    Reverse mode only: second derivatives and forward mode are not available. Under ``vmap`` torch is called once per
    element.

    Args:
        host: model and arguments.
        minibatch: whether the subsampled plates get indices.
        inputs: values by input name; more can be given with `give`.
    """

    def __init__(self, host: Host, minibatch: bool, inputs: dict[str, Any]) -> None:
        from ._torch_side import TorchSide

        side = host.cached("torch_side", lambda: TorchSide(host))
        self._side: TorchSide = side
        self._minibatch = minibatch
        self._inputs = {k: jnp.asarray(v) for k, v in inputs.items()}
        self._numbers, self._shapes = side.outputs(minibatch)
        self._cache: dict[str, Any] = {}

    def names(self, prefix: str) -> list[str]:
        """Outputs under a prefix, in program order, without the prefix."""
        return [k[len(prefix) :] for k in [*self._shapes, *self._numbers] if k.startswith(prefix)]

    def give(self, name: str, value: Any) -> None:
        """Set an input."""
        self._inputs[name] = jnp.asarray(value)

    def output(self, name: str) -> Any:
        """Value of an output: an array, or a Python number where the program used one."""
        if name in self._numbers:
            return self._numbers[name]
        if name not in self._cache:
            # Bounds and scales are asked for while later latents are still unknown, so they are computed on their own.
            early = name.partition("/")[0] in ("support", "scale")
            wanted = (
                (name,) if early else tuple(k for k in self._shapes if k.partition("/")[0] not in ("support", "scale"))
            )
            self._cache.update(self._call(wanted))
        return self._cache[name]

    def _call(self, wanted: tuple[str, ...]) -> dict[str, Array]:
        side, minibatch = self._side, self._minibatch
        out_shapes = {k: self._shapes[k] for k in wanted}
        moving = {k: v for k, v in self._inputs.items() if k.partition("/")[0] in ("latent", "param")}
        fixed = {k: v for k, v in self._inputs.items() if k not in moving}

        def value(moving: dict[str, Any], fixed: dict[str, Any]) -> dict[str, Any]:
            return side.value({**moving, **fixed}, wanted, minibatch)

        def pullback(moving: dict[str, Any], fixed: dict[str, Any], cotangents: dict[str, Any]) -> dict[str, Any]:
            return side.pullback({**moving, **fixed}, cotangents, tuple(moving), minibatch)

        @jax.custom_vjp
        def density(moving: dict[str, Array], fixed: dict[str, Array]) -> dict[str, Array]:
            return jax.pure_callback(value, out_shapes, moving, fixed, vmap_method="sequential")

        def forward(moving: dict[str, Array], fixed: dict[str, Array]) -> tuple[dict[str, Array], Any]:
            return density(moving, fixed), (moving, fixed)

        def backward(saved: Any, cotangents: dict[str, Array]) -> tuple[dict[str, Array], None]:
            moving, fixed = saved
            shapes = {k: jax.ShapeDtypeStruct(v.shape, v.dtype) for k, v in moving.items()}
            # A float0 cotangent belongs to an integer output, which has no derivative.
            real = {k: c for k, c in cotangents.items() if c.dtype != jax.dtypes.float0}
            return jax.pure_callback(pullback, shapes, moving, fixed, real, vmap_method="sequential"), None

        density.defvjp(forward, backward)
        return density(moving, fixed)
