"""From one end of an interpolant to the other with noise: as much as one likes, the law at each time is the same."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal, TypeAlias, get_args

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PyTree

from ...models._types import Key
from .._checks import check_key, check_positive
from ._fields import AbstractFields
from ._points import check_points
from ._runge_kutta import over_points
from ._times import make_times

Diffusion: TypeAlias = Float[Array, ""] | float | Callable[[Float[Array, ""]], Float[Array, ""]]
"""A number of at least zero, or a function of time: squared units of the points per unit of time, halved."""
SDERule: TypeAlias = Literal["euler", "heun"]


def diffuse(
    key: Key,
    fields: AbstractFields,
    x: Float[Array, "n *event"],
    *,
    epsilon: Diffusion = 1.0,
    num_steps: int = 500,
    times: Any = None,
    rule: SDERule = "heun",
    reverse: bool = False,
    condition: PyTree = None,
) -> Float[Array, "n *event"]:
    """Move points along ``dX = (b + epsilon s) dt + sqrt(2 epsilon) dW`` in fixed steps.

    The law of X at each time is that of the interpolant whatever epsilon is, as far as the fields are exact; the larger
    it is, the more errors of the velocity are mended on the way, and the more steps are needed: about
    ``epsilon / (smallest variance)`` times a few. Backward it is ``dX = (b - epsilon s) dt + sqrt(2 epsilon) dW``.

    Args:
        key: typed key.
        fields: fields of an interpolant.
        x: points at the first time: draws of the base, or with ``reverse`` of the target.
        epsilon: how much noise, a number or a function of time; zero for none.
        num_steps: steps from 0 to 1, unless ``times`` are given.
        times: increasing times in [0, 1].
        rule: "euler" (weak order 1, one evaluation a step) or "heun" (weak order 2 for an epsilon that does not depend
            on time, two evaluations).
        reverse: from the last time to the first.
        condition: passed on to the fields, one leading entry per point.

    Returns:
        The points at the last time. Memory: that of two sets of points.

    Reference: Albergo, Boffi, Vanden-Eijnden, Stochastic interpolants, arXiv:2303.08797, eq. 2.33 and 2.35.
    """
    if rule not in get_args(SDERule):
        raise ValueError(f"rule={rule!r}: expected one of {list(get_args(SDERule))}.")
    x, condition = check_points(fields, x, condition)
    grid = make_times(times, num_steps, x.dtype, reverse=reverse)
    return _diffuse(check_key(key), fields, x, grid, make_diffusion(epsilon, x.dtype), condition, rule)


def make_diffusion(epsilon: Any, dtype: Any) -> Any:
    """Epsilon checked: a number as an array, a function of time as it is."""
    if not callable(epsilon):
        return check_positive("epsilon", epsilon, dtype, "units of variance", zero=True)
    with jax.ensure_compile_time_eval():
        for time in (0.25, 0.5, 0.75):
            level = diffusion_at(epsilon, jnp.asarray(time, dtype))
            if not isinstance(level, jax.core.Tracer) and not float(level) >= 0.0:
                raise ValueError(f"epsilon({time}) is {float(level):g}: expected at least zero at all times.")
    return epsilon


def diffusion_at(epsilon: Any, t: Float[Array, ""]) -> Float[Array, ""]:
    """Epsilon at one time."""
    if not callable(epsilon):
        return epsilon
    level = jnp.asarray(epsilon(t), t.dtype)
    if level.shape != ():
        raise ValueError(f"epsilon(t) has shape {level.shape}: expected one number, the same for all coordinates.")
    return level


def drift(
    fields: AbstractFields, epsilon: Any, t: Array, points: Array, condition: PyTree, direction: Array
) -> Float[Array, "n *event"]:
    """``b + epsilon s`` forward (``direction`` 1), ``b - epsilon s`` backward (-1)."""
    level = direction * diffusion_at(epsilon, t)

    def one(t: Array, x: Array, condition: PyTree = None) -> Array:
        return fields.drift(t, x, condition, level=level)

    return over_points(one, t, points, condition)


@eqx.filter_jit
def _diffuse(
    key: Key, fields: AbstractFields, x: Array, grid: Array, epsilon: Any, condition: PyTree, rule: SDERule
) -> Array:
    def step(points: Array, interval: tuple[Array, Array, Array]) -> tuple[Array, None]:
        t, end, key = interval
        h = end - t
        direction = jnp.sign(h)
        # Where epsilon depends on time, the noise of a step is that of its middle.
        spread = jnp.sqrt(2.0 * diffusion_at(epsilon, t + 0.5 * h) * jnp.abs(h))
        shock = spread * jax.random.normal(key, points.shape, points.dtype)
        first = drift(fields, epsilon, t, points, condition, direction)
        if rule == "euler":
            return points + h * first + shock, None
        second = drift(fields, epsilon, end, points + h * first + shock, condition, direction)
        return points + 0.5 * h * (first + second) + shock, None

    keys = jax.random.split(key, len(grid) - 1)
    return jax.lax.scan(step, x, (grid[:-1], grid[1:], keys))[0]
