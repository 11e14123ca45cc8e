"""Views, joins and other rearrangements. Torch's views are values here: nothing is ever written in place."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from ._promotion import canonical, cast
from ._registry import table

TABLE, _lowers = table()


@_lowers("aten.view.default", "aten.reshape", "aten._unsafe_view", "aten._reshape_alias", "aten.view_copy")
def _view(x: Array, shape: tuple[int, ...], *_: Any) -> Array:
    return jnp.reshape(x, shape)


@_lowers("aten.view.dtype")
def _view_dtype(x: Array, dtype: str) -> Array:
    return jax.lax.bitcast_convert_type(x, canonical(dtype))


@_lowers("aten.expand", "aten.expand_copy")
def _expand(x: Array, shape: tuple[int, ...], *, implicit: bool = False) -> Array:
    lead = len(shape) - x.ndim
    full = tuple(x.shape[i - lead] if s == -1 else s for i, s in enumerate(shape))
    return jnp.broadcast_to(x, full)


@_lowers("aten.permute", "aten.permute_copy")
def _permute(x: Array, dims: tuple[int, ...]) -> Array:
    return jnp.transpose(x, tuple(d % x.ndim for d in dims)) if x.ndim else x


@_lowers("aten.transpose.int", "aten.transpose_copy")
def _transpose(x: Array, a: int, b: int) -> Array:
    return jnp.swapaxes(x, a, b) if x.ndim else x


@_lowers("aten.t", "aten.t_copy")
def _t(x: Array) -> Array:
    return jnp.swapaxes(x, 0, 1) if x.ndim == 2 else x


for _name in ("numpy_T", "mT", "adjoint"):
    TABLE[f"aten.{_name}"] = lambda x: jnp.swapaxes(x, -1, -2)


@_lowers("aten.squeeze.default", "aten.squeeze_copy")
def _squeeze(x: Array) -> Array:
    return jnp.reshape(x, tuple(s for s in x.shape if s != 1))


@_lowers("aten.squeeze.dim", "aten.squeeze.dims")
def _squeeze_dims(x: Array, dims: Any) -> Array:
    listed = {d % max(x.ndim, 1) for d in (dims if isinstance(dims, tuple) else (dims,))}
    return jnp.reshape(x, tuple(s for i, s in enumerate(x.shape) if i not in listed or s != 1))


@_lowers("aten.unsqueeze", "aten.unsqueeze_copy")
def _unsqueeze(x: Array, dim: int) -> Array:
    return jnp.expand_dims(x, dim if dim >= 0 else dim + x.ndim + 1)


@_lowers("aten.select.int", "aten.select_copy")
def _select(x: Array, dim: int, index: int) -> Array:
    return jax.lax.index_in_dim(x, index, dim % x.ndim, keepdims=False)


def _bounds(size: int, start: int | None, end: int | None, step: int) -> tuple[int, int, int]:
    return slice(start, end, step).indices(size)


@_lowers("aten.slice.Tensor", "aten.slice_copy")
def _slice(x: Array, dim: int = 0, start: int | None = None, end: int | None = None, step: int = 1) -> Array:
    axis = dim % x.ndim
    low, high, stride = _bounds(x.shape[axis], start, end, step)
    return jax.lax.slice_in_dim(x, low, max(low, high), stride, axis)


def _write(x: Array, src: Array, index: tuple[Any, ...]) -> Array:
    return x.at[index].set(jnp.broadcast_to(cast(src, x.dtype), x[index].shape))


@_lowers("aten.slice_scatter")
def _slice_scatter(
    x: Array, src: Array, dim: int = 0, start: int | None = None, end: int | None = None, step: int = 1
) -> Array:
    axis = dim % x.ndim
    return _write(x, src, (slice(None),) * axis + (slice(*_bounds(x.shape[axis], start, end, step)),))


@_lowers("aten.select_scatter")
def _select_scatter(x: Array, src: Array, dim: int, index: int) -> Array:
    return _write(x, src, (slice(None),) * (dim % x.ndim) + (index,))


def _diagonal_index(
    shape: tuple[int, ...], offset: int, a: int, b: int
) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    rows, columns = shape[a], shape[b]
    length = max(min(rows, columns - offset) if offset >= 0 else min(rows + offset, columns), 0)
    steps = np.arange(length)
    return steps + max(-offset, 0), steps + max(offset, 0)


@_lowers("aten.diagonal", "aten.diagonal_copy")
def _diagonal(x: Array, offset: int = 0, dim1: int = 0, dim2: int = 1) -> Array:
    return jnp.diagonal(x, offset, dim1, dim2)


@_lowers("aten.diagonal_scatter")
def _diagonal_scatter(x: Array, src: Array, offset: int = 0, dim1: int = 0, dim2: int = 1) -> Array:
    a, b = dim1 % x.ndim, dim2 % x.ndim
    i, j = _diagonal_index(x.shape, offset, a, b)
    moved = jnp.moveaxis(x, (a, b), (-2, -1)).at[..., i, j].set(cast(src, x.dtype))
    return jnp.moveaxis(moved, (-2, -1), (a, b))


@_lowers("aten.diag_embed")
def _diag_embed(x: Array, offset: int = 0, dim1: int = -2, dim2: int = -1) -> Array:
    size = x.shape[-1] + abs(offset)
    steps = np.arange(x.shape[-1])
    full = jnp.zeros(x.shape[:-1] + (size, size), x.dtype)
    full = full.at[..., steps + max(-offset, 0), steps + max(offset, 0)].set(x)
    return jnp.moveaxis(full, (-2, -1), (dim1 % full.ndim, dim2 % full.ndim))


@_lowers("aten.diag")
def _diag(x: Array, offset: int = 0) -> Array:
    return _diag_embed(x, offset) if x.ndim == 1 else jnp.diagonal(x, offset)


@_lowers("aten.tril")
def _tril(x: Array, diagonal: int = 0) -> Array:
    return jnp.tril(x, diagonal)


@_lowers("aten.triu")
def _triu(x: Array, diagonal: int = 0) -> Array:
    return jnp.triu(x, diagonal)


@_lowers("aten.cat", "aten.concat")
def _cat(parts: tuple[Array, ...], dim: int = 0) -> Array:
    # A 1-d tensor of length zero is dropped, a leftover of torch's early days that models rely on.
    kept = [p for p in parts if p.shape != (0,)] or list(parts[:1])
    dtype = kept[0].dtype
    for p in parts:
        dtype = jnp.promote_types(dtype, p.dtype)
    return jnp.concatenate([cast(p, dtype) for p in kept], dim)


@_lowers("aten.stack")
def _stack(parts: tuple[Array, ...], dim: int = 0) -> Array:
    dtype = parts[0].dtype
    for p in parts:
        dtype = jnp.promote_types(dtype, p.dtype)
    return jnp.stack([cast(p, dtype) for p in parts], dim)


@_lowers("aten.split.Tensor", "aten.split_copy.Tensor", "aten.unsafe_split.Tensor")
def _split(x: Array, size: int, dim: int = 0) -> tuple[Array, ...]:
    axis = dim % x.ndim
    length = x.shape[axis]
    return tuple(
        jax.lax.slice_in_dim(x, i, min(i + size, length), axis=axis) for i in range(0, max(length, 1), max(size, 1))
    )


@_lowers("aten.split_with_sizes", "aten.split_with_sizes_copy")
def _split_with_sizes(x: Array, sizes: tuple[int, ...], dim: int = 0) -> tuple[Array, ...]:
    axis, start, out = dim % x.ndim, 0, []
    for size in sizes:
        out.append(jax.lax.slice_in_dim(x, start, start + size, axis=axis))
        start += size
    return tuple(out)


@_lowers("aten.unbind", "aten.unbind_copy")
def _unbind(x: Array, dim: int = 0) -> tuple[Array, ...]:
    return tuple(jax.lax.index_in_dim(x, i, dim % x.ndim, keepdims=False) for i in range(x.shape[dim]))


@_lowers("aten.flip")
def _flip(x: Array, dims: tuple[int, ...]) -> Array:
    return jnp.flip(x, dims)


@_lowers("aten.roll")
def _roll(x: Array, shifts: tuple[int, ...], dims: tuple[int, ...] = ()) -> Array:
    return jnp.roll(x, shifts, dims) if dims else jnp.reshape(jnp.roll(jnp.reshape(x, -1), shifts[0]), x.shape)


@_lowers("aten.rot90")
def _rot90(x: Array, k: int = 1, dims: tuple[int, int] = (0, 1)) -> Array:
    return jnp.rot90(x, k, dims)


@_lowers("aten.repeat")
def _repeat(x: Array, repeats: tuple[int, ...]) -> Array:
    return jnp.tile(jnp.reshape(x, (1,) * (len(repeats) - x.ndim) + x.shape), repeats)


@_lowers("aten.repeat_interleave.self_int")
def _repeat_interleave(x: Array, repeats: int, dim: int | None = None, *, output_size: int | None = None) -> Array:
    return jnp.repeat(jnp.reshape(x, -1) if dim is None else x, repeats, 0 if dim is None else dim)


@_lowers("aten.unfold")
def _unfold(x: Array, dim: int, size: int, step: int) -> Array:
    axis = dim % x.ndim
    starts = np.arange(0, x.shape[axis] - size + 1, step)
    windows = jnp.take(x, jnp.asarray(starts[:, None] + np.arange(size)[None, :]), axis=axis)
    return jnp.moveaxis(windows, axis + 1, -1)


@_lowers("aten.as_strided")
def _as_strided(x: Array, size: tuple[int, ...], stride: tuple[int, ...], offset: int | None = None) -> Array:
    index = np.full((1,) * len(size), offset or 0)
    for axis, (n, s) in enumerate(zip(size, stride, strict=True)):
        index = index + np.arange(n).reshape((n,) + (1,) * (len(size) - axis - 1)) * s
    return jnp.reshape(x, -1)[jnp.asarray(index.reshape(size))]


@_lowers("aten.constant_pad_nd")
def _constant_pad(x: Array, pad: tuple[int, ...], value: Any = 0) -> Array:
    widths = [(0, 0, 0)] * x.ndim
    for i in range(len(pad) // 2):
        widths[x.ndim - 1 - i] = (pad[2 * i], pad[2 * i + 1], 0)
    return jax.lax.pad(x, jnp.asarray(value, x.dtype), widths)


def _pad_with(mode: str) -> Any:
    def lowering(x: Array, pad: tuple[int, ...]) -> Array:
        widths = [(0, 0)] * x.ndim
        for i in range(len(pad) // 2):
            widths[x.ndim - 1 - i] = (pad[2 * i], pad[2 * i + 1])
        return jnp.pad(x, widths, mode=mode)

    return lowering


for _n in (1, 2, 3):
    TABLE[f"aten.reflection_pad{_n}d"] = _pad_with("reflect")
    TABLE[f"aten.replication_pad{_n}d"] = _pad_with("edge")


@_lowers("aten.pixel_shuffle")
def _pixel_shuffle(x: Array, factor: int) -> Array:
    *lead, c, h, w = x.shape
    y = jnp.reshape(x, (*lead, c // factor**2, factor, factor, h, w))
    y = jnp.moveaxis(y, (-4, -3, -2, -1), (-3, -1, -4, -2))
    return jnp.reshape(y, (*lead, c // factor**2, h * factor, w * factor))


@_lowers("aten.pixel_unshuffle")
def _pixel_unshuffle(x: Array, factor: int) -> Array:
    *lead, c, h, w = x.shape
    y = jnp.reshape(x, (*lead, c, h // factor, factor, w // factor, factor))
    y = jnp.moveaxis(y, (-3, -1), (-4, -3))
    return jnp.reshape(y, (*lead, c * factor**2, h // factor, w // factor))


@_lowers("aten.channel_shuffle", "aten.native_channel_shuffle")
def _channel_shuffle(x: Array, groups: int) -> Array:
    n, c, *rest = x.shape
    return jnp.reshape(jnp.swapaxes(jnp.reshape(x, (n, groups, c // groups, *rest)), 1, 2), x.shape)


@_lowers("aten.view_as_real")
def _view_as_real(x: Array) -> Array:
    return jnp.stack([jnp.real(x), jnp.imag(x)], -1)


@_lowers("aten.view_as_complex")
def _view_as_complex(x: Array) -> Array:
    return jax.lax.complex(x[..., 0], x[..., 1])


for _name in (
    "clone",
    "alias",
    "contiguous",
    "lift_fresh_copy",
    "lift_fresh",
    "lift",
    "view_as",
    "resolve_conj",
    "resolve_neg",
):
    TABLE[f"aten.{_name}"] = lambda x, *_, **__: x


@_lowers("aten.detach")
def _detach(x: Array) -> Array:
    return jax.lax.stop_gradient(x)


@_lowers("_operator.getitem")
def _getitem(parts: tuple[Any, ...], index: int) -> Any:
    return parts[index]


@_lowers("aten.copy")
def _copy(x: Array, src: Array, non_blocking: bool = False) -> Array:
    return jnp.broadcast_to(cast(src, x.dtype), x.shape)
