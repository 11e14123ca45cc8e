"""Pooling layers."""

from __future__ import annotations

import itertools
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from ._promotion import canonical
from ._registry import Lowering, table

TABLE, _lowers = table()


def _spread(value: Any, n: int, default: tuple[int, ...] = ()) -> tuple[int, ...]:
    listed = tuple(value) if isinstance(value, (tuple, list)) else (value,)
    if not listed:
        return default
    return listed if len(listed) == n else listed * n


def _output_size(size: int, kernel: int, stride: int, padding: int, dilation: int, ceil: bool) -> int:
    """Number of windows; with ``ceil`` a window may hang over, but must start inside the input or the left padding."""
    span = size + 2 * padding - dilation * (kernel - 1) - 1
    count = (math.ceil(span / stride) if ceil else span // stride) + 1
    if ceil and (count - 1) * stride >= size + padding:
        count -= 1
    return count


def _pads(
    shape: tuple[int, ...],
    kernel: tuple[int, ...],
    stride: tuple[int, ...],
    padding: tuple[int, ...],
    dilation: tuple[int, ...],
    ceil: bool,
) -> tuple[list[tuple[int, int]], list[int]]:
    pads, counts = [], []
    for size, k, s, p, d in zip(shape, kernel, stride, padding, dilation, strict=True):
        count = _output_size(size, k, s, p, d, ceil)
        pads.append((p, max((count - 1) * s + d * (k - 1) + 1 - size - p, 0)))
        counts.append(count)
    return pads, counts


def _max_pool(n: int) -> Lowering:
    def lowering(
        x: Array, kernel: Any, stride: Any = (), padding: Any = 0, dilation: Any = 1, ceil_mode: bool = False
    ) -> tuple[Array, Array]:
        kernel = _spread(kernel, n)
        stride, padding, dilation = _spread(stride, n, kernel), _spread(padding, n), _spread(dilation, n)
        shape = x.shape[x.ndim - n :]
        pads, counts = _pads(shape, kernel, stride, padding, dilation, ceil_mode)
        lead = [(0, 0)] * (x.ndim - n)
        lowest = jnp.asarray(-jnp.inf, x.dtype)
        padded = jnp.pad(x, lead + pads, constant_values=lowest)
        where = jnp.pad(jnp.reshape(jnp.arange(math.prod(shape)), shape), pads)
        windows, places = [], []
        for offset in itertools.product(*[range(k) for k in kernel]):
            cut = tuple(
                slice(o * d, o * d + (c - 1) * s + 1, s)
                for o, d, c, s in zip(offset, dilation, counts, stride, strict=True)
            )
            windows.append(padded[(Ellipsis, *cut)])
            places.append(where[cut])
        stacked = jnp.stack(windows)
        choice = jnp.argmax(stacked, 0)[None]
        value = jnp.take_along_axis(stacked, choice, 0)[0]
        index = jnp.take_along_axis(jnp.broadcast_to(_lift(jnp.stack(places), stacked.ndim), stacked.shape), choice, 0)[
            0
        ]
        return value, index

    return lowering


def _lift(places: Array, ndim: int) -> Array:
    return jnp.reshape(places, places.shape[:1] + (1,) * (ndim - places.ndim) + places.shape[1:])


def _avg_pool(n: int) -> Lowering:
    def lowering(
        x: Array,
        kernel: Any,
        stride: Any = (),
        padding: Any = 0,
        ceil_mode: bool = False,
        count_include_pad: bool = True,
        divisor_override: int | None = None,
    ) -> Array:
        kernel = _spread(kernel, n)
        stride, padding = _spread(stride, n, kernel), _spread(padding, n)
        shape = x.shape[x.ndim - n :]
        pads, counts = _pads(shape, kernel, stride, padding, (1,) * n, ceil_mode)
        lead = (1,) * (x.ndim - n)
        total = jax.lax.reduce_window(
            x, np.zeros((), x.dtype), jax.lax.add, lead + kernel, lead + stride, [(0, 0)] * len(lead) + pads
        )
        if divisor_override is not None:
            return total / jnp.asarray(divisor_override, x.dtype)
        area = np.ones(())
        for size, k, s, p, c in zip(shape, kernel, stride, padding, counts, strict=True):
            start = np.arange(c) * s - p
            end = np.minimum(start + k, size + p)
            length = end - start if count_include_pad else np.minimum(end, size) - np.maximum(start, 0)
            area = area[..., None] * length
        return total / jnp.reshape(jnp.asarray(area, x.dtype), lead + tuple(counts))

    return lowering


for _n in (1, 2, 3):
    TABLE[f"aten.max_pool{_n}d_with_indices"] = _max_pool(_n)
    TABLE[f"aten.avg_pool{_n}d"] = _avg_pool(_n)


@_lowers("aten._adaptive_avg_pool2d", "aten._adaptive_avg_pool3d", "aten.adaptive_avg_pool1d")
def _adaptive_avg_pool(x: Array, size: Any) -> Array:
    listed = _spread(size, 1) if not isinstance(size, (tuple, list)) else tuple(size)
    for i, out in enumerate(reversed(listed)):
        axis = x.ndim - 1 - i
        length = x.shape[axis]
        weights = np.zeros((length, out))
        for j in range(out):
            low, high = (j * length) // out, -((-(j + 1) * length) // out)
            weights[low:high, j] = 1.0 / (high - low)
        moved = jnp.matmul(
            jnp.moveaxis(x, axis, -1), jnp.asarray(weights, x.dtype), precision=jax.lax.Precision.HIGHEST
        )
        x = jnp.moveaxis(moved, -1, axis)
    return x


@_lowers("aten.adaptive_max_pool2d", "aten.adaptive_max_pool3d")
def _adaptive_max_pool(x: Array, size: tuple[int, ...]) -> tuple[Array, Array]:
    n = len(size)
    shape = x.shape[x.ndim - n :]
    where = jnp.reshape(jnp.arange(math.prod(shape), dtype=canonical("int64")), shape)
    values, places = [], []
    for cell in itertools.product(*[range(s) for s in size]):
        cut = tuple(
            slice((j * length) // out, -((-(j + 1) * length) // out))
            for j, length, out in zip(cell, shape, size, strict=True)
        )
        window = jnp.reshape(x[(Ellipsis, *cut)], x.shape[: x.ndim - n] + (-1,))
        choice = jnp.argmax(window, -1)
        values.append(jnp.take_along_axis(window, choice[..., None], -1)[..., 0])
        places.append(jnp.reshape(where[cut], -1)[choice])
    lead = x.shape[: x.ndim - n]
    return jnp.reshape(jnp.stack(values, -1), lead + tuple(size)), jnp.reshape(
        jnp.stack(places, -1), lead + tuple(size)
    )
