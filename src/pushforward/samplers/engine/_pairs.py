"""Streaming reductions over all pairs of two sets: never more than one block of pairs at a time.

Everything that compares each particle with each other one (Stein forces, discrepancies, density estimates, transport)
is one of two reductions over ``j`` of a function of the pair (i, j): a sum of contributions, or a log of a sum of
exponentials. A function gives a whole block of pairs at once, so that it can be written with matrix products.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PyTree

DEFAULT_BUDGET = 2**20
"""Bytes of one block of pairs: it stays in a core's cache, and larger blocks are not faster."""

Term = Callable[[PyTree, PyTree, PyTree, Array], PyTree]
"""``term(parameters, row_block, column_block, column_weight)``. For sums: a pytree of contributions per row, leaves of
shape (rows, ...), already summed over the block's columns; for logsumexp: one (rows, columns) array of logarithms."""


def reduce_pairs(
    term: Term,
    parameters: PyTree,
    rows: PyTree,
    columns: PyTree,
    *,
    weight: Float[Array, " columns"] | None = None,
    reduction: Literal["sum", "logsumexp"] = "sum",
    budget: int = DEFAULT_BUDGET,
) -> PyTree:
    """Reduce a function of pairs over the columns, for every row.

    Memory beyond arguments and result: a few blocks of ``budget`` bytes; also when differentiated, because blocks are
    computed again in the backward pass instead of kept. Time: one evaluation of ``term`` per block.

    Args:
        term: a module-level function (it identifies the compiled program); see `Term`. A column of weight zero must
            contribute nothing to a sum; for logsumexp the weight is applied here.
        parameters: pytree of what all pairs share (bandwidths, scales).
        rows: pytree of arrays of shape (rows, ...).
        columns: pytree of arrays of shape (columns, ...).
        weight: non-negative weight of each column; None for ones.
        reduction: "sum" over columns, or "logsumexp": log sum_j weight_j exp(term_ij).
        budget: bytes of one block of pairs.

    Returns:
        For sums the pytree of ``term`` with all rows; for logsumexp an array of shape (rows,).

    Raises:
        ValueError: if rows or columns are empty, or leaves disagree about their number.
    """
    num_rows, num_columns = _count("rows", rows), _count("columns", columns)
    dtype = jnp.result_type(*[x for x in jax.tree.leaves((rows, columns)) if jnp.issubdtype(x.dtype, jnp.inexact)])
    if weight is None:
        weight = jnp.ones((num_columns,), dtype)
    shape = block_shape(num_rows, num_columns, budget, jnp.dtype(dtype).itemsize)
    if reduction == "sum":
        return _sum(term, shape, parameters, rows, columns, weight)
    if reduction == "logsumexp":
        return _logsumexp(term, shape, parameters, rows, columns, weight)
    raise ValueError(f"reduction={reduction!r}: expected 'sum' or 'logsumexp'.")


