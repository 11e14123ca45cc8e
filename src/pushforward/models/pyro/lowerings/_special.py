"""Special functions, in the precision of their argument."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import jax.scipy.special as jsp
from jaxtyping import Array

from ._promotion import absolute, broadcast, cast, inexact
from ._registry import table

TABLE, _lowers = table()


def _unary(function: Callable[[Array], Array]) -> Callable[[Any], Array]:
    return lambda x: function(cast(x, inexact(x.dtype)))


@jax.custom_jvp
def _zeta_core(x: Array, q: Array) -> Array:
    return jax.lax.zeta(x, q)


@_zeta_core.defjvp
def _zeta_jvp(primals: tuple[Array, Array], tangents: tuple[Any, Any]) -> tuple[Array, Array]:
    # In the exponent there is no closed form; torch has none either.
    x, q = primals
    return _zeta_core(x, q), -x * _zeta_core(x + 1.0, q) * tangents[1]


@jax.custom_jvp
def _digamma(x: Array) -> Array:
    return jax.lax.digamma(x)


@_digamma.defjvp
def _digamma_jvp(primals: tuple[Array], tangents: tuple[Array]) -> tuple[Array, Array]:
    (x,) = primals
    # zeta needs a positive argument; reflection covers the negative axis: psi1(1-x) + psi1(x) = (pi / sin(pi x))^2.
    positive = x > 0
    safe = jnp.where(positive, x, 1.0 - x)
    series = _zeta_core(jnp.full_like(x, 2.0), safe)
    reflected = (math.pi / jnp.sin(math.pi * jnp.where(positive, jnp.full_like(x, 0.5), x))) ** 2 - series
    return _digamma(x), jnp.where(positive, series, reflected) * tangents[0]


def _i0(x: Array) -> Array:
    return jnp.exp(absolute(x)) * jax.lax.bessel_i0e(x)


def _i1(x: Array) -> Array:
    return jnp.exp(absolute(x)) * jax.lax.bessel_i1e(x)


def _entr(x: Array) -> Array:
    safe = jnp.where(x > 0, x, jnp.ones_like(x))
    return jnp.where(x > 0, -safe * jnp.log(safe), jnp.where(x == 0, jnp.zeros_like(x), jnp.full_like(x, -jnp.inf)))


def _erfcx(x: Array) -> Array:
    """exp(x^2) erfc(x), through log_ndtr where the product overflows and by its asymptotic series beyond."""
    middle = jnp.clip(x, -25.0, 25.0)
    value = jnp.exp(middle * middle + jsp.log_ndtr(-middle * math.sqrt(2.0)) + math.log(2.0))
    far = jnp.where(x > 25.0, x, jnp.full_like(x, 26.0))
    inverse = 1.0 / (far * far)
    series = (1.0 - 0.5 * inverse * (1.0 - 1.5 * inverse * (1.0 - 2.5 * inverse))) / (far * math.sqrt(math.pi))
    return jnp.where(x > 25.0, series, value)


def _sinc(x: Array) -> Array:
    zero = x == 0
    safe = jnp.where(zero, jnp.ones_like(x), x) * math.pi
    return jnp.where(zero, jnp.ones_like(x), jnp.sin(safe) / safe)


for _names, _function in {
    ("lgamma", "special_gammaln"): jax.lax.lgamma,
    ("digamma", "special_digamma", "special_psi"): _digamma,
    ("erf", "special_erf"): jax.lax.erf,
    ("erfc", "special_erfc"): jax.lax.erfc,
    ("erfinv", "special_erfinv"): jax.lax.erf_inv,
    ("special_erfcx",): _erfcx,
    ("special_ndtr",): jsp.ndtr,
    ("special_ndtri",): jsp.ndtri,
    ("special_log_ndtr",): jsp.log_ndtr,
    ("special_entr",): _entr,
    ("i0", "special_i0"): _i0,
    ("special_i0e",): jax.lax.bessel_i0e,
    ("special_i1",): _i1,
    ("special_i1e",): jax.lax.bessel_i1e,
    ("sinc", "special_sinc"): _sinc,
    ("special_expit",): jax.nn.sigmoid,
    ("special_exp2",): jnp.exp2,
    ("special_expm1",): jnp.expm1,
    ("special_log1p",): jnp.log1p,
}.items():
    for _name in _names:
        TABLE[f"aten.{_name}"] = _unary(_function)  # type: ignore[arg-type]  # the table's values have no common type


@_lowers("aten.polygamma", "aten.special_polygamma")
def _polygamma(order: Any, x: Any = None) -> Array:
    n, value = (order, x) if isinstance(order, int) else (x, order)
    value = cast(value, inexact(value.dtype))
    if n == 0:
        return _digamma(value)
    return (-1.0) ** (n + 1) * math.factorial(n) * _zeta_core(jnp.full_like(value, n + 1.0), value)


@jax.custom_jvp
def _xlogy_core(x: Array, y: Array) -> Array:
    zero = x == 0
    value = jnp.where(zero, jnp.zeros_like(x), x * jnp.log(jnp.where(zero, jnp.ones_like(y), y)))
    return jnp.where(jnp.isnan(y), jnp.full_like(x, jnp.nan), value)


@_xlogy_core.defjvp
def _xlogy_jvp(primals: tuple[Array, Array], tangents: tuple[Array, Array]) -> tuple[Array, Array]:
    x, y = primals
    flat = (x == 0) & (y <= 0)
    by_x = jnp.where(flat, jnp.zeros_like(x), jnp.log(jnp.where(flat, jnp.ones_like(y), y)))
    return _xlogy_core(x, y), by_x * tangents[0] + x / y * tangents[1]


@_lowers("aten.xlogy", "aten.special_xlogy")
def _xlogy(x: Any, y: Any) -> Array:
    return _xlogy_core(*broadcast(x, y, float=True))


@jax.custom_jvp
def _xlog1py_core(x: Array, y: Array) -> Array:
    zero = x == 0
    value = jnp.where(zero, jnp.zeros_like(x), x * jnp.log1p(jnp.where(zero, jnp.zeros_like(y), y)))
    return jnp.where(jnp.isnan(y), jnp.full_like(x, jnp.nan), value)


@_xlog1py_core.defjvp
def _xlog1py_jvp(primals: tuple[Array, Array], tangents: tuple[Array, Array]) -> tuple[Array, Array]:
    x, y = primals
    flat = (x == 0) & (y <= -1)
    by_x = jnp.where(flat, jnp.zeros_like(x), jnp.log1p(jnp.where(flat, jnp.zeros_like(y), y)))
    return _xlog1py_core(x, y), by_x * tangents[0] + x / (1.0 + y) * tangents[1]


@_lowers("aten.special_xlog1py")
def _xlog1py(x: Any, y: Any) -> Array:
    return _xlog1py_core(*broadcast(x, y, float=True))


@_lowers("aten.igamma", "aten.special_gammainc")
def _igamma(a: Array, x: Array) -> Array:
    return jax.lax.igamma(*broadcast(a, x, float=True))


@_lowers("aten.igammac", "aten.special_gammaincc")
def _igammac(a: Array, x: Array) -> Array:
    return jax.lax.igammac(*broadcast(a, x, float=True))


@_lowers("aten.special_zeta")
def _zeta(x: Any, q: Any) -> Array:
    return _zeta_core(*broadcast(x, q, float=True))


@_lowers("aten.mvlgamma", "aten.special_multigammaln")
def _mvlgamma(x: Array, p: int) -> Array:
    x = cast(x, inexact(x.dtype))
    shifts = jnp.asarray([0.5 * j for j in range(p)], x.dtype)
    terms = jax.lax.lgamma(x[..., None] - jnp.reshape(shifts, (1,) * x.ndim + (p,)))
    return jnp.sum(terms, -1) + 0.25 * p * (p - 1) * math.log(math.pi)


@_lowers("aten.logit", "aten.special_logit")
def _logit(x: Array, eps: float | None = None) -> Array:
    x = cast(x, inexact(x.dtype))
    if eps is not None:
        low, high = jnp.asarray(eps, x.dtype), jnp.asarray(1.0 - eps, x.dtype)
        x = jnp.where(x < low, low, jnp.where(x > high, high, x))
    return jnp.log(x / (1.0 - x))
