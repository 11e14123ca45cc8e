"""The times at which a path is visited."""

from __future__ import annotations

from typing import Any

import jax
import numpy as np
from jaxtyping import Array, Bool, Float

from .._checks import check_count, check_floats


def make_times(times: Any, num_steps: int, dtype: Any, *, reverse: bool = False) -> Float[Array, " step"]:
    """Times from 0 to 1, evenly spread where none are given; the other way round for ``reverse``.

    Raises:
        ValueError: for times that do not increase, or that leave [0, 1].
    """
    num_steps = check_count("num_steps", num_steps, 1)
    # What is known is checked, and steps are planned from it, in compiled code too.
    with jax.ensure_compile_time_eval():
        if times is None:
            # Whole multiples keep symmetric grids symmetric, and the last time exactly one.
            found = jax.numpy.asarray(np.arange(num_steps + 1) / num_steps, dtype)
        else:
            found = check_floats("times", times, "step").astype(dtype)
            if not isinstance(found, jax.core.Tracer):
                held = np.asarray(found)
                if len(held) < 2 or not (np.diff(held) > 0).all() or held[0] < 0 or held[-1] > 1:
                    raise ValueError(
                        f"times={held}: expected at least two, increasing, within [0, 1] and in {dtype}; for the way "
                        "back pass them increasing too, with reverse=True."
                    )
        return found[::-1] if reverse else found


def check_span(start: float, end: float) -> None:
    """Two different times in [0, 1]."""
    for name, time in (("start", start), ("end", end)):
        try:
            valid = 0.0 <= float(time) <= 1.0
        except (TypeError, ValueError):
            valid = False
        if not valid:
            raise ValueError(f"{name}={time!r}: expected a time in [0, 1].")
    if start == end:
        raise ValueError(f"start and end are both {start!r}: expected two times.")


def check_arrived(arrived: Bool[Array, " n"], end: float, max_steps: int) -> None:
    """That every point came to the end within its steps; not checked inside compiled code."""
    if isinstance(arrived, jax.core.Tracer) or bool(arrived.all()):
        return
    lost = np.flatnonzero(~np.asarray(arrived))
    raise FloatingPointError(
        f"{len(lost)} of {len(arrived)} points (the first is number {lost[0]}) had not arrived at time {end:g} after "
        f"max_steps={max_steps}: expected fields that are finite along the way; raise rtol and atol, or max_steps."
    )


def inside(t: Float[Array, ""]) -> Float[Array, ""]:
    """The nearest time at which quotients that are singular at an end of time are finite."""
    edge = float(jax.numpy.finfo(t.dtype).eps) ** 0.5
    return jax.numpy.clip(t, edge, 1.0 - edge)
