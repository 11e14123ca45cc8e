"""Pair reductions over several devices: column blocks travel round a ring, rows stay."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
from jax.sharding import PartitionSpec
from jaxtyping import Array, PyTree

from ._blocks import column_block
from ._mesh import PARTICLES, num_shards, pad_rows, padded_count

_MESSAGES, _LEAST_ROWS = 16, 512


def ring_reduce(
    local: Callable[[PyTree, PyTree, PyTree, Array, PyTree], PyTree],
    parameters: PyTree,
    rows: PyTree,
    columns: PyTree,
    weight: Array,
    total: PyTree,
) -> PyTree:
    """Reduce over all pairs, rows and columns sharded over the mesh of the current trace.

    Each of P devices keeps its rows. Columns go round in chunks of a sixteenth of a shard: a chunk visits every device
    in P turns. Counts that do not divide are padded: rows are cut off at the end, columns have weight zero. Memory per
    device: its shard of the arguments and of the result, and two chunks. Sent per device: all columns, once.

    Args:
        local: ``(parameters, rows, columns, weight, total) -> new total``, per row, on one device.
        parameters: what all pairs share; held by every device.
        rows: pytree of arrays of shape (rows, ...).
        columns: pytree of arrays of shape (columns, ...).
        weight: weight per column.
        total: what the reduction starts from, leaves of shape (rows, ...).
    """
    shards = num_shards()
    num_rows, num_columns = jax.tree.leaves(rows)[0].shape[0], weight.shape[0]
    rows, total = pad_rows((rows, total), padded_count(num_rows, shards))
    columns, weight = pad_rows((columns, weight), padded_count(num_columns, shards))
    neighbours = [(i, (i + 1) % shards) for i in range(shards)]
    shard = weight.shape[0] // shards
    size = min(shard, max(_LEAST_ROWS, -(-shard // _MESSAGES)))

    def on_device(parameters: PyTree, rows: PyTree, columns: PyTree, weight: Array, total: PyTree) -> PyTree:
        def chunk(index: Array, total: PyTree) -> PyTree:
            def turn(carry: tuple[PyTree, Any], _: None) -> tuple[tuple[PyTree, Any], None]:
                total, (block, weights) = carry
                total = local(parameters, rows, block, weights, total)
                return (total, jax.lax.ppermute((block, weights), PARTICLES, neighbours)), None

            own = column_block(columns, weight, index, size)
            return jax.lax.scan(turn, (total, own), length=shards)[0][0]

        return jax.lax.fori_loop(0, -(-shard // size), chunk, total)

    spec = PartitionSpec(PARTICLES)
    # The reductions start from plain zeros, which the check of varying types would refuse.
    reduced = jax.shard_map(
        on_device, in_specs=(PartitionSpec(), spec, spec, spec, spec), out_specs=spec, check_vma=False
    )(parameters, rows, columns, weight, total)  # fmt: skip
    return jax.tree.map(lambda x: x[:num_rows], reduced)
