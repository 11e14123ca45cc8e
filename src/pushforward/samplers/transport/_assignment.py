"""Exact assignment of the rows of a small cost matrix, by shortest augmenting paths."""

from __future__ import annotations

from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from .._checks import check_floats


class Assignment(eqx.Module):
    """The cheapest one-to-one matching, with the proof that it is.

    Attributes:
        columns: column of each row, shape (n,).
        cost: sum of the costs of the matched pairs; its derivative in the costs is the matching.
        potentials: u of shape (n,) and v of shape (m,), with ``u_i + v_j <= costs_ij`` and equality at matched pairs;
            for n < m also v at most zero, and zero for columns left over.
        gap: ``cost`` minus the best lower bound the potentials prove, infeasibility by rounding included.
    """

    columns: Int[Array, " n"]
    cost: Float[Array, ""]
    potentials: tuple[Float[Array, " n"], Float[Array, " m"]]
    gap: Float[Array, ""]


class _Search(NamedTuple):
    distance: Float[Array, " m"]
    """Length of the shortest path to each column."""
    before: Int[Array, " m"]
    """Row before it on that path."""
    settled: Array
    row: Int[Array, ""]
    reached: Float[Array, ""]
    sink: Int[Array, ""]
    """A free column, once one is reached."""


class _State(NamedTuple):
    columns: Int[Array, " n"]
    rows: Int[Array, " m"]
    u: Float[Array, " n"]
    v: Float[Array, " m"]


def assignment(costs: Any) -> Assignment:
    """Match every row to a column of its own at least total cost; exact.

    Compiled code that works under ``jax.vmap``; the cost is differentiable in ``costs``, almost everywhere.

    Args:
        costs: finite, shape (n, m) with n <= m.

    Returns:
        An `Assignment`.

    Raises:
        ValueError: for costs that are not finite, or more rows than columns.

    Cost: O(n^2 m) at worst; up to about 1,000 rows in seconds. Under ``vmap`` all matrices wait for the slowest.

    Reference: Jonker and Volgenant, A shortest augmenting path algorithm for dense and sparse linear assignment
    problems, 1987; Crouse, On implementing 2D rectangular assignment algorithms, 2016.

    Example:
        >>> import jax.numpy as jnp
        >>> assignment(jnp.array([[4.0, 1.0], [2.0, 0.0]])).columns.tolist()
        [1, 0]
    """
    costs = check_floats("costs", costs, "n, m")
    n, m = costs.shape
    if n > m:
        raise ValueError(f"costs has shape {costs.shape}: expected at most as many rows as columns; pass costs.T.")
    return _solve(costs)


@jax.jit
def _solve(costs: Float[Array, "n m"]) -> Assignment:
    fixed = jax.lax.stop_gradient(costs)
    state = _reduced(fixed)
    state = jax.lax.fori_loop(0, costs.shape[0], lambda row, state: _matched(fixed, row, state), state)
    cost = jnp.sum(jnp.take_along_axis(costs, state.columns[:, None], axis=1))
    # Lowering u by its worst violation makes the potentials feasible, also after rounding.
    violation = jnp.maximum(jnp.max(state.u[:, None] + state.v[None, :] - fixed, axis=1), 0.0)
    spare = costs.shape[0] < costs.shape[1]
    bound = jnp.sum(state.u - violation) + jnp.sum(jnp.minimum(state.v, 0.0) if spare else state.v)
    return Assignment(state.columns, cost, (state.u, state.v), jax.lax.stop_gradient(cost) - bound)


def _reduced(costs: Float[Array, "n m"]) -> _State:
    """Feasible potentials from column and row minima, and the pairs that they already make tight."""
    n, m = costs.shape
    # Columns may stay free only at v = 0: with columns to spare only rows are reduced.
    v = jnp.min(costs, axis=0) if n == m else jnp.zeros((m,), costs.dtype)
    reduced = costs - v[None, :]
    best = jnp.argmin(reduced, axis=1)
    u = jnp.take_along_axis(reduced, best[:, None], axis=1)[:, 0]
    rows = jnp.full((m,), n, best.dtype).at[best].min(jnp.arange(n, dtype=best.dtype))
    mine = rows[best] == jnp.arange(n)
    return _State(jnp.where(mine, best, -1), jnp.where(rows < n, rows, -1), u, v)


def _matched(costs: Float[Array, "n m"], row: Int[Array, ""], state: _State) -> _State:
    """Give a free row a column, moving others along the shortest path of reduced costs."""
    m = costs.shape[1]
    index = state.columns.dtype

    def scan_row(search: _Search) -> _Search:
        slack = costs[search.row] - state.u[search.row] - state.v
        through = search.reached + slack
        shorter = ~search.settled & (through < search.distance)
        distance = jnp.where(shorter, through, search.distance)
        before = jnp.where(shorter, search.row, search.before)
        open_ = jnp.where(search.settled, jnp.inf, distance)
        reached = jnp.min(open_)
        # Among equally near columns a free one ends the search.
        nearest = open_ == reached
        free = nearest & (state.rows < 0)
        column = jnp.where(jnp.any(free), jnp.argmax(free), jnp.argmax(nearest)).astype(index)
        settled = search.settled.at[column].set(True)
        owner = state.rows[column]
        return _Search(distance, before, settled, owner, reached, jnp.where(owner < 0, column, -1))

    def unfinished(search: _Search) -> Array:
        return search.sink < 0

    taken = state.columns[row] >= 0
    start = _Search(
        distance=jnp.full((m,), jnp.inf, costs.dtype),
        before=jnp.full((m,), -1, index),
        settled=jnp.zeros((m,), bool),
        row=jnp.asarray(row, index),
        reached=jnp.zeros((), costs.dtype),
        # A matched row has nothing to search for.
        sink=jnp.where(taken, 0, -1).astype(index),
    )
    search = jax.lax.while_loop(unfinished, scan_row, start)
    # Potentials keep settled columns tight along shortest paths.
    change = jnp.where(search.settled, search.reached - search.distance, 0.0)
    owners = jnp.where(search.settled & (state.rows >= 0), state.rows, costs.shape[0])
    u = state.u.at[owners].add(change, mode="drop").at[row].add(search.reached)
    v = state.v - change

    def flip(carry: tuple[Array, Array, Array]) -> tuple[Array, Array, Array]:
        columns, rows, column = carry
        owner = search.before[column]
        return columns.at[owner].set(column), rows.at[column].set(owner), columns[owner]

    def unplaced(carry: tuple[Array, Array, Array]) -> Array:
        # The free row had no column: reaching it ends the path.
        return carry[2] >= 0

    begin = jnp.where(taken, -1, search.sink).astype(index)
    columns, rows, _ = jax.lax.while_loop(unplaced, flip, (state.columns, state.rows, begin))
    return _State(columns, rows, u, v)
