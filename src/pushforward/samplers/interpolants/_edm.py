"""The stochastic sampler of Karras et al.: noise is added, and Heun's method takes off more than that."""

from __future__ import annotations

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PyTree

from ...models._types import Key
from .._checks import check_key, check_positive
from ._coordinates import Chart, levels, make_chart, times_at
from ._fields import AbstractFields
from ._ode import charted_step
from ._path import is_known
from ._points import check_points
from ._times import make_times


def edm(
    key: Key,
    fields: AbstractFields,
    x: Float[Array, "n *event"],
    *,
    num_steps: int = 40,
    times: Any = None,
    churn: Any = 10.0,
    lowest: Any = 0.0,
    highest: Any = np.inf,
    noise_scale: Any = 1.0,
    condition: PyTree = None,
) -> Float[Array, "n *event"]:
    """Move points from noise to data, with some noise put back before every step.

    A step from the ratio sigma of noise to data first goes back to ``sigma (1 + min(churn / steps, sqrt 2 - 1))`` by
    adding noise of that variance, and from there to the ratio at its end by Heun's method, or Euler's where no noise
    is left. Two evaluations a step; without churn it is ``flow(fields, x, coordinate="noise")``.

    Args:
        key: typed key.
        fields: fields of a path from noise, with some of the data at time zero.
        x: draws of the base.
        num_steps: steps from 0 to 1, unless ``times`` are given.
        times: increasing times in [0, 1]; `spaced_times` with "power" are those of Karras et al.
        churn: how much noise is put back, about the total increase of log sigma; zero for none.
        lowest: smallest ratio of noise to data at which noise is put back.
        highest: largest such ratio. At the start there is no more noise to be had than the base has, and none is added.
        noise_scale: standard deviation of the noise put back; a little above one makes up for predictions that are too
            smooth, at the price of a bias.
        condition: passed on to the fields, one leading entry per point.

    Returns:
        The points at the last time. Of second order without churn; exact in the limit of many steps with it.

    Raises:
        ValueError: for paths whose ratio of noise to data is infinite or does not exist.

    Reference: Karras et al., Elucidating the design space, arXiv:2206.00364, algorithm 2.
    """
    x, condition = check_points(fields, x, condition)
    grid = make_times(times, num_steps, x.dtype)
    chart = make_chart(fields.path, grid, "noise")
    if not is_known((fields.path, grid)):
        raise ValueError(
            "Path or times are arguments of compiled code, and where noise is put back is planned from their numbers: "
            "make them constants of it."
        )
    # Planned from numbers, in compiled code too.
    with jax.ensure_compile_time_eval():
        amount = float(check_positive("churn", churn, unit="no units", zero=True))
        low = float(check_positive("lowest", lowest, unit="no units", zero=True))
        scale = check_positive("noise_scale", noise_scale, x.dtype, "no units", zero=True)
        high = np.inf if highest == np.inf else float(check_positive("highest", highest, unit="no units"))
        if high <= low:
            raise ValueError(f"lowest={low:g} and highest={high:g}: expected a range of noise over data.")
        sigma = np.asarray(chart.u, float)
        share = np.where((sigma >= low) & (sigma <= high), min(amount / (len(sigma) - 1), 2.0**0.5 - 1.0), 0.0)
        raised = np.minimum(sigma * (1.0 + share), sigma[0])[:-1]
        starts = np.where(raised > sigma[:-1], times_at(fields.path, raised), np.asarray(grid[:-1], float))
        signal, _ = levels(fields.path, jnp.asarray(starts, x.dtype))
        added = signal * jnp.asarray(np.sqrt(np.maximum(raised**2 - sigma[:-1] ** 2, 0.0)), x.dtype) * scale
        table = (
            jnp.asarray(starts, x.dtype),
            grid[1:],
            chart.lift / signal,
            chart.lift,
            jnp.asarray(sigma[1:] - raised, x.dtype),
            chart.singular[1:],
        )
        first, _ = levels(fields.path, grid[:-1])
    return _edm(check_key(key), fields, x, chart, table, signal / first, added, condition)


@eqx.filter_jit
def _edm(
    key: Key,
    fields: AbstractFields,
    x: Array,
    chart: Chart,
    table: tuple[Array, ...],
    shrunk: Array,
    added: Array,
    condition: PyTree,
) -> Array:
    def advance(points: Array, inputs: tuple[Array, ...]) -> tuple[Array, None]:
        key, shrink, spread, *step = inputs
        noisy = shrink * points + spread * jax.random.normal(key, points.shape, points.dtype)
        return charted_step(fields, chart, noisy, tuple(step), condition, correct=True), None

    keys = jax.random.split(key, len(added))
    return jax.lax.scan(advance, x, (keys, shrunk, added, *table))[0]
