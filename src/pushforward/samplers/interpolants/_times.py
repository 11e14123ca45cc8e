"""The times at which a path is visited."""

from __future__ import annotations

from typing import Any

import jax
import numpy as np
from jaxtyping import Array, Float

from .._checks import check_count, check_floats


def make_times(times: Any, num_steps: int, dtype: Any, *, reverse: bool = False) -> Float[Array, " step"]:
    """Times from 0 to 1, evenly spread where none are given; the other way round for ``reverse``.

    Raises:
        ValueError: for times that do not increase, or that leave [0, 1].
    """
    num_steps = check_count("num_steps", num_steps, 1)
    if times is None:
        # Whole multiples keep symmetric grids symmetric, and the last time exactly one.
        found = jax.numpy.asarray(np.arange(num_steps + 1) / num_steps, dtype)
    else:
        found = check_floats("times", times, "step").astype(dtype)
        if not isinstance(found, jax.core.Tracer):
            held = np.asarray(found)
            if len(held) < 2 or not (np.diff(held) > 0).all() or held[0] < 0 or held[-1] > 1:
                raise ValueError(
                    f"times={held}: expected at least two, increasing, within [0, 1]; for the way back pass them "
                    "increasing too, with reverse=True."
                )
    return found[::-1] if reverse else found


def inside(t: Float[Array, ""]) -> Float[Array, ""]:
    """The nearest time at which quotients that are singular at an end of time are finite."""
    edge = float(jax.numpy.finfo(t.dtype).eps) ** 0.5
    return jax.numpy.clip(t, edge, 1.0 - edge)
