"""Torch's type promotion, spelt out, so that lowerings run under strict dtype and rank promotion."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

_CATEGORY = {"b": 0, "u": 1, "i": 1, "f": 2, "V": 2, "c": 3}


def canonical(dtype: str) -> Any:
    """The dtype that JAX holds for a torch dtype (64-bit integers become 32-bit when x64 is off)."""
    return jax.dtypes.canonicalize_dtype(jnp.bfloat16 if dtype == "bfloat16" else np.dtype(dtype))


def default_float() -> Any:
    """Widest float that is enabled. Results are rounded to what torch recorded."""
    return jax.dtypes.canonicalize_dtype(np.float64)


def _category(dtype: Any) -> int:
    if jnp.issubdtype(dtype, jnp.floating):
        return 2
    return _CATEGORY[np.dtype(dtype).kind]


def _scalar_dtype(value: Any) -> Any:
    if isinstance(value, bool):
        return np.dtype(bool)
    if isinstance(value, int):
        return jax.dtypes.canonicalize_dtype(np.int64)
    if isinstance(value, float):
        return default_float()
    return jax.dtypes.canonicalize_dtype(np.complex128)


def result_dtype(*args: Any) -> Any:
    """Torch's result type: arrays with axes win over 0-d arrays, those over Python numbers, within a category."""
    levels: list[Any] = [None, None, None]
    for a in args:
        level = (0 if a.ndim else 1) if hasattr(a, "dtype") else 2
        dtype = a.dtype if hasattr(a, "dtype") else _scalar_dtype(a)
        levels[level] = dtype if levels[level] is None else _wider(levels[level], dtype)
    result = None
    for level in levels:
        if level is not None and (result is None or _category(level) > _category(result)):
            # A Python float meeting an integer array, or a float of lower priority: the float's own type.
            result = level
    return result


def _wider(a: Any, b: Any) -> Any:
    if a == b:
        return a
    if {np.dtype(a).name, np.dtype(b).name} == {"float16", "bfloat16"}:
        return np.dtype(np.float32)
    if _category(a) == _category(b) == 2:
        return a if np.dtype(a).itemsize >= np.dtype(b).itemsize else b
    if _category(a) == 2 and _category(b) < 2:
        return a
    if _category(b) == 2 and _category(a) < 2:
        return b
    return np.promote_types(a, b)


def inexact(dtype: Any) -> Any:
    """The dtype in which a float-valued function of ``dtype`` is computed."""
    return dtype if _category(dtype) >= 2 else default_float()


def cast(value: Any, dtype: Any) -> Array:
    """Convert to a dtype, explicitly."""
    return jax.lax.convert_element_type(
        jnp.asarray(value) if hasattr(value, "dtype") else np.asarray(value, dtype), dtype
    )


def same_rank(*arrays: Array) -> list[Array]:
    """Add leading axes of length one, so that ranks agree."""
    rank = max(a.ndim for a in arrays)
    return [a if a.ndim in (0, rank) else jnp.reshape(a, (1,) * (rank - a.ndim) + a.shape) for a in arrays]


def promote(*args: Any, float: bool = False, dtype: Any = None) -> list[Array]:  # noqa: A002
    """Cast to torch's common type and bring to a common rank.

    Args:
        *args: arrays and Python numbers.
        float: promote integers to float, as true division and transcendental functions do.
        dtype: use this type instead of the common one.
    """
    common = result_dtype(*args) if dtype is None else dtype
    if float:
        common = inexact(common)
    return same_rank(*[cast(a, common) for a in args])


def broadcast(*args: Any, float: bool = False) -> list[Array]:  # noqa: A002
    """`promote`, then broadcast to one shape."""
    arrays = promote(*args, float=float)
    shape = jnp.broadcast_shapes(*[a.shape for a in arrays])
    return [jnp.broadcast_to(a, shape) for a in arrays]


def truth(x: Any) -> Array:
    """Whether entries differ from zero."""
    array = jnp.asarray(x)
    return array if array.dtype == bool else array != jnp.zeros((), array.dtype)


def absolute(x: Array) -> Array:
    """|x| with derivative zero at zero, as in torch (JAX takes one)."""
    return jnp.abs(x) if jnp.issubdtype(x.dtype, jnp.complexfloating) else x * jnp.sign(x)
