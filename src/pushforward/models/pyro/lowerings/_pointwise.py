"""Elementwise operations, with torch's derivative at kinks (ties, clamping bounds, zero)."""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array

from ._promotion import absolute, broadcast, canonical, cast, inexact, promote, result_dtype, truth
from ._registry import table

TABLE, _lowers = table()


def _float_unary(function: Callable[[Array], Array]) -> Callable[[Any], Array]:
    return lambda x: function(cast(x, inexact(x.dtype)))


for _name, _function in {
    "exp": jnp.exp,
    "exp2": jnp.exp2,
    "expm1": jnp.expm1,
    "log": jnp.log,
    "log2": lambda x: jnp.log(x) / jnp.asarray(0.6931471805599453, x.dtype),
    "log10": lambda x: jnp.log(x) / jnp.asarray(2.302585092994046, x.dtype),
    "log1p": jnp.log1p,
    "sqrt": jnp.sqrt,
    "rsqrt": jax.lax.rsqrt,
    "sin": jnp.sin,
    "cos": jnp.cos,
    "tan": jnp.tan,
    "asin": jnp.arcsin,
    "acos": jnp.arccos,
    "atan": jnp.arctan,
    "sinh": jnp.sinh,
    "cosh": jnp.cosh,
    "tanh": jnp.tanh,
    "asinh": jnp.arcsinh,
    "acosh": jnp.arccosh,
    "atanh": jnp.arctanh,
    "sigmoid": jax.nn.sigmoid,
    "reciprocal": lambda x: jnp.ones_like(x) / x,
}.items():
    TABLE[f"aten.{_name}"] = _float_unary(_function)


for _name, _function in {
    "neg": jnp.negative,
    "abs": absolute,
    "sign": jnp.sign,
    "sgn": jnp.sign,
    "floor": lambda x: jnp.floor(x) if jnp.issubdtype(x.dtype, jnp.inexact) else x,
    "ceil": lambda x: jnp.ceil(x) if jnp.issubdtype(x.dtype, jnp.inexact) else x,
    "trunc": lambda x: jnp.trunc(x) if jnp.issubdtype(x.dtype, jnp.inexact) else x,
    "square": lambda x: x * x,
    "positive": lambda x: x,
    "frac": lambda x: x - jnp.trunc(x),
    "isnan": jnp.isnan,
    "isinf": jnp.isinf,
    "isfinite": jnp.isfinite,
    "isposinf": jnp.isposinf,
    "isneginf": jnp.isneginf,
    "signbit": jnp.signbit,
    "bitwise_not": jnp.invert,
    "logical_not": lambda x: jnp.logical_not(truth(x)),
    "conj": jnp.conj,
    "_conj": jnp.conj,
    "real": jnp.real,
    "imag": jnp.imag,
    "angle": jnp.angle,
    "deg2rad": lambda x: cast(x, inexact(x.dtype)) * jnp.asarray(0.017453292519943295, inexact(x.dtype)),
    "rad2deg": lambda x: cast(x, inexact(x.dtype)) * jnp.asarray(57.29577951308232, inexact(x.dtype)),
}.items():
    TABLE[f"aten.{_name}"] = _function


@_lowers("aten.round")
def _round(x: Array, *, decimals: int = 0) -> Array:
    return jnp.round(x, decimals) if jnp.issubdtype(x.dtype, jnp.inexact) else x


def _scaled(b: Array, alpha: Any) -> Array:
    return b if isinstance(alpha, (int, float)) and alpha == 1 else b * cast(alpha, b.dtype)


@_lowers("aten.add")
def _add(x: Any, y: Any, *, alpha: Any = 1) -> Array:
    a, b = promote(x, y)
    return a | b if a.dtype == bool else a + _scaled(b, alpha)


@_lowers("aten.sub")
def _sub(x: Any, y: Any, *, alpha: Any = 1) -> Array:
    a, b = promote(x, y)
    return a - _scaled(b, alpha)


@_lowers("aten.rsub")
def _rsub(x: Any, y: Any, alpha: Any = 1) -> Array:
    a, b = promote(x, y)
    return b - _scaled(a, alpha)


