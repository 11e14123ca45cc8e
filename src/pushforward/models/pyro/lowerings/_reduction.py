"""Reductions, scans and sorting."""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array

from ._promotion import canonical, cast, inexact, same_rank, truth
from ._registry import table

TABLE, _lowers = table()


def axes_of(dim: Any, ndim: int) -> tuple[int, ...]:
    """Normalise torch's ``dim`` (None or empty: all axes)."""
    if dim is None or (isinstance(dim, tuple) and not dim):
        return tuple(range(ndim))
    listed = dim if isinstance(dim, tuple) else (dim,)
    return tuple(d % ndim for d in listed) if ndim else ()


def _summable(x: Array, dtype: str | None) -> Array:
    if dtype is not None:
        return cast(x, canonical(dtype))
    return x if jnp.issubdtype(x.dtype, jnp.inexact) else cast(x, canonical("int64"))


@_lowers("aten.sum")
def _sum(x: Array, dim: Any = None, keepdim: bool = False, *, dtype: str | None = None) -> Array:
    return jnp.sum(_summable(x, dtype), axes_of(dim, x.ndim), keepdims=keepdim)


@_lowers("aten.nansum")
def _nansum(x: Array, dim: Any = None, keepdim: bool = False, *, dtype: str | None = None) -> Array:
    return _sum(jnp.where(jnp.isnan(x), jnp.zeros_like(x), x), dim, keepdim, dtype=dtype)


@_lowers("aten.mean")
def _mean(x: Array, dim: Any = None, keepdim: bool = False, *, dtype: str | None = None) -> Array:
    return jnp.mean(_summable(x, dtype), axes_of(dim, x.ndim), keepdims=keepdim)


@_lowers("aten.prod")
def _prod(x: Array, dim: Any = None, keepdim: bool = False, *, dtype: str | None = None) -> Array:
    return jnp.prod(_summable(x, dtype), axes_of(dim, x.ndim), keepdims=keepdim)


def _moments(x: Array, dim: Any, correction: Any, keepdim: bool) -> tuple[Array, Array]:
    axes = axes_of(dim, x.ndim)
    count = 1
    for a in axes:
        count *= x.shape[a]
    mean = jnp.mean(x, axes, keepdims=True)
    spread = jnp.sum(jnp.square(x - mean), axes, keepdims=keepdim)
    denominator = jnp.asarray(max(count - (1 if correction is None else correction), 0), x.dtype)
    return spread / denominator, mean if keepdim else jnp.squeeze(mean, axes)


@_lowers("aten.var.correction")
def _var(x: Array, dim: Any = None, *, correction: Any = None, keepdim: bool = False) -> Array:
    return _moments(x, dim, correction, keepdim)[0]


@_lowers("aten.std.correction")
def _std(x: Array, dim: Any = None, *, correction: Any = None, keepdim: bool = False) -> Array:
    return jnp.sqrt(_moments(x, dim, correction, keepdim)[0])


@_lowers("aten.var_mean.correction")
def _var_mean(x: Array, dim: Any = None, *, correction: Any = None, keepdim: bool = False) -> tuple[Array, Array]:
    return _moments(x, dim, correction, keepdim)


@_lowers("aten.std_mean.correction")
def _std_mean(x: Array, dim: Any = None, *, correction: Any = None, keepdim: bool = False) -> tuple[Array, Array]:
    var, mean = _moments(x, dim, correction, keepdim)
    return jnp.sqrt(var), mean


def _pick(x: Array, index: Array, dim: int, keepdim: bool) -> tuple[Array, Array]:
    """Value at an index along ``dim``: the derivative goes to that one entry, as in torch."""
    kept = jnp.expand_dims(index, dim)
    value = jnp.take_along_axis(x, kept, dim)
    if keepdim:
        return value, kept
    return jnp.squeeze(value, dim), index


def _extreme(x: Array, dim: int, keepdim: bool, *, largest: bool) -> tuple[Array, Array]:
    if x.ndim == 0:
        return x, jnp.zeros((), canonical("int64"))
    index = (jnp.argmax if largest else jnp.argmin)(x, dim)
    value, position = _pick(x, index, dim % x.ndim, keepdim)
    return value, cast(position, canonical("int64"))


@_lowers("aten.max.dim")
def _max_dim(x: Array, dim: int, keepdim: bool = False) -> tuple[Array, Array]:
    return _extreme(x, dim, keepdim, largest=True)


@_lowers("aten.min.dim")
def _min_dim(x: Array, dim: int, keepdim: bool = False) -> tuple[Array, Array]:
    return _extreme(x, dim, keepdim, largest=False)


