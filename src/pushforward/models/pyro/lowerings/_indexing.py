"""Gathering and scattering with index arrays."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from ._promotion import canonical, cast
from ._registry import table

TABLE, _lowers = table()


def _key(indices: tuple[Any, ...]) -> tuple[Any, ...]:
    return tuple(slice(None) if i is None else i for i in indices)


@_lowers("aten.index.Tensor", "aten._unsafe_index.Tensor")
def _index(x: Array, indices: tuple[Any, ...]) -> Array:
    return x[_key(indices)]


@_lowers("aten.index_put", "aten._unsafe_index_put", "aten._index_put_impl")
def _index_put(x: Array, indices: tuple[Any, ...], values: Array, accumulate: bool = False, *_: Any) -> Array:
    first = indices[0]
    if len(indices) == 1 and first.dtype == bool:
        # A mask computed from the latents: only a value that is the same for every entry has a fixed shape.
        mask = jnp.reshape(first, first.shape + (1,) * (x.ndim - first.ndim))
        value = jnp.broadcast_to(cast(values, x.dtype), x.shape)
        return jnp.where(mask, x + value if accumulate else value, x)
    target = x.at[_key(indices)]
    value = cast(values, x.dtype)
    value = jnp.broadcast_to(value, jax.eval_shape(lambda a: a[_key(indices)], x).shape)
    return target.add(value) if accumulate else target.set(value)


@_lowers("aten.index_select")
def _index_select(x: Array, dim: int, index: Array) -> Array:
    return jnp.take(x, index, axis=dim) if x.ndim else x


@_lowers("aten.gather")
def _gather(x: Array, dim: int, index: Array, *, sparse_grad: bool = False) -> Array:
    if x.ndim == 0:
        return jnp.broadcast_to(x, index.shape)
    return x[_along(index, dim % x.ndim)]


@_lowers("aten.take")
def _take(x: Array, index: Array) -> Array:
    return jnp.reshape(x, -1)[index]


def _along(index: Array, axis: int) -> tuple[Array, ...]:
    """Full index of torch's gather/scatter: ``index`` on one axis, its own position on the others."""
    return tuple(
        index if i == axis else jax.lax.broadcasted_iota(index.dtype, index.shape, i) for i in range(index.ndim)
    )


def _scattered(x: Array, dim: int, index: Array, src: Any) -> tuple[Any, Array]:
    if x.ndim == 0:
        return x[None].at[jnp.reshape(index, -1)], jnp.reshape(cast(src, x.dtype), -1)
    value = cast(src, x.dtype)
    if value.ndim:
        value = value[tuple(slice(0, n) for n in index.shape)]
    return x.at[_along(index, dim % x.ndim)], jnp.broadcast_to(value, index.shape)


@_lowers("aten.scatter.src", "aten.scatter.value")
def _scatter(x: Array, dim: int, index: Array, src: Any) -> Array:
    target, value = _scattered(x, dim, index, src)
    return jnp.reshape(target.set(value), x.shape)


@_lowers("aten.scatter_add")
def _scatter_add(x: Array, dim: int, index: Array, src: Array) -> Array:
    target, value = _scattered(x, dim, index, src)
    return jnp.reshape(target.add(value), x.shape)


@_lowers("aten.scatter.reduce", "aten.scatter.value_reduce")
def _scatter_reduced(x: Array, dim: int, index: Array, src: Any, *, reduce: str) -> Array:
    target, value = _scattered(x, dim, index, src)
    return jnp.reshape(target.add(value) if reduce == "add" else target.multiply(value), x.shape)


@_lowers("aten.scatter_reduce.two")
def _scatter_reduce(x: Array, dim: int, index: Array, src: Array, reduce: str, *, include_self: bool = True) -> Array:
    if not include_self:
        neutral = {"sum": 0, "mean": 0, "prod": 1, "amax": -np.inf, "amin": np.inf}[reduce]
        if jnp.issubdtype(x.dtype, jnp.integer) and not np.isfinite(neutral):
            neutral = jnp.iinfo(x.dtype).min if reduce == "amax" else jnp.iinfo(x.dtype).max
        x = _scatter(x, dim, index, neutral)
    target, value = _scattered(x, dim, index, src)
    if reduce == "mean":
        start = jnp.ones_like(x) if include_self else _scatter(jnp.ones_like(x), dim, index, 0)
        count, ones = _scattered(start, dim, index, jnp.ones_like(value))
        return jnp.reshape(target.add(value) / count.add(ones), x.shape)
    combined = {"sum": target.add, "prod": target.multiply, "amax": target.max, "amin": target.min}[reduce](value)
    return jnp.reshape(combined, x.shape)


def _first(x: Array, dim: int) -> Array:
    return jnp.moveaxis(x, dim, 0)


@_lowers("aten.index_add")
def _index_add(x: Array, dim: int, index: Array, src: Array, *, alpha: Any = 1) -> Array:
    value = _first(cast(src, x.dtype), dim) * jnp.asarray(alpha, x.dtype)
    return jnp.moveaxis(_first(x, dim).at[index].add(value), 0, dim)


@_lowers("aten.index_copy")
def _index_copy(x: Array, dim: int, index: Array, src: Array) -> Array:
    return jnp.moveaxis(_first(x, dim).at[index].set(_first(cast(src, x.dtype), dim)), 0, dim)


@_lowers("aten.index_fill")
def _index_fill(x: Array, dim: int, index: Array, value: Any) -> Array:
    moved = _first(x, dim)
    return jnp.moveaxis(
        moved.at[index].set(jnp.broadcast_to(cast(value, x.dtype), index.shape + moved.shape[1:])), 0, dim
    )


@_lowers("aten.embedding")
def _embedding(weight: Array, index: Array, padding_idx: int = -1, *_: Any, **__: Any) -> Array:
    if padding_idx >= 0:
        # The padding row is used but never learnt, as in torch.
        weight = weight.at[padding_idx].set(jax.lax.stop_gradient(weight[padding_idx]))
    return jnp.take(weight, index, axis=0)


@_lowers("aten.searchsorted.Tensor")
def _searchsorted(
    sequence: Array,
    values: Array,
    *,
    out_int32: bool = False,
    right: bool = False,
    side: str | None = None,
    sorter: Any = None,
) -> Array:
    if sorter is not None:
        sequence = jnp.take_along_axis(sequence, sorter, -1)
    where = "right" if right or side == "right" else "left"
    if sequence.ndim == 1:
        return jnp.searchsorted(sequence, values, side=where)
    rows = jnp.reshape(sequence, (-1, sequence.shape[-1]))
    wanted = jnp.reshape(values, (rows.shape[0], -1))
    found = jax.vmap(lambda s, v: jnp.searchsorted(s, v, side=where))(rows, wanted)
    return jnp.reshape(found, values.shape)


@_lowers("aten.bucketize.Tensor")
def _bucketize(values: Array, boundaries: Array, *, out_int32: bool = False, right: bool = False) -> Array:
    return jnp.searchsorted(boundaries, values, side="right" if right else "left")


@_lowers("aten.one_hot")
def _one_hot(index: Array, num_classes: int) -> Array:
    return cast(jax.nn.one_hot(index, num_classes), canonical("int64"))
