"""The kernel contract that every algorithm follows, so that one loop runs them all. Time runs 0 = base to 1 = target."""

from __future__ import annotations

import abc
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, PyTree

from ..models._types import Batch, Key


class AbstractKernel(eqx.Module):
    """One step of an algorithm. Pure: knows nothing of jit, loops, progress, devices or files.

    State and info are NamedTuples of arrays whose structure, shapes and dtypes never change. A kernel is abstract or final.
    """

    @abc.abstractmethod
    def init(self, key: Key, position: PyTree, batch: Batch | None = None) -> Any:
        """The state that starts at a position."""

    @abc.abstractmethod
    def step(self, key: Key, state: Any, batch: Batch | None = None) -> tuple[Any, Any]:
        """One step: the new state and what there is to know about it."""

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