def block_shape(num_rows: int, num_columns: int, budget: int, itemsize: int) -> tuple[int, int]:
    """Rows and columns of a block: about square, as few blocks as the budget allows, all of nearly equal size."""
    side = max(1, int((budget / itemsize) ** 0.5))
    wide = min(num_columns, max(side, budget // itemsize // max(num_rows, 1)))
    tall = min(num_rows, max(1, budget // itemsize // wide))
    return _even(num_rows, tall), _even(num_columns, wide)


def _even(count: int, size: int) -> int:
    blocks = -(-count // size)
    return -(-count // blocks)


def _count(name: str, tree: PyTree) -> int:
    counts = {jnp.shape(x)[:1] for x in jax.tree.leaves(tree)}
    if len(counts) != 1 or () in counts or (0,) in counts:
        raise ValueError(
            f"{name} has leaves of leading shapes {sorted(counts)}: expected arrays that share a leading axis of at "
            "least one."
        )
    return int(counts.pop()[0])


def _blocks(tree: PyTree, size: int) -> PyTree:
    """Leaves of shape (blocks, size, ...), padded with zeros."""
    count = _count("blocks", tree)
    blocks = -(-count // size)
    padding = blocks * size - count

    def split(x: Array) -> Array:
        padded = jnp.pad(x, ((0, padding),) + ((0, 0),) * (x.ndim - 1)) if padding else x
        return jnp.reshape(padded, (blocks, size, *x.shape[1:]))

    return jax.tree.map(split, tree)


def _joined(tree: PyTree, count: int) -> PyTree:
    return jax.tree.map(lambda x: jnp.reshape(x, (-1, *x.shape[2:]))[:count], tree)


def _zeros(shapes: PyTree) -> PyTree:
    return jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), shapes)


def _add(left: PyTree, right: PyTree) -> PyTree:
    return jax.tree.map(jnp.add, left, right)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _sum(
    term: Term, shape: tuple[int, int], parameters: PyTree, rows: PyTree, columns: PyTree, weight: Array
) -> PyTree:
    row_blocks, column_blocks = _blocks(rows, shape[0]), _blocks((columns, weight), shape[1])

    def over_columns(row: PyTree) -> PyTree:
        def add(total: PyTree, column: tuple[PyTree, Array]) -> tuple[PyTree, None]:
            return _add(total, term(parameters, row, *column)), None

        first = jax.tree.map(lambda x: x[0], column_blocks)
        return jax.lax.scan(add, _zeros(jax.eval_shape(term, parameters, row, *first)), column_blocks)[0]

    return _joined(jax.lax.map(over_columns, row_blocks), _count("rows", rows))


def _sum_forward(
    term: Term, shape: tuple[int, int], parameters: PyTree, rows: PyTree, columns: PyTree, weight: Array
) -> tuple[PyTree, Any]:
    return _sum(term, shape, parameters, rows, columns, weight), (parameters, rows, columns, weight)


def _sum_backward(term: Term, shape: tuple[int, int], saved: Any, cotangent: PyTree) -> Any:
    parameters, rows, columns, weight = saved
    return _backward(term, shape, parameters, (rows, cotangent), columns, weight, lambda row, _: row[1])


_sum.defvjp(_sum_forward, _sum_backward)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _logsumexp(
    term: Term, shape: tuple[int, int], parameters: PyTree, rows: PyTree, columns: PyTree, weight: Array
) -> Array:
    row_blocks, column_blocks = _blocks(rows, shape[0]), _blocks((columns, weight), shape[1])

    def over_columns(row: PyTree) -> Array:
        def add(carry: tuple[Array, Array], column: tuple[PyTree, Array]) -> tuple[tuple[Array, Array], None]:
            highest, total = carry
            value = _weighted(term, parameters, row, *column)
            # A row whose columns all have weight zero keeps a finite reference, so that its result is -inf, not NaN.
            new = jnp.maximum(highest, jnp.max(value, axis=1))
            reference = jnp.where(jnp.isfinite(new), new, 0.0)
            scale = jnp.where(jnp.isfinite(highest), jnp.exp(highest - reference), 0.0)
            return (new, total * scale + jnp.sum(jnp.exp(value - reference[:, None]), axis=1)), None

        start = jnp.full((shape[0],), -jnp.inf, weight.dtype), jnp.zeros((shape[0],), weight.dtype)
        highest, total = jax.lax.scan(add, start, column_blocks)[0]
        return jnp.where(jnp.isfinite(highest), highest, 0.0) + jnp.log(total)

    return _joined(jax.lax.map(over_columns, row_blocks), _count("rows", rows))


def _weighted(term: Term, parameters: PyTree, row: PyTree, column: PyTree, weight: Array) -> Array:
    return term(parameters, row, column, weight) + jnp.where(weight > 0, jnp.log(jnp.maximum(weight, 1e-37)), -jnp.inf)


def _logsumexp_forward(
    term: Term, shape: tuple[int, int], parameters: PyTree, rows: PyTree, columns: PyTree, weight: Array
) -> tuple[Array, Any]:
    value = _logsumexp(term, shape, parameters, rows, columns, weight)
    return value, (parameters, rows, columns, weight, value)


def _logsumexp_backward(term: Term, shape: tuple[int, int], saved: Any, cotangent: Array) -> Any:
    parameters, rows, columns, weight, value = saved

    def softmax(row: PyTree, logits: Array) -> Array:
        # Rows of padding, and rows whose columns all have weight zero, have no softmax.
        used = jnp.isfinite(row[2]) & (row[1] != 0)
        reference = jnp.where(used, row[2], jnp.inf)
        return jnp.where(used, row[1], 0.0)[:, None] * jnp.exp(logits - reference[:, None])

    logits = functools.partial(_weighted, term)
    return _backward(logits, shape, parameters, (rows, cotangent, value), columns, weight, softmax)


_logsumexp.defvjp(_logsumexp_forward, _logsumexp_backward)


def _backward(
    term: Callable[..., PyTree],
    shape: tuple[int, int],
    parameters: PyTree,
    rows: tuple[PyTree, ...],
    columns: PyTree,
    weight: Array,
    cotangent_of: Callable[[PyTree, PyTree], PyTree],
) -> Any:
    """Cotangents of parameters, rows, columns and weight.

    ``rows`` carries, after the rows, what the cotangent of a block is made of.
    """
    row_blocks, column_blocks = _blocks(rows, shape[0]), _blocks((columns, weight), shape[1])

    def over_rows(totals: PyTree, row: PyTree) -> tuple[PyTree, PyTree]:
        def over_columns(carry: PyTree, column: tuple[PyTree, Array]) -> tuple[PyTree, PyTree]:
            value, pull = jax.vjp(term, parameters, row[0], *column)
            to_parameters, to_row, to_column, to_weight = pull(cotangent_of(row, value))
            return _add(carry, (to_parameters, to_row)), (to_column, to_weight)

        zero = jax.tree.map(jnp.zeros_like, (parameters, row[0]))
        (to_parameters, to_row), to_columns = jax.lax.scan(over_columns, zero, column_blocks)
        return _add(totals, (to_parameters, to_columns)), to_row

    start = jax.tree.map(jnp.zeros_like, (parameters, column_blocks))
    (to_parameters, to_columns), to_rows = jax.lax.scan(over_rows, start, row_blocks)
    to_columns, to_weight = _joined(to_columns, weight.shape[0])
    return to_parameters, _joined(to_rows, _count("rows", rows)), to_columns, to_weight
