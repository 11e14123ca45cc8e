"""Arrays cut into blocks of rows."""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, PyTree


def block_shape(num_rows: int, num_columns: int, budget: int, itemsize: int) -> tuple[int, int]:
    """Rows and columns of a block: about square, as few blocks as the budget allows, all of nearly equal size."""
    side = max(1, int((budget / itemsize) ** 0.5))
    wide = min(num_columns, max(side, budget // itemsize // max(num_rows, 1)))
    tall = min(num_rows, max(1, budget // itemsize // wide))
    return _even(num_rows, tall), _even(num_columns, wide)


def _even(count: int, size: int) -> int:
    blocks = -(-count // size)
    return -(-count // blocks)


def count_rows(name: str, tree: PyTree) -> int:
    counts = {jnp.shape(x)[:1] for x in jax.tree.leaves(tree)}
    if len(counts) != 1 or () in counts or (0,) in counts:
        raise ValueError(
            f"{name} has leaves of leading shapes {sorted(counts)}: expected arrays that share a leading axis of at "
            "least one."
        )
    return int(counts.pop()[0])


def num_blocks(count: int, size: int) -> int:
    return -(-count // size)


def slice_block(tree: PyTree, index: Array | int, size: int) -> tuple[PyTree, Array]:
    """Block ``index`` of every array, and where it starts: the last one is moved back rather than padded."""
    start = jnp.minimum(jnp.asarray(index) * size, count_rows("blocks", tree) - size)
    return jax.tree.map(lambda x: jax.lax.dynamic_slice_in_dim(x, start, size), tree), start


def column_block(columns: PyTree, weight: Array, index: Array | int, size: int) -> tuple[PyTree, Array]:
    """A block of columns with its weights, zero for those that an earlier block has seen."""
    (block, weights), start = slice_block((columns, weight), index, size)
    fresh = start + jnp.arange(size) >= jnp.asarray(index) * size
    return block, jnp.where(fresh, weights, 0.0)


def over_rows(function: Callable[[PyTree, PyTree], PyTree], rows: PyTree, total: PyTree, size: int) -> PyTree:
    """``function(row block, its total)`` for all rows, in place: nothing is padded or copied."""

    def visit(index: Array, total: PyTree) -> PyTree:
        (row, before), start = slice_block((rows, total), index, size)
        fresh = start + jnp.arange(size) >= index * size

        def put(whole: Array, old: Array, new: Array) -> Array:
            kept = jnp.where(jnp.reshape(fresh, (-1,) + (1,) * (new.ndim - 1)), new, old)
            return jax.lax.dynamic_update_slice_in_dim(whole, kept, start, 0)

        return jax.tree.map(put, total, before, function(row, before))

    return jax.lax.fori_loop(0, num_blocks(count_rows("rows", rows), size), visit, total)


def padded_blocks(tree: PyTree, size: int) -> PyTree:
    """Leaves of shape (blocks, size, ...), padded with zeros."""
    count = count_rows("blocks", tree)
    blocks = -(-count // size)
    padding = blocks * size - count

    def split(x: Array) -> Array:
        padded = jnp.pad(x, ((0, padding),) + ((0, 0),) * (x.ndim - 1)) if padding else x
        return jnp.reshape(padded, (blocks, size, *x.shape[1:]))

    return jax.tree.map(split, tree)


def joined(tree: PyTree, count: int) -> PyTree:
    return jax.tree.map(lambda x: jnp.reshape(x, (-1, *x.shape[2:]))[:count], tree)
