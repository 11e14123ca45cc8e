"""Tensors made from shapes and numbers."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
from jaxtyping import Array

from ._promotion import canonical, cast, default_float
from ._registry import table

TABLE, _lowers = table()


def _dtype(dtype: str | None, like: Array | None = None) -> Any:
    if dtype is not None:
        return canonical(dtype)
    return default_float() if like is None else like.dtype


@_lowers("aten.full.default")
def _full(shape: tuple[int, ...], value: Any, *, dtype: str | None = None, **_: Any) -> Array:
    return jnp.broadcast_to(cast(value, canonical(dtype)) if dtype else jnp.asarray(value), shape)


@_lowers("aten.zeros.default", "aten.empty.memory_format")
def _zeros(shape: tuple[int, ...], *, dtype: str | None = None, **_: Any) -> Array:
    return jnp.zeros(shape, _dtype(dtype))


@_lowers("aten.ones.default")
def _ones(shape: tuple[int, ...], *, dtype: str | None = None, **_: Any) -> Array:
    return jnp.ones(shape, _dtype(dtype))


@_lowers("aten.zeros_like", "aten.empty_like")
def _zeros_like(x: Array, *, dtype: str | None = None, **_: Any) -> Array:
    return jnp.zeros(x.shape, _dtype(dtype, x))


@_lowers("aten.ones_like")
def _ones_like(x: Array, *, dtype: str | None = None, **_: Any) -> Array:
    return jnp.ones(x.shape, _dtype(dtype, x))


@_lowers("aten.full_like")
def _full_like(x: Array, value: Any, *, dtype: str | None = None, **_: Any) -> Array:
    return jnp.broadcast_to(cast(value, _dtype(dtype, x)), x.shape)


@_lowers("aten.new_zeros", "aten.new_empty")
def _new_zeros(x: Array, shape: tuple[int, ...], *, dtype: str | None = None, **_: Any) -> Array:
    return jnp.zeros(shape, _dtype(dtype, x))


@_lowers("aten.new_empty_strided", "aten.empty_strided")
def _new_empty_strided(*args: Any, dtype: str | None = None, **_: Any) -> Array:
    like = args[0] if hasattr(args[0], "dtype") else None
    return jnp.zeros(args[1] if like is not None else args[0], _dtype(dtype, like))


@_lowers("aten.new_ones")
def _new_ones(x: Array, shape: tuple[int, ...], *, dtype: str | None = None, **_: Any) -> Array:
    return jnp.ones(shape, _dtype(dtype, x))


@_lowers("aten.new_full")
def _new_full(x: Array, shape: tuple[int, ...], value: Any, *, dtype: str | None = None, **_: Any) -> Array:
    return jnp.broadcast_to(cast(value, _dtype(dtype, x)), shape)


@_lowers("aten.fill")
def _fill(x: Array, value: Any) -> Array:
    return jnp.broadcast_to(cast(value, x.dtype), x.shape)


@_lowers("aten.zero")
def _zero(x: Array) -> Array:
    return jnp.zeros_like(x)


@_lowers("aten.scalar_tensor")
def _scalar_tensor(value: Any, *, dtype: str | None = None, **_: Any) -> Array:
    return cast(value, _dtype(dtype))


@_lowers("aten.arange")
def _arange(*args: Any, dtype: str | None = None, **_: Any) -> Array:
    return jnp.arange(*args, dtype=canonical(dtype) if dtype else None)  # type: ignore[misc]  # at most three arguments


@_lowers("aten.linspace.default")
def _linspace(start: Any, end: Any, steps: int, *, dtype: str | None = None, **_: Any) -> Array:
    return jnp.linspace(start, end, steps, dtype=_dtype(dtype))


@_lowers("aten.eye")
def _eye(n: int, m: int | None = None, *, dtype: str | None = None, **_: Any) -> Array:
    return jnp.eye(n, m, dtype=_dtype(dtype))


@_lowers("aten.tril_indices")
def _tril_indices(rows: int, columns: int, offset: int = 0, *, dtype: str | None = None, **_: Any) -> Array:
    return cast(jnp.stack(jnp.tril_indices(rows, offset, columns)), canonical(dtype or "int64"))


@_lowers("aten.triu_indices")
def _triu_indices(rows: int, columns: int, offset: int = 0, *, dtype: str | None = None, **_: Any) -> Array:
    return cast(jnp.stack(jnp.triu_indices(rows, offset, columns)), canonical(dtype or "int64"))
