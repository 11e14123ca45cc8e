"""Checks of clouds, matrices and numbers, and their one dtype. What is traced is taken as it is."""

from __future__ import annotations

import operator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from ..models._types import Key


def check_key(key: Any) -> Key:
    """One typed JAX key."""
    if not (isinstance(key, jax.Array) and jnp.issubdtype(key.dtype, jax.dtypes.prng_key) and key.shape == ()):
        raise ValueError(
            f"key={key!r}: expected one typed key, jax.random.key(0); integers and raw uint32 keys are not accepted."
        )
    return key


def check_count(name: str, value: Any, least: int) -> int:
    """An integer of at least ``least``."""
    try:
        found = None if isinstance(value, bool) else operator.index(value)
    except TypeError:
        found = None
    if found is None or found < least:
        raise ValueError(f"{name}={value!r}: expected an integer of at least {least}.")
    return found


def check_flag(name: str, value: Any) -> bool:
    """True or False, nothing that merely counts as one."""
    if not isinstance(value, bool | np.bool_):
        raise ValueError(f"{name}={value!r}: expected True or False.")
    return bool(value)


def as_array(name: str, value: Any, expected: str) -> Array:
    """What JAX takes for an array of numbers."""
    try:
        if isinstance(value, str | bytes):
            # JAX would look for a dtype of that name.
            raise TypeError("text")
        return jnp.asarray(value)
    except (TypeError, ValueError, RuntimeError) as error:
        kind = type(value).__name__
        if isinstance(value, np.ma.MaskedArray):
            remedy = " Masked entries have no value: drop their rows, or fill them with filled()."
        elif isinstance(value, np.ndarray):
            kind, remedy = f"{kind} of dtype {value.dtype}", ""
        elif isinstance(error, RuntimeError):
            # A tensor of another library that cannot be read now says best why.
            remedy = f" {error}"
        else:
            remedy = " Lists must be nested evenly." if isinstance(value, list | tuple) else ""
        raise ValueError(f"{name} is {kind}: expected {expected}.{remedy}") from error


def check_floats(name: str, value: Any, axes: str) -> Array:
    """Finite floating-point numbers of the axes that ``axes`` names, such as "n, d"."""
    found = as_array(name, value, f"an array of floating-point numbers of shape ({axes})")
    if not jnp.issubdtype(found.dtype, jnp.floating):
        raise ValueError(
            f"{name} has dtype {found.dtype}: expected floating-point numbers; convert with astype(float)."
        )
    if found.ndim != len(axes.split(",")) or found.size == 0:
        raise ValueError(f"{name} has shape {found.shape}: expected a non-empty array of shape ({axes}).")
    if not isinstance(found, jax.core.Tracer) and not np.isfinite(np.asarray(found)).all():
        bad = tuple(int(i) for i in np.argwhere(~np.isfinite(np.asarray(found)))[0])
        raise ValueError(
            f"{name} is {found[bad]} at index {bad}: expected finite numbers; remove or repair that entry."
        )
    return found


def check_clouds(x: Any, y: Any) -> tuple[Float[Array, "n d"], Float[Array, "m d"]]:
    """Two clouds of points of one dimension and one dtype."""
    x, y = check_floats("x", x, "n, d"), check_floats("y", y, "m, d")
    if x.shape[1] != y.shape[1]:
        raise ValueError(
            f"x has points of {x.shape[1]} dimensions and y of {y.shape[1]}: expected shapes (n, d) and (m, d)."
        )
    dtype = jnp.promote_types(x.dtype, y.dtype)
    return x.astype(dtype), y.astype(dtype)


def check_weights(name: str, value: Any, count: int, dtype: Any) -> Float[Array, " n"]:
    """Weights of ``count`` points that sum to one; equal ones for None."""
    if value is None:
        return jnp.full((count,), 1.0 / count, dtype)
    weights = check_floats(name, value, "n")
    if weights.shape != (count,):
        raise ValueError(f"{name} has shape {weights.shape} for {count} points: expected one weight per point.")
    if not isinstance(weights, jax.core.Tracer):
        held = np.asarray(weights, np.float64)
        if (held < 0).any():
            raise ValueError(f"{name} has a negative weight, {held.min():.3g}: expected weights of at least zero.")
        if abs(held.sum() - 1.0) > 10.0 * count**0.5 * float(jnp.finfo(weights.dtype).eps) + 1e-6:
            raise ValueError(f"{name} sums to {held.sum():.6g}: expected 1; divide it by its sum.")
    weights = weights.astype(dtype)
    return weights / jnp.sum(weights)


def check_positive(
    name: str, value: Any, dtype: Any = None, unit: str = "units of the cost", *, zero: bool = False
) -> Float[Array, ""]:
    """One finite number above zero, or of at least zero; of the default dtype where none is given."""
    if isinstance(value, str | bytes):
        raise ValueError(f"{name}={value!r}: expected one number, in {unit}.")
    try:
        found = jnp.asarray(value)
    except (TypeError, ValueError, RuntimeError) as error:
        raise ValueError(f"{name}={value!r}: expected one number, in {unit}.") from error
    real = jnp.issubdtype(found.dtype, jnp.floating) or jnp.issubdtype(found.dtype, jnp.integer)
    if found.shape != () or not real:
        raise ValueError(f"{name} is of shape {found.shape} and {found.dtype}: expected one real number, in {unit}.")
    number = 1.0
    if not isinstance(found, jax.core.Tracer):
        number = float(found)
        if not np.isfinite(number) or number < 0 or (number == 0 and not zero):
            bound = "finite number of at least zero" if zero else "positive number"
            raise ValueError(f"{name}={number:g}: expected a {bound}, in {unit}.")
    if dtype is None and not jnp.issubdtype(found.dtype, jnp.floating):
        dtype = jnp.result_type(float)
    held = found if dtype is None else found.astype(dtype)
    if not isinstance(held, jax.core.Tracer) and number > 0:
        limits = jnp.finfo(held.dtype)
        if number > float(limits.max) or (number < float(limits.tiny) and not zero):
            raise ValueError(
                f"{name}={number:g} is beyond what {held.dtype} holds, {float(limits.tiny):.1e} to "
                f"{float(limits.max):.1e}: expected a number in that range, in {unit}."
            )
    return held