@_lowers("aten.max.other")
def _max_other(x: Array, y: Array) -> Array:
    return jnp.maximum(*_together(x, y))


@_lowers("aten.min.other")
def _min_other(x: Array, y: Array) -> Array:
    return jnp.minimum(*_together(x, y))


def _together(x: Array, y: Array) -> list[Array]:
    dtype = jnp.promote_types(x.dtype, y.dtype)
    return same_rank(cast(x, dtype), cast(y, dtype))


@_lowers("aten.max.default", "aten.amax")
def _amax(x: Array, dim: Any = None, keepdim: bool = False) -> Array:
    return jnp.max(x, axes_of(dim, x.ndim), keepdims=keepdim)


@_lowers("aten.min.default", "aten.amin")
def _amin(x: Array, dim: Any = None, keepdim: bool = False) -> Array:
    return jnp.min(x, axes_of(dim, x.ndim), keepdims=keepdim)


@_lowers("aten.aminmax")
def _aminmax(x: Array, *, dim: Any = None, keepdim: bool = False) -> tuple[Array, Array]:
    return _amin(x, dim, keepdim), _amax(x, dim, keepdim)


@_lowers("aten.argmax")
def _argmax(x: Array, dim: int | None = None, keepdim: bool = False) -> Array:
    return jnp.argmax(x, dim, keepdims=keepdim)


@_lowers("aten.argmin")
def _argmin(x: Array, dim: int | None = None, keepdim: bool = False) -> Array:
    return jnp.argmin(x, dim, keepdims=keepdim)


@_lowers("aten.any")
def _any(x: Array, dim: Any = None, keepdim: bool = False) -> Array:
    return jnp.any(truth(x), axes_of(dim, x.ndim), keepdims=keepdim)


@_lowers("aten.all")
def _all(x: Array, dim: Any = None, keepdim: bool = False) -> Array:
    return jnp.all(truth(x), axes_of(dim, x.ndim), keepdims=keepdim)


@_lowers("aten._is_all_true")
def _is_all_true(x: Array) -> Array:
    return jnp.all(x)


@_lowers("aten._is_any_true")
def _is_any_true(x: Array) -> Array:
    return jnp.any(x)


@_lowers("aten.count_nonzero")
def _count_nonzero(x: Array, dim: Any = None) -> Array:
    return jnp.sum(cast(truth(x), canonical("int64")), axes_of(dim, x.ndim))


def logsumexp(x: Array, axes: tuple[int, ...], keepdims: bool) -> Array:
    """Log sum exp whose derivative is zero, not NaN, where every entry is -inf."""
    if len(axes) == 1 and 1 < x.shape[axes[0]] <= _FEW:
        return _logsumexp_of_few(x, axes[0], keepdims)
    top = jax.lax.stop_gradient(jnp.max(x, axes, keepdims=True))
    top = jnp.where(jnp.isfinite(top), top, jnp.zeros_like(top))
    total = jnp.sum(jnp.exp(x - top), axes, keepdims=True)
    empty = total == 0
    value = jnp.where(
        empty, jnp.full_like(total, -jnp.inf), jnp.log(jnp.where(empty, jnp.ones_like(total), total)) + top
    )
    return value if keepdims else jnp.squeeze(value, axes)


_FEW = 8


def _logsumexp_of_few(x: Array, axis: int, keepdims: bool) -> Array:
    """Unrolled over a short axis (mixture components): one fused loop over the data, not many short reductions."""
    parts = [jax.lax.index_in_dim(x, k, axis, keepdims=keepdims) for k in range(x.shape[axis])]
    top = jax.lax.stop_gradient(functools.reduce(jnp.maximum, parts))
    top = jnp.where(jnp.isfinite(top), top, jnp.zeros_like(top))
    total = functools.reduce(jnp.add, [jnp.exp(p - top) for p in parts])
    empty = total == 0
    value = jnp.log(jnp.where(empty, jnp.ones_like(total), total)) + top
    return jnp.where(empty, jnp.full_like(total, -jnp.inf), value)


@_lowers("aten.logsumexp", "aten.special_logsumexp")
def _logsumexp(x: Array, dim: Any, keepdim: bool = False) -> Array:
    return logsumexp(cast(x, inexact(x.dtype)), axes_of(dim, x.ndim), keepdim)


@_lowers("aten._softmax", "aten.softmax.int", "aten._safe_softmax")
def _softmax(x: Array, dim: int, half_to_float: Any = False) -> Array:
    return jax.nn.softmax(x, dim) if x.ndim else jnp.ones_like(x)


