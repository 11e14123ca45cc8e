"""Steps that reuse the slopes of the steps before: one evaluation each, whatever the order."""

from __future__ import annotations

import math
from typing import ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PyTree

from .._checks import check_count
from ._coordinates import Chart
from ._fields import AbstractFields


class AbstractMultistep(eqx.Module):
    """``D_n = m_n D_{n-1} + h_n sum_j w_nj f_{n-j}``, the displacement of step n from slopes f and the step before.

    The weights make the step exact where the slope is a polynomial of degree below ``order`` in the variable that is
    stepped in, however unequal the steps are: with nodes ``s_j`` of past slopes in units of the step, they are
    integrals of Lagrange's polynomials, which only need the moments that a rule gives. The first steps have the orders
    1, 2 and so on. From order 3 on the first step is repeated with the slope at its end, which makes its error third
    order too, at the price of one evaluation; order 4 is therefore reached from short first steps only.

    Attributes:
        order: how many slopes are used, 1 to 4.
    """

    order: eqx.AbstractVar[int]
    kind: ClassVar[str | None] = None

    def momentum(self, ratio: Float[Array, ""]) -> Float[Array, ""]:
        """Share of the displacement before that is kept, by a step ``ratio`` times as long: by default nothing."""
        return jnp.zeros_like(ratio)

    def moments(self, moments: Float[Array, " order"], ratio: Float[Array, ""]) -> Float[Array, " order"]:
        """``sum_j w_j s_j^p`` for p below the order, from the integrals of these powers: by default those."""
        return moments


class AdamsBashforth(AbstractMultistep):
    """The multistep method of Adams and Bashforth with unequal steps.

    Args:
        order: 1 to 4. The real stability limits are -2, -1, -6/11 and -0.3.
    """

    order: int = eqx.field(static=True)

    def __init__(self, order: int = 2) -> None:
        self.order = check_order(order)


def power_moments(kind: str, order: int, step: Float[Array, ""]) -> Float[Array, " order"]:
    """``int_0^1 s^p ds``; on the log-ratio ``int_0^1 exp(-h (1 - s)) s^p ds``, without cancellation for small h."""
    if kind != "log-ratio":
        return 1.0 / jnp.arange(1, order + 1, dtype=step.dtype)
    small = jnp.minimum(step, 2.0)
    large = jnp.maximum(step, 2.0)
    series = jnp.stack(
        [sum((-small) ** m * (math.factorial(p) / math.factorial(p + m + 1)) for m in range(26)) for p in range(order)]
    )
    recursion = [-jnp.expm1(-large) / large]
    for p in range(1, order):
        recursion.append((1.0 - p * recursion[-1]) / large)
    return jnp.where(step < 2.0, series, jnp.stack(recursion))


def lagrange_weights(nodes: list[Array], moments: Float[Array, " k"]) -> Float[Array, " k"]:
    """Integrals of Lagrange's polynomials on the nodes, from the moments of the integral."""
    weights = []
    for j, node in enumerate(nodes):
        # Coefficients of prod (s - s_i) / (s_j - s_i), constant term first.
        polynomial = [jnp.ones_like(node)]
        for i, other in enumerate(nodes):
            if i == j:
                continue
            gap = node - other
            raised = [jnp.zeros_like(node), *polynomial]
            lowered = [*polynomial, jnp.zeros_like(node)]
            polynomial = [(up - other * same) / gap for up, same in zip(raised, lowered, strict=True)]
        weights.append(sum(c * m for c, m in zip(polynomial, moments, strict=True)))
    return jnp.stack(weights)


def step_weights(rule: AbstractMultistep, chart: Chart, index: Array, order: int) -> Float[Array, " slope"]:
    """Weights of the slopes at a step and before, times the length of the step; newest first, padded with zeros."""
    u = chart.u
    past = [u[jnp.maximum(index - j, 0)] for j in range(order)]
    h, before = u[index + 1] - past[0], past[0] - u[jnp.maximum(index - 1, 0)]
    length = jnp.where(h == 0.0, 1.0, h)
    moments = power_moments(chart.kind, order, length)
    # Nothing came before the first step, which is plain.
    ratio = length / jnp.where(before == 0.0, length, before)
    moments = jnp.where(index == 0, moments, rule.moments(moments, ratio))
    weights = lagrange_weights([(value - past[0]) / length for value in past], moments)
    return jnp.zeros(rule.order, u.dtype).at[:order].set(h * weights)


def multistep(
    rule: AbstractMultistep, fields: AbstractFields, x: Float[Array, "n *event"], chart: Chart, condition: PyTree
) -> Float[Array, "n *event"]:
    """Steps along a chart: as many evaluations as steps, one more from order 3 on. Memory: ``order`` clouds."""
    count = len(chart.grid) - 1
    indices = jnp.arange(count)
    weights = jnp.zeros((count, rule.order), chart.u.dtype)
    for order in range(1, rule.order + 1):
        found = jax.vmap(lambda index, order=order: step_weights(rule, chart, index, order))(indices)
        # The last step to where no noise is left is endless in the log-ratio: nothing can be extrapolated over it.
        usable = (indices + 1 >= order) & ~chart.singular[1:] & jnp.isfinite(found).all(axis=1)
        weights = jnp.where(usable[:, None] | (order == 1), found, weights)
    steps = jnp.diff(chart.u)
    before = jnp.roll(steps, 1)
    kept = jnp.where(indices > 0, rule.momentum(steps / jnp.where(before == 0.0, 1.0, before)), 0.0)

    def advance(state: tuple[Array, Array, Array], step: tuple[Array, ...]) -> tuple[tuple[Array, Array, Array], None]:
        points, displacement, slopes = state
        t, scale, lift, momentum, weight = step
        slopes = jnp.concatenate([chart.slope(fields, t, points, condition)[None], slopes[:-1]])
        displacement = momentum * displacement + jnp.tensordot(weight, slopes, 1)
        return (scale * points + lift * displacement, displacement, slopes), None

    state = (x, jnp.zeros_like(x), jnp.zeros((rule.order, *x.shape), x.dtype))
    table = (chart.grid[:-1], chart.scale, chart.lift, kept, weights)
    if rule.order > 2 and count > 1:
        (ahead, _, slopes), _ = advance(state, jax.tree.map(lambda column: column[0], table))
        h = steps[0]
        both = h * lagrange_weights([jnp.ones_like(h), jnp.zeros_like(h)], power_moments(chart.kind, 2, h))
        displacement = both[0] * chart.slope(fields, chart.grid[1], ahead, condition) + both[1] * slopes[0]
        state = (chart.scale[0] * x + chart.lift[0] * displacement, displacement, slopes)
        table = jax.tree.map(lambda column: column[1:], table)
    return jax.lax.scan(advance, state, table)[0][0]


def check_order(order: int, largest: int = 4) -> int:
    """An order of a multistep rule."""
    order = check_count("order", order, 1)
    if order > largest:
        raise ValueError(f"order={order}: expected at most {largest}.")
    return order
