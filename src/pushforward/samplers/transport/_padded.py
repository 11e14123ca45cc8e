"""A geometry with one row and one column more, to and from which moving is free."""

from __future__ import annotations

from typing import Any, Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, PyTree

from ._geometry import AbstractGeometry, Dense, PairTerm


class Padded(AbstractGeometry):
    """The pairs of another geometry, and a last row and column of cost zero but for the corner where they meet."""

    inner: AbstractGeometry
    corner: Float[Array, ""]

    @property
    def shape(self) -> tuple[int, int]:
        """See `AbstractGeometry.shape`."""
        n, m = self.inner.shape
        return n + 1, m + 1

    @property
    def dtype(self) -> Any:
        """See `AbstractGeometry.dtype`."""
        return self.inner.dtype

    @property
    def transposed(self) -> Padded:
        """See `AbstractGeometry.transposed`."""
        return Padded(self.inner.transposed, self.corner)

    def reduce(
        self,
        term: PairTerm,
        parameters: PyTree,
        rows: PyTree,
        columns: PyTree,
        reduction: Literal["sum", "logsumexp"] = "sum",
    ) -> PyTree:
        """See `AbstractGeometry.reduce`."""
        first_rows, last_row = _split(rows)
        first_columns, last_column = _split(columns)
        count = self.inner.shape[0]
        inner = self.inner.reduce(term, parameters, first_rows, first_columns, reduction)
        zeros, one = jnp.zeros((count, 1), self.dtype), jnp.ones((1,), self.dtype)
        right = term(parameters, zeros, first_rows, last_column, one)
        edge = self._last_row()
        below = term(parameters, edge, last_row, columns, jnp.ones((edge.shape[1],), self.dtype))
        if reduction == "logsumexp":
            return jnp.concatenate([jnp.logaddexp(inner, right[:, 0]), jax.nn.logsumexp(below, axis=1)])
        return jax.tree.map(lambda a, b, c: jnp.concatenate([a + b, c]), inner, right, below)

    def cost_rows(self, index: Int[Array, " k"]) -> Float[Array, "k m"]:
        """See `AbstractGeometry.cost_rows`."""
        last = self.inner.shape[0]
        inside = jnp.pad(self.inner.cost_rows(jnp.minimum(index, last - 1)), ((0, 0), (0, 1)))
        return jnp.where((index < last)[:, None], inside, self._last_row())

    def _last_row(self) -> Float[Array, "1 m"]:
        return jnp.zeros((1, self.shape[1]), self.dtype).at[0, -1].set(self.corner)


def padded(geometry: AbstractGeometry, corner: Float[Array, ""]) -> AbstractGeometry:
    """A row and a column more, stored where costs are stored."""
    if isinstance(geometry, Dense):
        return Dense(jnp.pad(geometry.matrix, ((0, 1), (0, 1))).at[-1, -1].set(corner))
    return Padded(geometry, corner)


def largest_cost(geometry: AbstractGeometry) -> Float[Array, ""]:
    """``max |C_ij|``."""
    if isinstance(geometry, Dense):
        return jnp.max(jnp.abs(geometry.matrix))
    n, m = geometry.shape
    # A soft maximum this hard is one, but for its last digits.
    hard = jnp.finfo(geometry.dtype).eps ** 0.5 * geometry.spread(jnp.ones((n,), geometry.dtype), _ones(geometry))
    hard = jnp.where(hard > 0, hard, 1.0)
    nothing = jnp.zeros((n,), geometry.dtype), jnp.zeros((m,), geometry.dtype)
    return hard * jnp.max(geometry.reduce(_size_term, hard, *nothing, "logsumexp"))


def _ones(geometry: AbstractGeometry) -> Array:
    return jnp.ones((geometry.shape[1],), geometry.dtype)


def _size_term(hard: Array, cost: Array, _row: Array, _column: Array, weight: Array) -> Array:
    return jnp.abs(cost) / hard


def _split(leaves: PyTree) -> tuple[PyTree, PyTree]:
    return jax.tree.map(lambda leaf: leaf[:-1], leaves), jax.tree.map(lambda leaf: leaf[-1:], leaves)
