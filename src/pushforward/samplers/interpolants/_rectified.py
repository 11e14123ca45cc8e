"""Rectified flows: pairs made by a flow, and how straight its ways are."""

from __future__ import annotations

from typing import Any, NamedTuple

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Float, PyTree

from ._fields import AbstractFields
from ._ode import flow
from ._points import check_points
from ._runge_kutta import Rule, integrate, over_points
from ._times import make_times


class Straightness(NamedTuple):
    """How much points turn on their way. Zero for straight ways at constant speed, which one Euler step follows."""

    value: Float[Array, ""]
    """``E int_0^1 |X_1 - X_0 - b(t, X_t)|^2 dt``."""
    standard_error: Float[Array, ""]
    cost: Float[Array, ""]
    """``E |X_1 - X_0|^2``, what ``value`` can be compared with."""


def reflow(
    fields: AbstractFields,
    base: Float[Array, "n *event"],
    *,
    num_steps: int = 100,
    rule: Rule = "heun",
    condition: PyTree = None,
) -> tuple[Float[Array, "n *event"], Float[Array, "n *event"]]:
    """Pairs of draws of the base and where the flow takes them, to train a straighter flow on.

    The flow trained on these pairs, ``train(key, Linear(NoNoise()), *reflow(fields, base), coupling=Paired())``, has
    the same ends as ``fields``, and a transport cost that is no larger for any convex cost.

    Args:
        fields: fields of an interpolant.
        base: draws at time 0; on a path with one end draws of the noise, of standard deviation ``path.gamma(0)``.
        num_steps: steps of the flow.
        rule: see `flow`.
        condition: passed on to the fields, one leading entry per point; pass it to `train` too.

    Returns:
        ``(base, ends)``. Bias: errors of the flow stay in the pairs.

    Reference: Liu, Gong, Liu, Flow straight and fast, arXiv:2209.03003, section 2.2 and theorem 3.5.
    """
    base, condition = check_points(fields, base, condition)
    return base, flow(fields, base, num_steps=num_steps, rule=rule, condition=condition)


def straightness(
    fields: AbstractFields,
    base: Float[Array, "n *event"],
    *,
    num_steps: int = 100,
    times: Any = None,
    rule: Rule = "heun",
    condition: PyTree = None,
) -> Straightness:
    """How far the ways of a flow are from straight lines.

    Args:
        fields: fields of an interpolant.
        base: draws at time 0.
        num_steps: steps of the flow, unless ``times`` are given.
        times: increasing times in [0, 1].
        rule: see `flow`.
        condition: passed on to the fields, one leading entry per point.

    Returns:
        The mean over points, its standard error, and the squared distance of the ends.

    Bias: that of the integration. Memory: that of a few sets of points.

    Reference: Liu, Gong, Liu, Flow straight and fast, arXiv:2209.03003, eq. 5.
    """
    base, condition = check_points(fields, base, condition)
    return _straightness(fields, base, make_times(times, num_steps, base.dtype), condition, rule)


@eqx.filter_jit
def _straightness(fields: AbstractFields, base: Array, grid: Array, condition: PyTree, rule: Rule) -> Straightness:
    axes = tuple(range(1, base.ndim))

    # int |D - b|^2 = int |b|^2 - |D|^2 as D = int b: one pass, without the ways being stored.
    def moving(t: Array, state: tuple[Array, Array]) -> tuple[Array, Array]:
        velocity = over_points(fields.velocity, t, state[0], condition)
        return velocity, jnp.sum(velocity**2, axis=axes)

    ends, energy = integrate(moving, (base, jnp.zeros(base.shape[:1], base.dtype)), grid, rule)
    squares = jnp.sum((ends - base) ** 2, axis=axes)
    bends = energy - squares / (grid[-1] - grid[0])
    error = jnp.std(bends) / jnp.sqrt(jnp.asarray(base.shape[0], base.dtype))
    return Straightness(jnp.mean(bends), error, jnp.mean(squares))
