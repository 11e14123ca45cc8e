"""The flat view of a position: every Gaussian family and every kernel works on one vector."""

from __future__ import annotations

import math
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from ._types import Position


class Layout(eqx.Module):
    """Structure, shapes and dtypes of a position. Hashable by value, so that it can be static."""

    treedef: Any = eqx.field(static=True)
    shapes: tuple[tuple[int, ...], ...] = eqx.field(static=True)
    dtypes: tuple[str, ...] = eqx.field(static=True)
    names: tuple[str, ...] = eqx.field(static=True)

    @classmethod
    def of(cls, example: Position) -> Layout:
        """The layout of positions shaped like ``example``."""
        with_path, treedef = jax.tree_util.tree_flatten_with_path(example)
        leaves = [jnp.asarray(leaf) for _, leaf in with_path]
        names = tuple(
            ".".join(str(getattr(k, "key", getattr(k, "idx", k))) for k in path) or "x" for path, _ in with_path
        )
        return cls(treedef, tuple(x.shape for x in leaves), tuple(str(x.dtype) for x in leaves), names)

    @property
    def dim(self) -> int:
        """Number of coordinates."""
        return sum(math.prod(s) for s in self.shapes)

    @property
    def dtype(self) -> Any:
        """Dtype of the flat vector."""
        return jnp.result_type(*self.dtypes) if self.dtypes else jnp.result_type(float)

    def ravel(self, position: Position) -> Float[Array, " dim"]:
        """Flatten a position."""
        leaves = self.treedef.flatten_up_to(position)
        return (
            jnp.concatenate([jnp.ravel(x).astype(self.dtype) for x in leaves])
            if leaves
            else jnp.zeros((0,), self.dtype)
        )

    def unravel(self, vector: Float[Array, " dim"]) -> Position:
        """Inverse of `ravel`."""
        leaves, start = [], 0
        for shape, dtype in zip(self.shapes, self.dtypes, strict=True):
            size = math.prod(shape)
            leaves.append(jnp.reshape(vector[start : start + size], shape).astype(dtype))
            start += size
        return jax.tree.unflatten(self.treedef, leaves)

    def coordinate_names(self) -> list[str]:
        """One name per coordinate: ``site`` or ``site[i,j]``."""
        out: list[str] = []
        for name, shape in zip(self.names, self.shapes, strict=True):
            for flat in range(math.prod(shape)):
                index: list[int] = []
                for size in reversed(shape):
                    index.insert(0, flat % size)
                    flat //= size
                out.append(f"{name}[{','.join(map(str, index))}]" if shape else name)
        return out