@_lowers("aten.mul")
def _mul(x: Any, y: Any) -> Array:
    a, b = promote(x, y)
    return a & b if a.dtype == bool else a * b


@_lowers("aten.div", "aten.true_divide")
def _div(x: Any, y: Any, *, rounding_mode: str | None = None) -> Array:
    if rounding_mode is None:
        a, b = promote(x, y, float=True)
        # One reciprocal of a scale and a product per datum, instead of a quotient per datum.
        return a * (jnp.ones_like(b) / b) if b.size < a.size else operator.truediv(a, b)
    a, b = promote(x, y)
    if rounding_mode == "floor":
        return jnp.floor_divide(a, b)
    if jnp.issubdtype(a.dtype, jnp.integer):
        return jax.lax.div(*jnp.broadcast_arrays(a, b))
    return jnp.trunc(a / b)


@_lowers("aten.floor_divide")
def _floor_divide(x: Any, y: Any) -> Array:
    return jnp.floor_divide(*promote(x, y))


@_lowers("aten.remainder")
def _remainder(x: Any, y: Any) -> Array:
    return jnp.remainder(*promote(x, y))


@_lowers("aten.fmod")
def _fmod(x: Any, y: Any) -> Array:
    return jnp.fmod(*promote(x, y))


@jax.custom_jvp
def _power(a: Array, b: Array) -> Array:
    return jax.lax.pow(a, b)


@_power.defjvp
def _power_jvp(primals: tuple[Array, Array], tangents: tuple[Array, Array]) -> tuple[Array, Array]:
    # At base zero torch's derivative with respect to a non-negative exponent is zero, and that of x**0 is zero
    # everywhere.
    a, b = primals
    out = _power(a, b)
    zero, one = jnp.zeros_like(a), jnp.ones_like(a)
    by_base = jnp.where(b == 0, zero, b * _power(a, jnp.where(b == 0, one, b - one)))
    flat = (a == 0) & (b >= 0)
    by_exponent = jnp.where(flat, zero, out * jnp.log(jnp.where(flat, one, a)))
    return out, by_base * tangents[0] + by_exponent * tangents[1]


@_lowers("aten.pow")
def _pow(x: Any, y: Any) -> Array:
    dtype = result_dtype(x, y)
    if isinstance(y, (int, float)) and float(y).is_integer() and abs(y) < 2**31:
        base = cast(x, dtype)
        return base if y == 1 else jax.lax.integer_pow(base, int(y))
    if isinstance(y, (int, float)) and y == 0.5:
        return jnp.sqrt(cast(x, dtype))
    a, b = jnp.broadcast_arrays(*promote(x, y))
    return _power(a, b) if jnp.issubdtype(dtype, jnp.floating) else jnp.power(a, b)


for _name, _function in {  # type: ignore[assignment]  # ufuncs and functions have no common type
    "eq": jnp.equal,
    "ne": jnp.not_equal,
    "lt": jnp.less,
    "le": jnp.less_equal,
    "gt": jnp.greater,
    "ge": jnp.greater_equal,
    "bitwise_and": jnp.bitwise_and,
    "bitwise_or": jnp.bitwise_or,
    "bitwise_xor": jnp.bitwise_xor,
    "bitwise_left_shift": jnp.left_shift,
    "bitwise_right_shift": jnp.right_shift,
    "__and__": jnp.bitwise_and,
    "__or__": jnp.bitwise_or,
    "__xor__": jnp.bitwise_xor,
    "__lshift__": jnp.left_shift,
    "__rshift__": jnp.right_shift,
    "maximum": jnp.maximum,
    "minimum": jnp.minimum,
    "fmax": jnp.fmax,
    "fmin": jnp.fmin,
    "gcd": jnp.gcd,
    "heaviside": lambda a, b: jnp.where(a == 0, b, (a > 0).astype(a.dtype)),
}.items():
    TABLE[f"aten.{_name}"] = lambda x, y, f=_function: f(*broadcast(x, y))


for _name, _function in {  # type: ignore[assignment]  # ufuncs and functions have no common type
    "atan2": jnp.arctan2,
    "logaddexp": jnp.logaddexp,
    "copysign": jnp.copysign,
}.items():
    TABLE[f"aten.{_name}"] = lambda x, y, f=_function: f(*broadcast(x, y, float=True))


