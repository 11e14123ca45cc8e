"""Neural-network operations: activations, convolution, normalisation, losses, attention."""

from __future__ import annotations

import math
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array

from ._promotion import absolute, canonical, cast
from ._registry import table

TABLE, _lowers = table()


@_lowers("aten.relu")
def _relu(x: Array) -> Array:
    return jnp.where(x <= 0, jnp.zeros_like(x), x)


@_lowers("aten.relu6")
def _relu6(x: Array) -> Array:
    return _hardtanh(x, 0.0, 6.0)


@_lowers("aten.hardtanh")
def _hardtanh(x: Array, low: float = -1.0, high: float = 1.0) -> Array:
    return jnp.where(x <= low, jnp.full_like(x, low), jnp.where(x >= high, jnp.full_like(x, high), x))


@_lowers("aten.leaky_relu")
def _leaky_relu(x: Array, slope: float = 0.01) -> Array:
    return jnp.where(x > 0, x, x * slope)


@_lowers("aten.rrelu_with_noise")
def _rrelu(
    x: Array, noise: Array, lower: float = 0.125, upper: float = 1 / 3, training: bool = False, *_: Any
) -> Array:
    # Reached in evaluation mode only, where the slope is the mean one.
    return _leaky_relu(x, (lower + upper) / 2)


@_lowers("aten._prelu_kernel", "aten.prelu")
def _prelu(x: Array, weight: Array) -> Array:
    return jnp.where(x > 0, x, x * jnp.broadcast_to(weight, x.shape))


@_lowers("aten.elu")
def _elu(x: Array, alpha: float = 1.0, scale: float = 1.0, input_scale: float = 1.0) -> Array:
    below = jnp.where(x > 0, jnp.zeros_like(x), x)
    return jnp.where(x > 0, x * scale, jnp.expm1(below * input_scale) * (alpha * scale))


@_lowers("aten.celu")
def _celu(x: Array, alpha: float = 1.0) -> Array:
    return _elu(x, alpha, 1.0, 1.0 / alpha)


@_lowers("aten.selu")
def _selu(x: Array) -> Array:
    return _elu(x, 1.6732632423543772848170429916717, 1.0507009873554804934193349852946)


@_lowers("aten.gelu")
def _gelu(x: Array, *, approximate: str = "none") -> Array:
    if approximate == "tanh":
        return 0.5 * x * (1.0 + jnp.tanh(math.sqrt(2.0 / math.pi) * (x + 0.044715 * x * x * x)))
    return 0.5 * x * (1.0 + jax.lax.erf(x * math.sqrt(0.5)))


@_lowers("aten.silu")
def _silu(x: Array) -> Array:
    return x * jax.nn.sigmoid(x)


@_lowers("aten.mish")
def _mish(x: Array) -> Array:
    return x * jnp.tanh(jnp.logaddexp(x, jnp.zeros_like(x)))


@_lowers("aten.softplus")
def _softplus(x: Array, beta: float = 1.0, threshold: float = 20.0) -> Array:
    scaled = x * beta
    linear = scaled > threshold
    return jnp.where(linear, x, jnp.log1p(jnp.exp(jnp.where(linear, jnp.zeros_like(x), scaled))) / beta)


@_lowers("aten.log_sigmoid_forward")
def _log_sigmoid_forward(x: Array) -> tuple[Array, Array]:
    # Plain differentiation is exact here (one half at zero) and shares the exponential with the value.
    return jnp.minimum(x, jnp.zeros_like(x)) - jnp.log1p(jnp.exp(-absolute(x))), jnp.zeros((0,), x.dtype)


@_lowers("aten.hardsigmoid")
def _hardsigmoid(x: Array) -> Array:
    return _hardtanh(x + 3.0, 0.0, 6.0) / 6.0


@_lowers("aten.hardswish")
def _hardswish(x: Array) -> Array:
    return jnp.where(x <= -3.0, jnp.zeros_like(x), jnp.where(x >= 3.0, x, x * (x + 3.0) / 6.0))


@_lowers("aten.softshrink")
def _softshrink(x: Array, bound: float = 0.5) -> Array:
    return jnp.where(x > bound, x - bound, jnp.where(x < -bound, x + bound, jnp.zeros_like(x)))


