"""Map a function of one draw over many draws in blocks of bounded memory."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import PyTree

from ..models._types import Key

DEFAULT_BUDGET = 256 * 2**20
"""Bytes that one block may occupy on the device, intermediates included."""

# A vmapped program holds its inputs, outputs and a few temporaries of the same size at once.
_INTERMEDIATE_FACTOR = 4


def stream_draws(
    function: Callable[..., PyTree],
    operand: PyTree,
    positions: PyTree,
    *,
    key: Key | None = None,
    block_size: int | None = None,
    budget: int = DEFAULT_BUDGET,
) -> PyTree:
    """Evaluate ``function(operand, position)`` at every draw and collect the results on the host.

    The draws are cut into equal blocks (the last one padded), each block is vmapped under one compiled call, and its
    results are copied into preallocated host arrays. Results do not depend on the block size: with a ``key``, draw
    ``i`` is given ``fold_in(key, i)``.

    Args:
        function: pure function of one draw, ``function(operand, position)`` or ``function(operand, position, key)``
            when ``key`` is given. Pass a module-level function: compiled code is cached by its identity.
        operand: a pytree passed through unchanged (the target), so that its arrays are not baked into the program.
        positions: leaves of shape (num_draws, ...).
        key: a key for random functions; None for deterministic ones.
        block_size: draws per block; None chooses it from ``budget``.
        budget: bytes that a block may use on the device.

    Returns:
        The result pytree as NumPy arrays of shape (num_draws, ...).

    Raises:
        ValueError: if there are no draws or ``block_size`` is not a positive integer.
        MemoryError: if the collected result would not fit in the free memory of this machine.
    """
    num_draws = count_draws(positions)
    indices = np.arange(num_draws)
    per_draw, shapes = _describe(function, operand, positions, key)
    total = num_draws * _num_bytes(shapes)
    free = _free_memory()
    if free is not None and total > 0.8 * free:
        raise MemoryError(
            f"The result for {num_draws} draws needs {total / 2**30:.1f} GiB and this machine has {free / 2**30:.1f} "
            "GiB free. Ask for fewer draws (`num_draws=`), or keep fewer draws in the fit."
        )
    if block_size is None:
        block_size = max(1, int(budget // max(1, per_draw * _INTERMEDIATE_FACTOR)))
    elif isinstance(block_size, bool) or not isinstance(block_size, int) or block_size < 1:
        raise ValueError(f'block_size (`batch_size`) must be a positive integer or "auto", got {block_size!r}.')
    block_size = min(block_size, num_draws)

    collected = jax.tree.map(lambda s: np.empty((num_draws, *s.shape), dtype=s.dtype), shapes)
    for start in range(0, num_draws, block_size):
        # Every block has the same shape, so that one compilation serves all of them; the padding repeats the last draw.
        chosen = np.minimum(np.arange(start, start + block_size), num_draws - 1)
        block = jax.tree.map(lambda leaf, chosen=chosen: leaf[chosen], positions)
        result = _evaluate_block(function, operand, block, jnp.asarray(indices[chosen], dtype=jnp.uint32), key)
        valid = min(block_size, num_draws - start)
        jax.tree.map(
            lambda out, part, start=start, valid=valid: out.__setitem__(
                slice(start, start + valid), np.asarray(part)[:valid]
            ),
            collected,
            result,
        )
    return collected


def host_draws(function: Callable[..., PyTree], operand: PyTree, positions: PyTree, *, key: Key) -> PyTree:
    """As `stream_draws`, one draw after the other on the host, for functions that cannot be compiled (a Pyro program).

    Args:
        function: ``function(operand, position, key)``; draw ``i`` is given ``fold_in(key, i)``.
        operand: passed through unchanged.
        positions: leaves of shape (num_draws, ...).
        key: a key.

    Returns:
        The result pytree as NumPy arrays of shape (num_draws, ...).
    """
    num_draws = count_draws(positions)
    collected: PyTree = None
    for i in range(num_draws):
        position = jax.tree.map(lambda leaf, i=i: leaf[i], positions)
        result = jax.tree.map(np.asarray, _plain(function(operand, position, jax.random.fold_in(key, i))))
        if collected is None:
            collected = jax.tree.map(lambda x: np.empty((num_draws, *x.shape), x.dtype), result)
        jax.tree.map(lambda out, x, i=i: out.__setitem__(i, x), collected, result)
    return collected


def count_draws(positions: PyTree) -> int:
    """Return the common leading size of all leaves.

    Raises:
        ValueError: if there is no leaf, no draw, or the leaves disagree.
    """
    sizes = {np.shape(leaf)[:1] for leaf in jax.tree.leaves(positions)}
    if len(sizes) != 1 or sizes == {()}:
        raise ValueError(f"The leaves of a set of draws must share their leading size, got leading sizes {sizes}.")
    (num_draws,) = sizes.pop()
    if num_draws == 0:
        raise ValueError("There are no draws: a result needs at least one.")
    return int(num_draws)


@eqx.filter_jit
def _evaluate_block(
    function: Callable[..., PyTree], operand: PyTree, block: PyTree, indices: jax.Array, key: Key | None
) -> PyTree:
    if key is None:
        return jax.vmap(lambda position: _plain(function(operand, position)))(block)
    return jax.vmap(lambda position, i: _plain(function(operand, position, jax.random.fold_in(key, i))))(block, indices)


@eqx.filter_jit
def _one_draw(function: Callable[..., PyTree], operand: PyTree, position: PyTree, key: Key | None) -> PyTree:
    # Never run, only traced for its shapes; compiled functions keep their trace from one call to the next.
    return _plain(function(operand, position) if key is None else function(operand, position, key))


def _plain(result: PyTree) -> PyTree:
    """Replace typed keys by their integers and brain floats by float32: neither exists in NumPy files."""

    def convert(leaf: Any) -> Any:
        leaf = jnp.asarray(leaf)
        if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
            return jax.random.key_data(leaf)
        return leaf.astype(jnp.float32) if leaf.dtype == jnp.bfloat16 else leaf

    return jax.tree.map(convert, result)


def _describe(
    function: Callable[..., PyTree], operand: PyTree, positions: PyTree, key: Key | None
) -> tuple[int, PyTree]:
    """Return the bytes that one draw occupies (input and output) and the shapes of its result."""
    first = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(np.shape(leaf)[1:], leaf.dtype), positions)
    shapes = eqx.filter_eval_shape(_one_draw, function, operand, first, key)
    return _num_bytes(first) + _num_bytes(shapes), shapes


def _num_bytes(shapes: PyTree) -> int:
    return sum(int(np.prod(leaf.shape, dtype=np.int64)) * leaf.dtype.itemsize for leaf in jax.tree.leaves(shapes))


def _free_memory() -> int | None:
    """Bytes of free physical memory, where the system tells (Linux)."""
    try:
        with open("/proc/meminfo", encoding="ascii") as handle:
            fields = dict(line.split(":", 1) for line in handle)
        return int(fields["MemAvailable"].split()[0]) * 1024
    except (OSError, KeyError, ValueError):
        try:
            return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
        except (AttributeError, OSError, ValueError):
            return None
