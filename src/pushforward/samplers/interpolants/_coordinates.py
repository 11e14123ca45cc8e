"""Coordinates in which the velocity of a path is nearly straight, so that few steps do."""

from __future__ import annotations

from typing import Literal, TypeAlias, get_args

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, PyTree

from ._fields import AbstractFields
from ._path import AbstractPath
from ._runge_kutta import over_points

Coordinate: TypeAlias = Literal["time", "noise", "straight"]
"""Of which variable a rule takes steps: see `flow`."""
FARTHEST = 1e8
"""Stands for an infinite logarithm: a weight that should be zero is one in this."""


class Chart(eqx.Module):
    """A grid of times in coordinates ``y = x / lift`` and ``u`` with ``dy / du = slope``.

    A step whose integral of the slope is D takes x to ``scale x + lift D``. In the log-ratio of signal to noise, the
    integral is that of ``exp(u - end of the step)`` times the slope.

    Attributes:
        u: the variable at every time of the grid.
        scale: what a step multiplies the point by.
        lift: what it multiplies the integral of the slope by.
        singular: whether the slope has no value at a time, as the noise has none left there.
        kind: the coordinate.
    """

    grid: Float[Array, " time"]
    u: Float[Array, " time"]
    scale: Float[Array, " step"]
    lift: Float[Array, " step"]
    singular: Bool[Array, " time"]
    kind: str = eqx.field(static=True)

    def slope(
        self, fields: AbstractFields, t: Float[Array, ""], x: Float[Array, "n *event"], condition: PyTree
    ) -> Float[Array, "n *event"]:
        """What is integrated: one evaluation of the fields a point."""

        def one(t: Array, x: Array, condition: PyTree = None) -> Array:
            if self.kind == "time":
                return fields.velocity(t, x, condition)
            if self.kind == "noise":
                return fields.noise(t, x, condition)
            data = fields.ends(t, x, condition)[-1]
            return data if self.kind == "log-ratio" else fields.noise(t, x, condition) - data

        return over_points(one, t, x, condition)


def make_chart(path: AbstractPath, grid: Float[Array, " time"], kind: str) -> Chart:
    """The chart of a path along a grid.

    Raises:
        ValueError: for a coordinate that the path does not have, or that has no value at the first time.
    """
    if kind not in (*get_args(Coordinate), "log-ratio"):
        raise ValueError(f"coordinate={kind!r}: expected one of {list(get_args(Coordinate))}.")
    # A chart of known times is known in compiled code too.
    with jax.ensure_compile_time_eval():
        return _make_chart(path, grid, kind)


def _make_chart(path: AbstractPath, grid: Array, kind: str) -> Chart:
    ones = jnp.ones_like(grid)
    if kind == "time":
        return Chart(grid, grid, ones[1:], ones[1:], grid < -1.0, kind)
    if path.num_ends != 1:
        raise ValueError(
            f"{type(path).__name__} has two ends, and steps of noise levels need a path from noise, such as "
            "OneSidedLinear or VariancePreserving: use coordinate='time' and one of the rules euler, heun, rk4, "
            "AdamsBashforth, HeavyBall, GHVB."
        )
    signal, noise = levels(path, grid)
    if not isinstance(noise, jax.core.Tracer) and float(noise[0]) == 0.0:
        raise ValueError(
            f"{type(path).__name__} has no noise at time {float(grid[0]):g}, from which steps of noise levels cannot "
            "start: use coordinate='time' with the rules euler, heun or rk4."
        )
    singular = noise == 0.0
    if kind == "log-ratio":
        positive = (signal > 0) & (noise > 0)
        logs = jnp.log(jnp.where(positive, signal, 1.0)) - jnp.log(jnp.where(positive, noise, 1.0))
        u = jnp.where(positive, logs, jnp.where(singular, FARTHEST, -FARTHEST))
        return Chart(grid, u, noise[1:] / noise[:-1], signal[1:], singular, kind)
    if kind == "noise":
        if not isinstance(signal, jax.core.Tracer) and float(signal[0]) == 0.0:
            raise ValueError(
                f"{type(path).__name__} has nothing of the data at time {float(grid[0]):g}, where the ratio of noise "
                "to data is infinite: use coordinate='straight'."
            )
        lift = signal
    else:
        lift = signal + noise
    return Chart(grid, noise / lift, lift[1:] / lift[:-1], lift[1:], singular, kind)


def levels(path: AbstractPath, times: Float[Array, " time"]) -> tuple[Float[Array, " time"], Float[Array, " time"]]:
    """Coefficients of the data and of the noise of a path with one end."""
    return jax.vmap(path.coefficients)(times)[:, 0], jax.vmap(path.gamma)(times)


def times_at(path: AbstractPath, ratios: Float[np.ndarray, " time"], tolerance: float = 1e-15) -> np.ndarray:
    """Times at which noise over data has given values, on a path along which that falls: by bisection."""
    low, high = np.zeros(ratios.shape), np.ones(ratios.shape)
    while np.max(high - low) > tolerance:
        middle = 0.5 * (low + high)
        if ((middle == low) | (middle == high)).all():
            break
        with jax.ensure_compile_time_eval():
            signal, noise = (np.asarray(level, float) for level in levels(path, jnp.asarray(middle)))
        above = noise > ratios * signal
        low, high = np.where(above, middle, low), np.where(above, high, middle)
    return 0.5 * (low + high)
