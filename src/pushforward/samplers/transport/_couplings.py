"""Pairs of points of two batches, for training flows between their laws."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from ...models._types import Key
from .._checks import as_array, check_flag, check_key, check_positive
from ._arguments import make_geometry
from ._assignment import assignment
from ._solution import Transport
from ._solve import solve

Pairs = tuple[Int[Array, " n"], Int[Array, " n"]]

_TOLERANCE = 1e-3
"""Marginal error of the entropic plan: beside the noise of drawing pairs nothing."""


def coupling(
    key: Key,
    x: Any,
    y: Any,
    *,
    cost: Any = "sqeuclidean",
    condition: Any = None,
    condition_weight: Any = 1.0,
    epsilon: Any = None,
    replace: bool = False,
) -> Pairs:
    """Draw pairs of a batch x with a batch y by optimal transport between the two.

    Without replacement every row of x is used once and no row of y twice, so that a batch keeps both marginals.
    With ``epsilon=None`` that is the cheapest matching. With an epsilon rows of x choose in random order among the rows
    of y that are left, with the probabilities of the entropic plan: towards the cheapest matching as epsilon falls,
    uniform among all as it grows, and in between close to the plan, not equal to it. With replacement pairs are
    independent draws from the plan.

    Minibatch transport is biased towards independent pairs: its law tends to the optimal coupling as batches grow.

    Works inside compiled code. Cost: O(n^2 m) at worst for the matching; with an epsilon that of `solve` and O(n m).

    Args:
        key: a key; the cheapest matching without replacement is the same for all.
        x: points (n, d), commonly noise.
        y: points (m, d), commonly data; without replacement m is at least n.
        cost: as for `solve`, a matrix excepted.
        condition: what y is conditioned on, one entry per row; n = m then, and row i of x is taken to come with the
            condition of row i of y, of which it is independent. Integers are labels: only rows of equal labels are
            paired. Floating-point conditions, (m,) or (m, c), add ``condition_weight |c_i - c_j|^2`` to the cost.
            Without this, transport makes the noise depend on the condition, which it does not when samples are drawn.
            A pair of arrays gives x conditions of its own; where labels do not match up, as few pairs as possible
            differ.
        condition_weight: positive.
        epsilon: regularisation, in units of the cost; None for none.
        replace: whether rows may be drawn more than once.

    Returns:
        Rows of x and rows of y, each of shape (n,).

    Raises:
        ValueError: for fewer rows in y than in x without replacement, conditions that do not fit, or bad points.

    Reference: Tong et al., Improving and generalizing flow-based generative models with minibatch optimal transport,
    arXiv:2302.00482, section 4; conditions: Cheng and Schwing, The curse of conditions, arXiv:2503.10636, section 3.
    """
    key = check_key(key)
    if not isinstance(cost, str) and not callable(cost):
        raise ValueError(f"cost is {type(cost).__name__}: expected a name or a function of two points.")
    geometry = jax.lax.stop_gradient(make_geometry(x, y, cost))
    (n, m), dtype = geometry.shape, geometry.dtype
    replace = check_flag("replace", replace)
    if not replace and n > m:
        raise ValueError(f"x has {n} rows and y has {m}: expected at least as many in y to draw without replacement.")
    level = None if epsilon is None else check_positive("epsilon", epsilon, dtype)
    weight = check_positive("condition_weight", condition_weight, dtype, "cost per squared distance of conditions")
    costs = geometry.cost_rows(jnp.arange(n))
    if condition is not None:
        costs = _conditioned(costs, condition, weight, level)
    if level is None:
        return _matched(key, costs, replace)
    plan = solve(cost=costs, epsilon=level, tolerance=_TOLERANCE)
    if replace:
        rows, columns = plan.sample(key, n)
        return rows, columns
    return _drawn(key, plan)


def _conditioned(
    costs: Float[Array, "n m"], condition: Any, weight: Float[Array, ""], epsilon: Float[Array, ""] | None
) -> Float[Array, "n m"]:
    n, m = costs.shape
    pair = condition if isinstance(condition, tuple) else (condition, condition)
    if len(pair) != 2:
        raise ValueError(f"condition has {len(pair)} entries: expected an array, or one for x and one for y.")
    expected = (
        "numbers, or whole numbers as labels; of names make those with numpy.unique(names, return_inverse=True)[1]"
    )
    one, other = (as_array("condition", each, expected) for each in pair)
    if one.shape[:1] != (n,) or other.shape[:1] != (m,) or one.shape[1:] != other.shape[1:] or one.ndim > 2:
        raise ValueError(
            f"condition has shapes {one.shape} for {n} rows of x and {other.shape} for {m} of y: expected one entry, "
            "or one row, for each; a single array serves both only where they have the same number."
        )
    floating = [jnp.issubdtype(each.dtype, jnp.floating) for each in (one, other)]
    for each in (one, other):
        if not isinstance(each, jax.core.Tracer) and floating[0] and not np.isfinite(np.asarray(each)).all():
            raise ValueError(
                "condition has entries that are not finite: expected finite ones. Drop or mend those rows."
            )
    if floating[0] != floating[1]:
        raise ValueError(
            f"condition has dtypes {one.dtype} and {other.dtype}: expected labels or numbers, not one of each."
        )
    one, other = jnp.reshape(one, (n, -1)), jnp.reshape(other, (m, -1))
    if floating[0]:
        one, other = jax.lax.stop_gradient((one.astype(costs.dtype), other.astype(costs.dtype)))
        parts = [(one[:, k, None] - other[None, :, k]) ** 2 for k in range(one.shape[1])]
        return costs + weight * sum(parts, jnp.zeros((), costs.dtype))
    differ = jnp.any(one[:, None, :] != other[None, :, :], axis=2)
    size = jnp.max(costs) - jnp.min(costs)
    # Dearer than all that a matching could save by it; for a plan it only has to be unlikely.
    penalty = (n + 1.0) * size if epsilon is None else 4.0 * size + 50.0 * epsilon
    return costs + jnp.where(differ, penalty, 0.0)


def _matched(key: Key, costs: Float[Array, "n m"], replace: bool) -> Pairs:
    n, m = costs.shape
    if n > m:
        # More rows than columns: the columns choose, some rows are left out, and draws are among the pairs made.
        columns = jnp.arange(m)
        rows = assignment(costs.T).columns
    else:
        rows, columns = jnp.arange(n), assignment(costs).columns
    if not replace:
        return rows, columns
    chosen = jax.random.randint(key, (n,), 0, rows.shape[0])
    return rows[chosen], columns[chosen]


def _drawn(key: Key, plan: Transport) -> Pairs:
    """Rows in random order draw from their conditionals among the columns that are left."""
    n, m = plan.problem.geometry.shape
    (f, g), epsilon = plan.potentials, plan.problem.epsilon
    costs = plan.problem.geometry.cost_rows(jnp.arange(n))
    logits = (f[:, None] + g[None, :] - costs) / epsilon
    to_order, to_noise = jax.random.split(key)
    order = jax.random.permutation(to_order, n)
    keys = jax.random.split(to_noise, n)

    def draw(left: Array, given: tuple[Array, Array]) -> tuple[Array, Array]:
        row, key = given
        noise = jax.random.gumbel(key, (m,), logits.dtype)
        column = jnp.argmax(jnp.where(left, logits[row] + noise, -jnp.inf))
        return left.at[column].set(False), column

    _, columns = jax.lax.scan(draw, jnp.ones((m,), bool), (order, keys))
    return jnp.arange(n), jnp.zeros((n,), columns.dtype).at[order].set(columns)
