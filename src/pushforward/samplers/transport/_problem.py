"""An entropic transport problem, and points of its dual."""

from __future__ import annotations

from typing import NamedTuple

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Float

from ._geometry import AbstractGeometry
from ._marginals import AbstractMarginal


class Problem(eqx.Module):
    """``min_P <C, P> + epsilon KL(P | a b^T)`` with the marginals of P held to a and b."""

    geometry: AbstractGeometry
    a: Float[Array, " n"]
    b: Float[Array, " m"]
    epsilon: Float[Array, ""]
    row_marginal: AbstractMarginal
    column_marginal: AbstractMarginal

    @property
    def log_a(self) -> Float[Array, " n"]:
        """Logarithms of the row weights."""
        return log_weights(self.a)

    @property
    def log_b(self) -> Float[Array, " m"]:
        """Logarithms of the column weights."""
        return log_weights(self.b)

    def at(self, epsilon: Float[Array, ""]) -> Problem:
        """The same problem with another regularisation."""
        return eqx.tree_at(lambda p: p.epsilon, self, epsilon)

    def log_rows(self, f: Float[Array, " n"], g: Float[Array, " m"]) -> Float[Array, " n"]:
        """Logarithm of the plan's row sums relative to a."""
        return self.geometry.log_marginal(f, g, self.log_b, self.epsilon)

    def log_columns(self, f: Float[Array, " n"], g: Float[Array, " m"]) -> Float[Array, " m"]:
        """Logarithm of the plan's column sums relative to b."""
        return self.geometry.transposed.log_marginal(g, f, self.log_a, self.epsilon)

    def point(self, f: Float[Array, " n"], g: Float[Array, " m"]) -> Point:
        """The point with the best f for this g; ``f`` is where the search for it starts."""
        soft = f - self.epsilon * self.log_rows(f, g)
        best = self.row_marginal.update(soft, self.epsilon)
        rows = self.a * jnp.exp((best - soft) / self.epsilon)
        value = (
            jnp.sum(self.a * self.row_marginal.value(best))
            + jnp.sum(self.b * self.column_marginal.value(g))
            + self.epsilon * (jnp.sum(self.a) * jnp.sum(self.b) - jnp.sum(rows))
        )
        # Where a weight is zero nothing bounds the exponential, and nobody looks.
        used = self.b > 0
        log_columns = jnp.where(used, self.log_columns(best, jnp.where(used, g, -jnp.inf)), 0.0)
        return Point(best, g, rows, log_columns, value)

    def columns(self, point: Point) -> Float[Array, " m"]:
        """Column sums of the plan."""
        return self.b * jnp.exp(point.log_columns)

    def residual(self, point: Point) -> Float[Array, " m"]:
        """Gradient of the dual in g."""
        return self.b * (self.column_marginal.slope(point.g) - jnp.exp(point.log_columns))

    def mass(self, point: Point) -> Float[Array, ""]:
        """What marginal errors are shares of: the mass moved, or the lesser one of the weights where that is more.

        Where potentials and plan disagree about the mass the lesser counts: a move that asks for more of it than it
        gets must not look better for that.
        """
        asked = jnp.sum(self.b * self.column_marginal.slope(point.g))
        moved = jnp.minimum(asked, jnp.sum(self.columns(point)))
        return jnp.maximum(moved, jnp.minimum(jnp.sum(self.a), jnp.sum(self.b)))

    def error(self, point: Point) -> Float[Array, ""]:
        """Summed distance of the column marginal from where it should be, over `mass`; the rows' is rounding only."""
        return jnp.sum(jnp.abs(self.residual(point))) / self.mass(point)


class Point(NamedTuple):
    """A dual point whose f is optimal for its g."""

    f: Float[Array, " n"]
    g: Float[Array, " m"]
    rows: Float[Array, " n"]
    """Row sums of the plan."""
    log_columns: Float[Array, " m"]
    """Logarithm of the plan's column sums relative to b, zero where b is."""
    value: Float[Array, ""]
    """Dual value."""


def log_weights(weights: Float[Array, " n"]) -> Float[Array, " n"]:
    """Logarithms, -inf for zero, with derivative zero there."""
    positive = weights > 0
    return jnp.where(positive, jnp.log(jnp.where(positive, weights, 1.0)), -jnp.inf)
