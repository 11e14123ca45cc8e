"""A transport plan that moves mass along few pairs."""

from __future__ import annotations

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Float, Int


class SparsePlan(eqx.Module):
    """An optimal plan as a list of moves: ``mass[k]`` goes from ``x[rows[k]]`` to ``y[columns[k]]``.

    Attributes:
        cost: ``sum_k mass[k] cost(x[rows[k]], y[columns[k]])``, the optimal value.
        rows: shape (moves,).
        columns: shape (moves,).
        mass: shape (moves,); some may be zero. Sums to one.
        shape: (n, m).
    """

    cost: Float[Array, ""]
    rows: Int[Array, " moves"]
    columns: Int[Array, " moves"]
    mass: Float[Array, " moves"]
    shape: tuple[int, int] = eqx.field(static=True)

    @property
    def matrix(self) -> Float[Array, "n m"]:
        """The whole plan."""
        return jnp.zeros(self.shape, self.mass.dtype).at[self.rows, self.columns].add(self.mass)

    def marginals(self) -> tuple[Float[Array, " n"], Float[Array, " m"]]:
        """Row and column sums."""
        n, m = self.shape
        empty = jnp.zeros((n,), self.mass.dtype), jnp.zeros((m,), self.mass.dtype)
        return empty[0].at[self.rows].add(self.mass), empty[1].at[self.columns].add(self.mass)

    def apply(self, vectors: Float[Array, "m ..."], *, transpose: bool = False) -> Float[Array, "n ..."]:
        """``P v``, or ``P^T v`` of vectors (n, ...)."""
        vectors, length = jnp.asarray(vectors), self.shape[not transpose]
        if vectors.ndim == 0 or vectors.shape[0] != length:
            # Indices beyond the end would be taken for the last one.
            raise ValueError(
                f"vectors has shape {vectors.shape} for a plan with {length} points on that side: expected a first "
                f"axis of {length}. For the other direction pass transpose=True."
            )
        into, out_of = (self.columns, self.rows) if transpose else (self.rows, self.columns)
        moved = jnp.reshape(self.mass, (-1,) + (1,) * (vectors.ndim - 1)) * vectors[out_of]
        return jnp.zeros((self.shape[transpose], *vectors.shape[1:]), moved.dtype).at[into].add(moved)

    def barycentric(self, y: Float[Array, "m ..."]) -> Float[Array, "n ..."]:
        """Where each point of x goes on average; zero for points without weight."""
        total = self.marginals()[0]
        column = jnp.reshape(jnp.where(total > 0, total, 1.0), (-1,) + (1,) * (jnp.ndim(y) - 1))
        return self.apply(y) / column