@_lowers("aten._log_softmax", "aten.log_softmax.int")
def _log_softmax(x: Array, dim: int, half_to_float: Any = False) -> Array:
    return jax.nn.log_softmax(x, dim) if x.ndim else jnp.zeros_like(x)


@_lowers("aten.cumsum")
def _cumsum(x: Array, dim: int, *, dtype: str | None = None) -> Array:
    x = _summable(x, dtype)
    return jnp.cumsum(x, dim) if x.ndim else x


@_lowers("aten.cumprod")
def _cumprod(x: Array, dim: int, *, dtype: str | None = None) -> Array:
    x = _summable(x, dtype)
    return jnp.cumprod(x, dim) if x.ndim else x


@_lowers("aten.logcumsumexp")
def _logcumsumexp(x: Array, dim: int) -> Array:
    return jax.lax.cumlogsumexp(x, dim % x.ndim) if x.ndim else x


def _cumulative_extreme(x: Array, dim: int, *, largest: bool) -> tuple[Array, Array]:
    if x.ndim == 0:
        return x, jnp.zeros((), canonical("int64"))
    axis = dim % x.ndim
    positions = jax.lax.broadcasted_iota(canonical("int64"), x.shape, axis)

    def later(a: tuple[Array, Array], b: tuple[Array, Array]) -> tuple[Array, Array]:
        take = (b[0] >= a[0]) if largest else (b[0] <= a[0])
        return jnp.where(take, b[0], a[0]), jnp.where(take, b[1], a[1])

    _, index = jax.lax.associative_scan(later, (jax.lax.stop_gradient(x), positions), axis=axis)
    return jnp.take_along_axis(x, index, axis), index


@_lowers("aten.cummax")
def _cummax(x: Array, dim: int) -> tuple[Array, Array]:
    return _cumulative_extreme(x, dim, largest=True)


@_lowers("aten.cummin")
def _cummin(x: Array, dim: int) -> tuple[Array, Array]:
    return _cumulative_extreme(x, dim, largest=False)


@_lowers("aten.sort.default")
def _sort(x: Array, dim: int = -1, descending: bool = False) -> tuple[Array, Array]:
    if x.ndim == 0:
        return x, jnp.zeros((), canonical("int64"))
    index = jnp.argsort(x, dim, stable=True, descending=descending)
    return jnp.take_along_axis(x, index, dim), cast(index, canonical("int64"))


@_lowers("aten.sort.stable")
def _sort_stable(
    x: Array, *, stable: bool | None = None, dim: int = -1, descending: bool = False
) -> tuple[Array, Array]:
    return _sort(x, dim, descending)


@_lowers("aten.argsort")
def _argsort(x: Array, *args: Any, stable: bool = True, dim: int = -1, descending: bool = False) -> Array:
    given = [a for a in args if not isinstance(a, bool)]
    flags = [a for a in args if isinstance(a, bool)]
    return _sort(x, given[0] if given else dim, flags[0] if flags else descending)[1]


@_lowers("aten.topk")
def _topk(x: Array, k: int, dim: int = -1, largest: bool = True, sorted: bool = True) -> tuple[Array, Array]:  # noqa: A002
    value, index = _sort(x, dim, largest)
    if x.ndim == 0:
        return value, index
    axis = dim % x.ndim
    return jax.lax.slice_in_dim(value, 0, k, axis=axis), jax.lax.slice_in_dim(index, 0, k, axis=axis)


@_lowers("aten.kthvalue")
def _kthvalue(x: Array, k: int, dim: int = -1, keepdim: bool = False) -> tuple[Array, Array]:
    _, order = _sort(x, dim, False)
    axis = dim % max(x.ndim, 1)
    index = jax.lax.index_in_dim(order, k - 1, axis, keepdims=False) if x.ndim else order
    value, position = _pick(x, index, axis, keepdim) if x.ndim else (x, order)
    return value, position


@_lowers("aten.median.default", "aten.nanmedian.default")
def _median(x: Array) -> Array:
    flat = jnp.reshape(x, -1)
    return _kthvalue(flat, (flat.shape[0] + 1) // 2)[0]


@_lowers("aten.median.dim")
def _median_dim(x: Array, dim: int, keepdim: bool = False) -> tuple[Array, Array]:
    return _kthvalue(x, (x.shape[dim] + 1) // 2, dim, keepdim) if x.ndim else (x, jnp.zeros((), canonical("int64")))
