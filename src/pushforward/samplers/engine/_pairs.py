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

from ._blocks import block_shape, column_block, count_rows, joined, num_blocks, over_rows, padded_blocks
from ._mesh import num_shards
from ._ring import ring_reduce

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

    Where a mesh of devices is set (`particle_mesh`), rows and columns are sharded over it and columns travel round a
    ring. Memory beyond arguments and result: a few blocks of ``budget`` bytes; also when differentiated, because blocks
    are computed again in the backward pass instead of kept. Time: one evaluation of ``term`` per block.

    Args:
        term: a module-level function (it identifies the compiled program); see `Term`. A column of weight zero must
            contribute nothing to a sum; for logsumexp the weight is applied here.
        parameters: pytree of what all pairs share (bandwidths, scales).
        rows: pytree of arrays of shape (rows, ...).
        columns: pytree of arrays of shape (columns, ...).
        weight: non-negative weight of each column; None for ones.
        reduction: "sum" over columns, or "logsumexp": log sum_j weight_j exp(term_ij).
        budget: bytes of one block of pairs, over all devices together.

    Returns:
        For sums the pytree of ``term`` with all rows; for logsumexp an array of shape (rows,).

    Raises:
        ValueError: if rows or columns are empty, or leaves disagree about their number.
    """
    count_rows("rows", rows)
    num_columns = count_rows("columns", columns)
    dtype = jnp.result_type(*[x for x in jax.tree.leaves((rows, columns)) if jnp.issubdtype(x.dtype, jnp.inexact)])
    if weight is None:
        weight = jnp.ones((num_columns,), dtype)
    if reduction not in ("sum", "logsumexp"):
        raise ValueError(f"reduction={reduction!r}: expected 'sum' or 'logsumexp'.")
    shards = num_shards()
    reduce = _sum if reduction == "sum" else _logsumexp

    def local(parameters: PyTree, rows: PyTree, columns: PyTree, weight: Array, total: PyTree) -> PyTree:
        counts = jax.tree.leaves(rows)[0].shape[0], weight.shape[0]
        shape = block_shape(*counts, budget // shards, jnp.dtype(dtype).itemsize)
        return reduce(term, shape, parameters, rows, columns, weight, total)

    shapes = jax.eval_shape(term, parameters, rows, jax.tree.map(lambda x: x[:1], columns), weight[:1])
    if reduction == "sum":
        nothing = _zeros(shapes)
    else:
        nothing = jnp.full(shapes.shape[:1], -jnp.inf, shapes.dtype)
    if shards > 1:
        return ring_reduce(local, parameters, rows, columns, weight, nothing)
    return local(parameters, rows, columns, weight, nothing)


def _zeros(shapes: PyTree) -> PyTree:
    return jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), shapes)


def _add(left: PyTree, right: PyTree) -> PyTree:
    return jax.tree.map(jnp.add, left, right)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _sum(
    term: Term, shape: tuple[int, int], parameters: PyTree, rows: PyTree, columns: PyTree, weight: Array, total: PyTree
) -> PyTree:
    """``total`` plus the sum over the columns."""

    def over_columns(row: PyTree, total: PyTree) -> PyTree:
        def visit(index: Array, total: PyTree) -> PyTree:
            return _add(total, term(parameters, row, *column_block(columns, weight, index, shape[1])))

        return jax.lax.fori_loop(0, num_blocks(weight.shape[0], shape[1]), visit, total)

    return over_rows(over_columns, rows, total, shape[0])


def _sum_forward(
    term: Term, shape: tuple[int, int], parameters: PyTree, rows: PyTree, columns: PyTree, weight: Array, total: PyTree
) -> tuple[PyTree, Any]:
    value = _sum(term, shape, parameters, rows, columns, weight, total)
    return value, (parameters, rows, columns, weight)


def _sum_backward(term: Term, shape: tuple[int, int], saved: Any, cotangent: PyTree) -> Any:
    parameters, rows, columns, weight = saved
    pulled = _backward(term, shape, parameters, (rows, cotangent), columns, weight, lambda row, _: row[1])
    return (*pulled, cotangent)


_sum.defvjp(_sum_forward, _sum_backward)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _logsumexp(
    term: Term, shape: tuple[int, int], parameters: PyTree, rows: PyTree, columns: PyTree, weight: Array, total: Array
) -> Array:
    """``log(exp(total) + sum over the columns)``."""

    def over_columns(row: PyTree, total: Array) -> Array:
        def visit(index: Array, carry: tuple[Array, Array]) -> tuple[Array, Array]:
            highest, total = carry
            value = _weighted(term, parameters, row, *column_block(columns, weight, index, shape[1]))
            # A row whose columns all have weight zero keeps a finite reference, so that its result is -inf, not NaN.
            new = jnp.maximum(highest, jnp.max(value, axis=1))
            reference = jnp.where(jnp.isfinite(new), new, 0.0)
            scale = jnp.where(jnp.isfinite(highest), jnp.exp(highest - reference), 0.0)
            return new, total * scale + jnp.sum(jnp.exp(value - reference[:, None]), axis=1)

        start = total, jnp.where(jnp.isfinite(total), jnp.ones_like(total), 0.0)
        highest, scaled = jax.lax.fori_loop(0, num_blocks(weight.shape[0], shape[1]), visit, start)
        return jnp.where(jnp.isfinite(highest), highest, 0.0) + jnp.log(scaled)

    return over_rows(over_columns, rows, total, shape[0])


def _weighted(term: Term, parameters: PyTree, row: PyTree, column: PyTree, weight: Array) -> Array:
    return term(parameters, row, column, weight) + jnp.where(weight > 0, jnp.log(jnp.maximum(weight, 1e-37)), -jnp.inf)


def _logsumexp_forward(
    term: Term, shape: tuple[int, int], parameters: PyTree, rows: PyTree, columns: PyTree, weight: Array, total: Array
) -> tuple[Array, Any]:
    value = _logsumexp(term, shape, parameters, rows, columns, weight, total)
    return value, (parameters, rows, columns, weight, total, value)


def _logsumexp_backward(term: Term, shape: tuple[int, int], saved: Any, cotangent: Array) -> Any:
    parameters, rows, columns, weight, total, value = saved

    def softmax(row: PyTree, logits: Array) -> Array:
        # Rows of padding, and rows whose columns all have weight zero, have no softmax.
        used = jnp.isfinite(row[2]) & (row[1] != 0)
        reference = jnp.where(used, row[2], jnp.inf)
        return jnp.where(used, row[1], 0.0)[:, None] * jnp.exp(logits - reference[:, None])

    logits = functools.partial(_weighted, term)
    pulled = _backward(logits, shape, parameters, (rows, cotangent, value), columns, weight, softmax)
    return (*pulled, cotangent * jnp.where(jnp.isfinite(total), jnp.exp(total - value), 0.0))


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
    row_blocks, column_blocks = padded_blocks(rows, shape[0]), padded_blocks((columns, weight), shape[1])

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
    to_columns, to_weight = joined(to_columns, weight.shape[0])
    return to_parameters, joined(to_rows, count_rows("rows", rows)), to_columns, to_weight
