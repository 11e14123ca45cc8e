"""Gradient descent on the losses of an interpolant, as a kernel of the one loop."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple, cast

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, Int, PyTree

from ...models._types import Batch, Key
from .._base import AbstractKernel
from ._ends import Ends
from ._learned_fields import LearnedFields
from ._pairings import AbstractCoupling

Loss = Callable[[Key, LearnedFields, tuple[Array, ...], PyTree], Array]
"""``loss(key, fields, ends, condition)`` of a batch: a number, or an array of numbers whose sum is minimised."""
_WINDOW = 100


class Problem(NamedTuple):
    """What is learned from what."""

    fields: LearnedFields
    """Fields at the start."""
    ends: Ends
    coupling: AbstractCoupling
    loss: Loss


class _Static:
    """A tree without arrays, compared by structure and leaves: modules with lists have no hash of their own."""

    def __init__(self, tree: PyTree) -> None:
        self.tree = tree

    def _parts(self) -> tuple[Any, tuple[Any, ...]]:
        leaves, structure = jax.tree.flatten(self.tree)
        return structure, tuple(leaves)

    def __hash__(self) -> int:
        return hash(self._parts())

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Static) and self._parts() == other._parts()


class InterpolantState(NamedTuple):
    """Where a training is."""

    step: Int[Array, ""]
    parameters: PyTree
    """Of the networks."""
    average: PyTree
    """Their exponential average."""
    optimizer: Any


class InterpolantInfo(NamedTuple):
    """One step."""

    loss: Float[Array, " loss"]
    """What is minimised is their sum."""


class InterpolantTraining(AbstractKernel):
    """One optimiser step on a fresh batch per step, and an exponential average of the parameters.

    Early iterates are forgotten faster: the average's decay grows as ``(1 + step) / (10 + step)`` up to its bound.

    Args:
        problem: fields, ends, coupling and loss. Arrays in it are arguments of the compiled step, all else is part of
            it and must be hashable.
        optimizer: an optax transformation of the loss gradient.
        batch_size: draws per step.
        averaging: bound on the decay of the average.
    """

    arrays: Problem
    averaging: Float[Array, ""]
    rest: _Static = eqx.field(static=True)
    optimizer: optax.GradientTransformationExtraArgs = eqx.field(static=True)
    batch_size: int = eqx.field(static=True)

    def __init__(
        self,
        problem: Problem,
        optimizer: optax.GradientTransformationExtraArgs,
        batch_size: int,
        averaging: Float[Array, ""],
    ) -> None:
        held = jax.tree.map(lambda leaf: jnp.asarray(leaf) if isinstance(leaf, np.ndarray) else leaf, problem)
        self.arrays, rest = eqx.partition(held, eqx.is_array)
        self.rest = _Static(rest)
        try:
            hash(self.rest)
        except TypeError as error:
            raise ValueError(
                f"The networks, the loss or the ends hold something that is neither an array nor hashable ({error}): "
                "expected equinox modules whose other fields are numbers, strings, tuples or functions."
            ) from error
        self.optimizer, self.batch_size, self.averaging = optimizer, batch_size, averaging

    @property
    def problem(self) -> Problem:
        """Arrays and the rest together."""
        return cast(Problem, eqx.combine(self.arrays, self.rest.tree))

    def init(self, key: Key, position: PyTree, batch: Batch | None = None) -> InterpolantState:
        """Start from parameters of the networks (see `parameters`)."""
        return InterpolantState(jnp.zeros((), jnp.int32), position, position, self.optimizer.init(position))

    def step(
        self, key: Key, state: InterpolantState, batch: Batch | None = None
    ) -> tuple[InterpolantState, InterpolantInfo]:
        """One step of the optimiser."""
        to_ends, to_loss = jax.random.split(key)
        problem = self.problem
        ends, condition = problem.ends.draw(to_ends, self.batch_size, problem.coupling)

        def total(parameters: PyTree) -> tuple[Array, Array]:
            losses = jnp.atleast_1d(problem.loss(to_loss, self.fields(parameters), ends, condition))
            return jnp.sum(losses), losses

        (value, losses), gradient = jax.value_and_grad(total, has_aux=True)(state.parameters)
        updates, optimizer = self.optimizer.update(gradient, state.optimizer, state.parameters, value=value)
        parameters = optax.apply_updates(state.parameters, updates)
        counted = state.step.astype(self.averaging.dtype)
        decay = jnp.minimum(self.averaging, (1.0 + counted) / (10.0 + counted))
        average = jax.tree.map(lambda a, p: a + (p - a) * (1.0 - decay).astype(a.dtype), state.average, parameters)
        return InterpolantState(state.step + 1, parameters, average, optimizer), InterpolantInfo(losses)

    def fields(self, parameters: PyTree) -> LearnedFields:
        """Fields whose networks have other parameters."""
        fields = self.problem.fields
        return eqx.tree_at(lambda f: f.networks, fields, eqx.combine(parameters, fields.networks))

    @property
    def parameters(self) -> PyTree:
        """Parameters of the networks at the start."""
        return eqx.filter(self.arrays.fields.networks, eqx.is_inexact_array)

    def health(self, state: InterpolantState, info: InterpolantInfo) -> PyTree:
        """The losses: parameters that are not finite show in the next."""
        return info.loss

    def record(self, state: InterpolantState, info: InterpolantInfo) -> PyTree:
        """The losses."""
        return info.loss

    def summary(self, records: PyTree) -> dict[str, str]:
        """Mean loss of the last steps, with its standard error."""
        last = np.asarray(records[-_WINDOW:], dtype=float).sum(axis=1)
        if last.size == 0:
            return {}
        return {"loss": f"{last.mean():.4g} +- {last.std() / np.sqrt(len(last)):.2g}"}