@_lowers("aten.hardshrink")
def _hardshrink(x: Array, bound: float = 0.5) -> Array:
    return jnp.where((x >= -bound) & (x <= bound), jnp.zeros_like(x), x)


@_lowers("aten.threshold")
def _threshold(x: Array, threshold: float, value: float) -> Array:
    return jnp.where(x <= threshold, jnp.full_like(x, value), x)


@_lowers("aten.glu")
def _glu(x: Array, dim: int = -1) -> Array:
    a, b = jnp.split(x, 2, dim)
    return a * jax.nn.sigmoid(b)


@_lowers("aten.native_dropout")
def _native_dropout(x: Array, p: float, train: bool | None) -> tuple[Array, Array]:
    # Reached in evaluation mode only: randomness is refused while tracing.
    return x, jnp.ones(x.shape, bool)


_SPATIAL = "DHW"


@_lowers("aten.convolution", "aten.convolution_overrideable")
def _convolution(
    x: Array,
    weight: Array,
    bias: Array | None,
    stride: tuple[int, ...],
    padding: tuple[int, ...],
    dilation: tuple[int, ...],
    transposed: bool,
    output_padding: tuple[int, ...],
    groups: int,
) -> Array:
    n = weight.ndim - 2
    unbatched = x.ndim == n + 1
    x = x[None] if unbatched else x
    stride, padding, dilation = (v if len(v) == n else tuple(v) * n for v in (stride, padding, dilation))
    axes = _SPATIAL[-n:]
    if transposed:
        # The transpose of a convolution: a convolution of the dilated input with the flipped, regrouped kernel.
        output_padding = output_padding if len(output_padding) == n else tuple(output_padding) * n
        inputs, per_group = weight.shape[:2]
        w = jnp.reshape(weight, (groups, inputs // groups, per_group) + weight.shape[2:])
        w = jnp.swapaxes(w, 1, 2)
        w = jnp.reshape(w, (groups * per_group, inputs // groups) + weight.shape[2:])
        w = jnp.flip(w, tuple(range(2, w.ndim)))
        reach = [d * (k - 1) for d, k in zip(dilation, weight.shape[2:], strict=True)]
        pads = [(r - p, r - p + o) for r, p, o in zip(reach, padding, output_padding, strict=True)]
        window, spread = (1,) * n, stride
    else:
        w, pads, window, spread = weight, [(p, p) for p in padding], stride, (1,) * n
    out = jax.lax.conv_general_dilated(
        x,
        w,
        window_strides=window,
        padding=pads,
        lhs_dilation=spread,
        rhs_dilation=dilation,
        dimension_numbers=(f"NC{axes}", f"OI{axes}", f"NC{axes}"),
        feature_group_count=groups,
        precision=jax.lax.Precision.HIGHEST,
    )
    if bias is not None:
        out = out + jnp.reshape(bias, (1, -1) + (1,) * n)
    return out[0] if unbatched else out


def _per_channel(v: Array, ndim: int) -> Array:
    return jnp.reshape(v, (1, -1) + (1,) * (ndim - 2))


def _per_channel_or_none(v: Array | None, ndim: int) -> Array | None:
    return None if v is None else _per_channel(v, ndim)


def _affine(x: Array, weight: Array | None, bias: Array | None) -> Array:
    x = x if weight is None else x * weight
    return x if bias is None else x + bias


@_lowers("aten.native_layer_norm")
def _layer_norm(
    x: Array, shape: tuple[int, ...], weight: Array | None, bias: Array | None, eps: float
) -> tuple[Array, Array, Array]:
    axes = tuple(range(x.ndim - len(shape), x.ndim))
    mean = jnp.mean(x, axes, keepdims=True)
    inverse = jax.lax.rsqrt(jnp.mean(jnp.square(x - mean), axes, keepdims=True) + eps)
    expand = [None if v is None else jnp.reshape(v, (1,) * (x.ndim - v.ndim) + v.shape) for v in (weight, bias)]
    return _affine((x - mean) * inverse, *expand), mean, inverse


@_lowers("aten.native_group_norm")
def _group_norm(
    x: Array, weight: Array | None, bias: Array | None, n: int, channels: int, size: int, groups: int, eps: float
) -> tuple[Array, Array, Array]:
    grouped = jnp.reshape(x, (n, groups, -1))
    mean = jnp.mean(grouped, -1, keepdims=True)
    inverse = jax.lax.rsqrt(jnp.mean(jnp.square(grouped - mean), -1, keepdims=True) + eps)
    out = jnp.reshape((grouped - mean) * inverse, x.shape)
    return (
        _affine(out, _per_channel_or_none(weight, x.ndim), _per_channel_or_none(bias, x.ndim)),
        mean[..., 0],
        inverse[..., 0],
    )


def _batch_norm(
    x: Array,
    weight: Array | None,
    bias: Array | None,
    running_mean: Array | None,
    running_var: Array | None,
    training: bool,
    momentum: float,
    eps: float,
) -> tuple[Array, ...]:
    axes = (0, *range(2, x.ndim))
    new: tuple[Any, ...]
    if training:
        mean = jnp.mean(x, axes)
        shifted = x - _per_channel(mean, x.ndim)
        var = jnp.mean(jnp.square(shifted), axes)
        inverse = jax.lax.rsqrt(var + eps)
        count = math.prod(x.shape[a] for a in axes)
        unbiased = var * (count / max(count - 1, 1))
        new = tuple(
            None if old is None else (1.0 - momentum) * old + momentum * fresh
            for old, fresh in ((running_mean, mean), (running_var, unbiased))
        )
    else:
        assert running_mean is not None and running_var is not None
        mean, var = running_mean, running_var
        inverse = jax.lax.rsqrt(var + eps)
        shifted = x - _per_channel(mean, x.ndim)
        new = (running_mean, running_var)
    out = _affine(
        shifted * _per_channel(inverse, x.ndim),
        _per_channel_or_none(weight, x.ndim),
        _per_channel_or_none(bias, x.ndim),
    )
    saved = (mean, inverse) if training else (jnp.zeros((0,), x.dtype),) * 2
    return out, *saved, *new


@_lowers("aten.native_batch_norm", "aten._native_batch_norm_legit.default", "aten.cudnn_batch_norm")
def _native_batch_norm(*args: Any) -> tuple[Array, ...]:
    return _batch_norm(*args)[:3]


@_lowers("aten._native_batch_norm_legit_functional")
def _native_batch_norm_functional(*args: Any) -> tuple[Array, ...]:
    return _batch_norm(*args)


@_lowers("aten._native_batch_norm_legit.no_stats")
def _native_batch_norm_no_stats(
    x: Array, weight: Any, bias: Any, training: bool, momentum: float, eps: float
) -> tuple[Array, ...]:
    return _batch_norm(x, weight, bias, None, None, True, momentum, eps)[:3]


@_lowers("aten._native_batch_norm_legit_no_training")
def _native_batch_norm_eval(
    x: Array, weight: Any, bias: Any, mean: Array, var: Array, momentum: float, eps: float
) -> tuple[Array, ...]:
    return _batch_norm(x, weight, bias, mean, var, False, momentum, eps)[:3]


@_lowers("aten._batch_norm_no_update")
def _batch_norm_no_update(*args: Any) -> tuple[Array, ...]:
    x, weight, bias, mean, var, momentum, eps = args
    out = _batch_norm(x, weight, bias, mean, var, False, momentum, eps)[:3]
    return *out, jnp.zeros((0,), jnp.uint8)


@_lowers("aten._batch_norm_with_update_functional")
def _batch_norm_with_update(*args: Any) -> tuple[Array, ...]:
    x, weight, bias, mean, var, momentum, eps = args
    out = _batch_norm(x, weight, bias, mean, var, True, momentum, eps)
    return *out[:3], jnp.zeros((0,), jnp.uint8), *out[3:]


@_lowers("aten.nll_loss_forward", "aten.nll_loss2d_forward")
def _nll_loss(x: Array, target: Array, weight: Array | None, reduction: int, ignore_index: int) -> tuple[Array, Array]:
    axis = 1 if x.ndim > 1 else 0
    keep = target != ignore_index
    safe = jnp.where(keep, target, jnp.zeros_like(target))
    picked = jnp.squeeze(jnp.take_along_axis(x, jnp.expand_dims(safe, axis), axis), axis)
    factor = jnp.ones_like(picked) if weight is None else weight[safe]
    factor = jnp.where(keep, factor, jnp.zeros_like(factor))
    loss, total = -picked * factor, jnp.sum(factor)
    if reduction == 0:
        return loss, jnp.zeros((), x.dtype)
    return (jnp.sum(loss) / total if reduction == 1 else jnp.sum(loss)), total


def _reduce(loss: Array, reduction: int) -> Array:
    return loss if reduction == 0 else jnp.mean(loss) if reduction == 1 else jnp.sum(loss)


@_lowers("aten.mse_loss")
def _mse_loss(x: Array, y: Array, reduction: int = 1) -> Array:
    return _reduce(jnp.square(x - y), reduction)


@_lowers("aten.huber_loss")
def _huber_loss(x: Array, y: Array, reduction: int = 1, delta: float = 1.0) -> Array:
    size = absolute(x - y)
    return _reduce(jnp.where(size < delta, 0.5 * size * size, delta * (size - 0.5 * delta)), reduction)


@_lowers("aten.binary_cross_entropy")
def _binary_cross_entropy(x: Array, y: Array, weight: Array | None = None, reduction: int = 1) -> Array:
    floor = jnp.asarray(-100.0, x.dtype)
    log_x, log_not = jnp.log(x), jnp.log1p(-x)
    loss = -(y * jnp.where(log_x < floor, floor, log_x) + (1.0 - y) * jnp.where(log_not < floor, floor, log_not))
    return _reduce(loss if weight is None else loss * weight, reduction)


@_lowers(
    "aten._scaled_dot_product_flash_attention_for_cpu",
    "aten._scaled_dot_product_attention_math",
    "aten._scaled_dot_product_attention",
)
def _attention(
    query: Array,
    key: Array,
    value: Array,
    *args: Any,
    attn_mask: Array | None = None,
    is_causal: bool = False,
    scale: float | None = None,
    **_: Any,
) -> tuple[Array, Array]:
    # Positional forms differ in whether the mask comes before the dropout rate.
    mask = next((a for a in args if hasattr(a, "dtype")), attn_mask)
    causal = is_causal or any(a is True for a in args)
    factor = 1.0 / math.sqrt(query.shape[-1]) if scale is None else scale
    scores = jnp.einsum("...qd,...kd->...qk", query, key, precision=jax.lax.Precision.HIGHEST) * cast(
        factor, query.dtype
    )
    if causal:
        allowed = jnp.tril(jnp.ones(scores.shape[-2:], bool))
        scores = jnp.where(jnp.broadcast_to(allowed, scores.shape), scores, jnp.full_like(scores, -jnp.inf))
    if mask is not None:
        full = jnp.broadcast_to(mask, scores.shape)
        scores = jnp.where(full, scores, jnp.full_like(scores, -jnp.inf)) if mask.dtype == bool else scores + full
    out = jnp.einsum("...qk,...kd->...qd", jax.nn.softmax(scores, -1), value, precision=jax.lax.Precision.HIGHEST)
    return out, jnp.zeros(scores.shape[:-1], scores.dtype)


@_lowers("aten._weight_norm_interface")
def _weight_norm(v: Array, g: Array, dim: int = 0) -> tuple[Array, Array]:
    axes = tuple(i for i in range(v.ndim) if i != dim % v.ndim)
    norm = jnp.sqrt(jnp.sum(v * v, axes, keepdims=True))
    return v * (g / norm), norm


@_lowers("aten.upsample_nearest1d", "aten.upsample_nearest2d", "aten.upsample_nearest3d")
def _upsample_nearest(x: Array, size: tuple[int, ...] | None, *_: Any) -> Array:
    assert size is not None
    for axis, out in enumerate(size, start=2):
        scale = x.shape[axis] / out
        index = jnp.minimum(
            jnp.floor(jnp.arange(out, dtype=canonical("float32")) * scale).astype(int), x.shape[axis] - 1
        )
        x = jnp.take(x, index, axis=axis)
    return x
