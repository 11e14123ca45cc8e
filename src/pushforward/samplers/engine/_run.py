"""The only loop: chunked, jitted, with progress and checkpoints between chunks and a guard inside.

A chunk is one ``while_loop`` whose trip count is an argument, not a constant: chunks of any length run the same
compiled body, so results do not depend, bit for bit, on how steps are grouped, and growing the chunk never recompiles.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, PyTree

from ...models._types import Key
from .._base import AbstractKernel
from ._progress import Progress

_CHUNK_SECONDS = 0.5
_RECORD_BYTES = 16 * 2**20
_RECORD_LIMIT = 16_384


class NonFiniteError(FloatingPointError):
    """A run met a value that is not finite. Carries what is needed to look at it and to go on from before it.

    Attributes:
        step: index of the first bad step (from 0).
        key: the key of that step; ``kernel.step(key, state)`` replays it.
        state: the last good state.
        records: what was recorded up to and including the last good step.
    """

    def __init__(self, message: str, *, step: int, key: Key, state: Any, records: PyTree) -> None:
        super().__init__(message)
        self.step = step
        self.key = key
        self.state = state
        self.records = records


class RunResult(NamedTuple):
    """Where a run ended."""

    state: Any
    records: PyTree
    """Records of all steps since step 0, thinned; leaves of shape (records, ...), NumPy arrays on the host."""
    step: int
    """Number of steps taken since step 0."""


def run(
    kernel: AbstractKernel,
    state: Any,
    *,
    key: Key,
    num_steps: int,
    start: int = 0,
    records: PyTree | None = None,
    thin: int = 1,
    progress: Progress | None = None,
    save: Callable[[int, Any, Callable[[], PyTree]], None] | None = None,
    save_every: float = 60.0,
    chunk: int | None = None,
) -> RunResult:
    """Run a kernel.

    Step i uses ``fold_in(key, 2 i)`` for the kernel and ``fold_in(key, 2 i + 1)`` for its minibatch. Memory on the
    device: the state and a record buffer of at most 16 MiB; everything recorded lives on the host.

    Args:
        kernel: the algorithm; a pytree, passed as an argument so that its data is not baked into the program.
        state: where to start; not modified.
        key: the run's key.
        num_steps: stop after this many steps since step 0, or earlier when ``kernel.done``.
        start: steps already taken (resume).
        records: records of those steps.
        thin: keep the record of every ``thin``-th step.
        progress: drawn between chunks.
        save: called with (step, state, records) between chunks, at the start and at the end.
        save_every: seconds between saves.
        chunk: fixed number of steps per chunk; None grows chunks until they take about half a second.

    Raises:
        ValueError: for seconds between saves that are no number.
        NonFiniteError: at the first step whose `AbstractKernel.health` is not finite.
    """
    if isinstance(save_every, bool) or not isinstance(save_every, int | float) or not save_every >= 0:
        raise ValueError(f"checkpoint_every={save_every!r}: expected seconds between saves, a number of at least 0.")
    shapes = _one_record.eval_shape(kernel, state, key)
    capacity = _capacity(shapes)
    buffer = jax.tree.map(lambda s: jnp.zeros((capacity, *s.shape), s.dtype), shapes)
    kept: list[PyTree] = [] if records is None else [records]

    def collected() -> PyTree:
        if not kept:
            return jax.tree.map(lambda s: np.zeros((0, *s.shape), s.dtype), shapes)
        if len(kept) > 1:
            kept[:] = [jax.tree.map(lambda *x: np.concatenate(x), *kept)]
        return kept[0]

    step, length = start, thin if chunk is None else max(chunk, thin)
    last_save = time.monotonic()
    finished = bool(kernel.done(state))
    if save is not None:
        save(step, state, collected)
    while step < num_steps and not finished:
        length = min(-(-length // thin) * thin, capacity * thin)
        stop = min(step + length, num_steps)
        began = time.perf_counter()
        end, new_state, buffer, healthy, done = _chunk(kernel, state, key, step, stop, thin, buffer)
        end = int(end)
        if not bool(healthy):
            _fail(kernel, state, key, step, end - 1, thin, buffer, kept, collected)
        seconds = time.perf_counter() - began
        kept.append(_first(buffer, (end - step) // thin))
        state, finished = new_state, bool(done)
        if chunk is None and seconds < _CHUNK_SECONDS:
            length = int(length * min(8.0, max(1.25, _CHUNK_SECONDS / max(seconds, 1e-6))))
        step = end
        if progress is not None:
            progress.update(step, num_steps, kernel.summary(kept[-1]))
        if save is not None and time.monotonic() - last_save >= save_every:
            save(step, state, collected)
            last_save = time.monotonic()
    if save is not None:
        save(step, state, collected)
    return RunResult(state, collected(), step)


@jax.jit
def initialise(kernel: AbstractKernel, key: Key, position: PyTree) -> Any:
    """``kernel.init``, compiled once per kernel structure."""
    return kernel.init(key, position)


def step_keys(key: Key, step: int | Array) -> tuple[Key, Key]:
    """Keys of one step: for the kernel, and for its minibatch."""
    # Two streams by parity: one hash each, and the batch's is dropped by the compiler where there is no minibatch.
    return jax.random.fold_in(key, 2 * step), jax.random.fold_in(key, 2 * step + 1)


def _step(kernel: AbstractKernel, state: Any, keys: tuple[Key, Key]) -> tuple[Any, Any]:
    kernel_key, batch_key = keys
    return kernel.step(kernel_key, state, kernel.minibatch(batch_key))


@jax.jit
def _one_record(kernel: AbstractKernel, state: Any, key: Key) -> PyTree:
    return kernel.record(*_step(kernel, state, step_keys(key, 0)))


@jax.jit
def _chunk(
    kernel: AbstractKernel, state: Any, key: Key, start: int, stop: int, thin: int, buffer: PyTree
) -> tuple[Array, Any, PyTree, Array, Array]:
    # Steps run in an inner loop up to the next multiple of the kernel's period, so that what happens once per period
    # costs nothing per step; without a period the inner loop is the chunk.
    def carry_on(carry: Any) -> Array:
        step, state, _, healthy = carry
        return (step < stop) & healthy & ~kernel.done(state)

    def advance(carry: Any, keys: tuple[Key, Key]) -> Any:
        step, state, buffer, _ = carry
        state, info = _step(kernel, state, keys)
        slot = (step - start) // thin
        buffer = jax.tree.map(
            lambda b, x: jax.lax.dynamic_update_index_in_dim(b, x, slot, 0), buffer, kernel.record(state, info)
        )
        return step + 1, state, buffer, _finite(kernel.health(state, info))

    def single(carry: Any) -> Any:
        return advance(carry, step_keys(key, carry[0]))

    def stretch(carry: Any) -> Any:
        base = carry[0] // kernel.period * kernel.period
        end = jnp.minimum(base + kernel.period, stop)
        # Hashing keys is a loop of its own on a CPU: one vectorised hash for the whole period.
        keys = jax.vmap(lambda i: step_keys(key, base + i))(jnp.arange(kernel.period))
        keys = kernel.spread(keys[0]), keys[1]
        step, state, buffer, healthy = jax.lax.while_loop(
            lambda c: (c[0] < end) & c[3], lambda c: advance(c, (keys[0][c[0] - base], keys[1][c[0] - base])), carry
        )
        whole = (step % kernel.period == 0) & healthy
        return step, jax.lax.cond(whole, lambda s: kernel.settle(s), lambda s: s, state), buffer, healthy

    begin = (jnp.asarray(start, jnp.int32), state, buffer, jnp.asarray(True))
    step, state, buffer, healthy = jax.lax.while_loop(carry_on, stretch if kernel.period else single, begin)
    return step, state, buffer, healthy, kernel.done(state)


def _finite(tree: PyTree) -> Array:
    good = jnp.asarray(True)
    for leaf in jax.tree.leaves(tree):
        good = good & jnp.all(jnp.isfinite(leaf))
    return good


def _fail(
    kernel: AbstractKernel,
    state: Any,
    key: Key,
    start: int,
    bad: int,
    thin: int,
    buffer: PyTree,
    kept: list[PyTree],
    collected: Callable[[], PyTree],
) -> None:
    # Nothing is copied per step to keep the last good state: the chunk is deterministic, so it is replayed up to the
    # bad step.
    good = state if bad == start else _chunk(kernel, state, key, start, bad, thin, buffer)[1]
    kept.append(_first(buffer, (bad - start) // thin))
    raise NonFiniteError(
        f"A value that is not finite appeared at step {bad}.",
        step=bad,
        key=step_keys(key, bad)[0],
        state=good,
        records=collected(),
    )


def _first(buffer: PyTree, count: int) -> PyTree:
    # Cut on the host: a slice on the device would be compiled anew for every length.
    return jax.tree.map(lambda x: np.array(np.asarray(x)[:count]), buffer)


def _capacity(shapes: PyTree) -> int:
    """Records per buffer: a function of their size only, so that compiled code does not depend on the run's length."""
    size = sum(int(np.prod(s.shape)) * s.dtype.itemsize for s in jax.tree.leaves(shapes))
    return max(1, min(_RECORD_LIMIT, _RECORD_BYTES // max(size, 1)))
