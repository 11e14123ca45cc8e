"""The kernel contract that every algorithm follows, so that one loop runs them all.

Time runs 0 = base to 1 = target.
"""

from __future__ import annotations

import abc
from typing import Any, ClassVar, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Int, PyTree

from ..models import Target
from ..models._types import Batch, Key


class AbstractKernel(eqx.Module):
    """One step of an algorithm. Pure: knows nothing of jit, loops, progress, devices or files.

    State and info are NamedTuples of arrays whose structure, shapes and dtypes never change. A kernel is abstract or
    final.
    """

    @abc.abstractmethod
    def init(self, key: Key, position: PyTree, batch: Batch | None = None) -> Any:
        """The state that starts at a position."""

    @abc.abstractmethod
    def step(self, key: Key, state: Any, batch: Batch | None = None) -> tuple[Any, Any]:
        """One step: the new state and what there is to know about it."""

    period: ClassVar[int] = 0
    """Every this many steps the loop calls `settle`; 0 for never."""

    def settle(self, state: Any) -> Any:
        """What is done once per period instead of once per step (stopping rules, averages over windows)."""
        return state

    def spread(self, key: Key) -> Key:
        """What `step` turns its key into first, for the keys of one or of many steps: leading axes are kept."""
        return key

    def minibatch(self, key: Key) -> Batch | None:
        """The minibatch for one step; None when the algorithm sees all data."""
        return None

    def record(self, state: Any, info: Any) -> PyTree:
        """What the loop keeps of each (thinned) step."""
        return info

    def done(self, state: Any) -> Array:
        """Whether the algorithm has finished before its last step."""
        return jnp.asarray(False)

    def health(self, state: Any, info: Any) -> PyTree:
        """Arrays that must stay finite; the loop stops at the first step where one is not."""
        return [x for x in jax.tree.leaves(state) if eqx.is_inexact_array(x)]

    def summary(self, records: PyTree) -> dict[str, str]:
        """Figures for the progress line, from the records of the last chunk (on the host)."""
        return {}


class AbstractSampler(AbstractKernel):
    """A kernel whose states carry draws of a target. Made by its settings alone, bound to a target by `bind`.

    Positions are flat vectors (`Layout.ravel`) inside a sampler.
    """

    isolates: ClassVar[bool] = False
    """Whether a chain that meets a value that is not finite is put aside while the others go on."""

    @abc.abstractmethod
    def bind(self, target: Target, num_warmup: int) -> AbstractSampler:
        """This sampler for a target, adapting over ``num_warmup`` steps."""

    @abc.abstractmethod
    def position(self, state: Any) -> Array:
        """The flat position of a state."""

    @abc.abstractmethod
    def statistics(self, state: Any, info: Any) -> dict[str, Array]:
        """Per-draw statistics under their ArviZ names (``lp``, ``diverging``, ...)."""

    def record(self, state: Any, info: Any) -> PyTree:
        """Position and statistics."""
        return {"position": self.position(state), **self.statistics(state, info)}


class ChainsState(NamedTuple):
    """States of chains that can be isolated."""

    inner: Any
    """State of the sampler, with a leading chain axis."""
    failed_step: Int[Array, " chain"]
    """First step at which a chain met a value that is not finite; -1 while it is sound. It rests at its last good
    state from then on."""
    step: Int[Array, ""]


class Chains(AbstractKernel):
    """Independent copies of a sampler, vectorised. Chain i uses ``fold_in(key, i)``, so adding chains changes none.

    Each copy draws its own minibatch: chains that share one are not independent, which R-hat would not see.
    """

    sampler: AbstractSampler
    num_chains: int = eqx.field(static=True)

    def init(self, key: Key, position: PyTree, batch: Batch | None = None) -> Any:
        """States of all chains, from positions of shape (chain, ...)."""
        inner = jax.vmap(lambda k, x: self.sampler.init(k, x, batch))(self._keys(key), position)
        if not self.sampler.isolates:
            return inner
        return ChainsState(inner, jnp.full((self.num_chains,), -1, jnp.int32), jnp.zeros((), jnp.int32))

    def step(self, key: Key, state: Any, batch: Batch | None = None) -> tuple[Any, Any]:
        """One step of every chain."""
        inner = self.inner(state)
        new, info = jax.vmap(self.sampler.step)(self._keys(key), inner, batch)
        if not self.sampler.isolates:
            return new, info
        good = jax.vmap(_finite)(jax.vmap(self.sampler.health)(new, info)) & (state.failed_step < 0)
        # Counters go on: a chain at rest must not be due at every step for what is done now and then, for all.
        new = jax.tree.map(lambda a, b: _where(good, a, b) if eqx.is_inexact_array(a) else a, new, inner)
        failed = jnp.where((state.failed_step < 0) & ~good, state.step, state.failed_step)
        return ChainsState(new, failed, state.step + 1), info

    def minibatch(self, key: Key) -> Batch | None:
        """A minibatch for every chain, leaves of shape (chain, ...)."""
        return jax.vmap(self.sampler.minibatch)(self._keys(key))

    def record(self, state: Any, info: Any) -> PyTree:
        """What the sampler keeps of every chain."""
        return jax.vmap(self.sampler.record)(self.inner(state), info)

    def health(self, state: Any, info: Any) -> PyTree:
        """The chains' own health; where chains are isolated, finite as long as one is sound."""
        if self.sampler.isolates:
            return jnp.where(jnp.all(state.failed_step >= 0), jnp.nan, 0.0)
        return jax.vmap(self.sampler.health)(state, info)

    def done(self, state: Any) -> Array:
        """When all chains are."""
        return jnp.all(jax.vmap(self.sampler.done)(self.inner(state)))

    def summary(self, records: PyTree) -> dict[str, str]:
        """The sampler's figures."""
        return self.sampler.summary(records)

    def inner(self, state: Any) -> Any:
        """The samplers' states, with a leading chain axis."""
        return state.inner if self.sampler.isolates else state

    def _keys(self, key: Key) -> Array:
        return jax.vmap(lambda i: jax.random.fold_in(key, i))(jnp.arange(self.num_chains))


def _where(good: Array, a: Array, b: Array) -> Array:
    return jnp.where(jnp.reshape(good, (-1,) + (1,) * (a.ndim - 1)), a, b)


def _finite(tree: PyTree) -> Array:
    return jnp.all(jnp.stack([jnp.all(jnp.isfinite(leaf)) for leaf in jax.tree.leaves(tree)]))