@_lowers("aten.logaddexp2")
def _logaddexp2(x: Any, y: Any) -> Array:
    a, b = broadcast(x, y, float=True)
    ln2 = jnp.asarray(0.6931471805599453, a.dtype)
    return jnp.logaddexp(a * ln2, b * ln2) / ln2


@_lowers("aten.hypot")
def _hypot(x: Any, y: Any) -> Array:
    a, b = broadcast(x, y, float=True)
    return jnp.hypot(a, b)


for _name, _function in {  # type: ignore[assignment]  # ufuncs and functions have no common type
    "logical_and": jnp.logical_and,
    "logical_or": jnp.logical_or,
    "logical_xor": jnp.logical_xor,
}.items():
    TABLE[f"aten.{_name}"] = lambda x, y, f=_function: f(*promote(truth(x), truth(y)))


@_lowers("aten.clamp", "aten.clip")
def _clamp(x: Array, min: Any = None, max: Any = None) -> Array:  # noqa: A002
    # Written with `where`, so that the derivative at a bound is one, as in torch.
    if max is None:
        a, low = broadcast(x, min)
        return jnp.where(a < low, low, a)
    if min is None:
        a, high = broadcast(x, max)
        return jnp.where(a > high, high, a)
    a, low, high = broadcast(x, min, max)
    return jnp.where(a > high, high, jnp.where(a < low, jnp.minimum(low, high), a))


@_lowers("aten.clamp_min")
def _clamp_min(x: Array, low: Any) -> Array:
    return _clamp(x, low)


@_lowers("aten.clamp_max")
def _clamp_max(x: Array, high: Any) -> Array:
    return _clamp(x, None, high)


@_lowers("aten.where")
def _where(condition: Array, x: Any, y: Any) -> Array:
    a, b = promote(x, y)
    c, a, b = _shape_together(condition, a, b)
    return jnp.where(c.astype(bool), a, b)


def _shape_together(*arrays: Array) -> tuple[Array, ...]:
    shape = jnp.broadcast_shapes(*[a.shape for a in arrays])
    return tuple(jnp.broadcast_to(a, shape) for a in arrays)


@_lowers("aten.masked_fill")
def _masked_fill(x: Array, mask: Array, value: Any) -> Array:
    c, a, v = _shape_together(mask, x, cast(value, x.dtype))
    return jnp.where(c, v, a)


@_lowers("aten.lerp")
def _lerp(start: Array, end: Array, weight: Any) -> Array:
    a, b, w = promote(start, end, weight)
    return a + w * (b - a)


@_lowers("aten.addcmul")
def _addcmul(x: Array, y: Array, z: Array, *, value: Any = 1) -> Array:
    a, b, c = promote(x, y, z)
    return a + _scaled(b * c, value)


@_lowers("aten.addcdiv")
def _addcdiv(x: Array, y: Array, z: Array, *, value: Any = 1) -> Array:
    a, b, c = promote(x, y, z, float=True)
    return a + _scaled(b / c, value)


@_lowers("aten.nan_to_num")
def _nan_to_num(x: Array, nan: Any = None, posinf: Any = None, neginf: Any = None) -> Array:
    return jnp.nan_to_num(x, nan=0.0 if nan is None else nan, posinf=posinf, neginf=neginf)


@_lowers("aten._to_copy", "aten.to")
def _to_copy(x: Array, *args: Any, dtype: str | None = None, **_: Any) -> Array:
    chosen = next((a for a in args if isinstance(a, str)), dtype)
    return x if chosen is None else cast(x, canonical(chosen))


@_lowers("prims.convert_element_type")
def _convert(x: Array, dtype: str) -> Array:
    return cast(x, canonical(dtype))


@_lowers("aten.complex")
def _complex(real: Array, imag: Array) -> Array:
    return jax.lax.complex(*broadcast(real, imag))


@_lowers("aten.polar")
def _polar(radius: Array, angle: Array) -> Array:
    r, t = broadcast(radius, angle)
    return jax.lax.complex(r * jnp.cos(t), r * jnp.sin(t))
