"""Two sets and the cost of each pair, seen only through reductions over pairs.

Weights of the two sets enter as logarithms, -inf for zero. A plan is never stored: with potentials f, g and
regularisation epsilon its entries are ``a_i b_j exp((f_i + g_j - C_ij) / epsilon)``.
"""

from __future__ import annotations

import abc
from collections.abc import Callable
from typing import Any, Literal

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, PyTree

from ..engine import reduce_pairs
from ..pairs._distance import product
from ._cost import BlockCost, stored_form

PairTerm = Callable[[PyTree, Array, PyTree, PyTree, Array], PyTree]
"""``term(parameters, cost_block, row_block, column_block, weight)``: what a block of pairs contributes to each of its
rows (leaves of shape (rows, ...)), columns of weight zero nothing; for logsumexp one (rows, columns) array of
logarithms, to which the weight is applied afterwards."""


class AbstractGeometry(eqx.Module):
    """The pairs of two sets of n and m points."""

    @property
    @abc.abstractmethod
    def shape(self) -> tuple[int, int]:
        """Numbers of points."""

    @property
    @abc.abstractmethod
    def dtype(self) -> Any:
        """Dtype of costs."""

    @property
    @abc.abstractmethod
    def transposed(self) -> AbstractGeometry:
        """Rows and columns exchanged."""

    @abc.abstractmethod
    def reduce(
        self,
        term: PairTerm,
        parameters: PyTree,
        rows: PyTree,
        columns: PyTree,
        reduction: Literal["sum", "logsumexp"] = "sum",
    ) -> PyTree:
        """Reduce a function of cost, row and column over the columns, for every row."""

    def log_marginal(
        self, f: Float[Array, " n"], g: Float[Array, " m"], log_weight: Float[Array, " m"], epsilon: Float[Array, ""]
    ) -> Float[Array, " n"]:
        """``log sum_j b_j exp((f_i + g_j - C_ij) / epsilon)``: how far row i's mass is from a_i, as a logarithm."""
        return self.reduce(_log_term, epsilon, f, (g, log_weight), "logsumexp")

    def push(
        self,
        f: Float[Array, " n"],
        g: Float[Array, " m"],
        log_weight: Float[Array, " m"],
        epsilon: Float[Array, ""],
        vectors: Float[Array, "m k"],
    ) -> Float[Array, "n k"]:
        """``sum_j b_j exp((f_i + g_j - C_ij) / epsilon) v_j``: the plan without its row weights, times vectors."""
        return self.reduce(_push_term, epsilon, f, (g, log_weight, vectors))

    @abc.abstractmethod
    def cost_rows(self, index: Int[Array, " k"]) -> Float[Array, "k m"]:
        """Costs of some rows."""

    def density(
        self, f: Float[Array, " n"], g: Float[Array, " m"], b: Float[Array, " m"], epsilon: Float[Array, ""]
    ) -> Float[Array, " n"]:
        """`log_marginal` without its logarithm, differentiable at weights of zero too.

        For potentials near optimal ones only: elsewhere the exponential overflows.
        """
        return self.reduce(_density_term, epsilon, f, (g, b))

    def spread(self, a: Float[Array, " n"], b: Float[Array, " m"]) -> Float[Array, ""]:
        """Mean absolute deviation of the costs of independent pairs, the scale on which potentials differ."""
        a, b = a / jnp.sum(a), b / jnp.sum(b)
        centre = jnp.sum(a * self.reduce(_deviation_term, jnp.zeros((), self.dtype), a, b)[0])
        return jnp.sum(a * self.reduce(_deviation_term, centre, a, b)[1])


class Dense(AbstractGeometry):
    """A matrix of costs."""

    matrix: Float[Array, "n m"]

    @property
    def shape(self) -> tuple[int, int]:
        """See `AbstractGeometry.shape`."""
        n, m = self.matrix.shape
        return n, m

    @property
    def dtype(self) -> Any:
        """See `AbstractGeometry.dtype`."""
        return self.matrix.dtype

    @property
    def transposed(self) -> Dense:
        """See `AbstractGeometry.transposed`."""
        return Dense(self.matrix.T)

    def reduce(
        self,
        term: PairTerm,
        parameters: PyTree,
        rows: PyTree,
        columns: PyTree,
        reduction: Literal["sum", "logsumexp"] = "sum",
    ) -> PyTree:
        """See `AbstractGeometry.reduce`."""
        value = term(parameters, self.matrix, rows, columns, jnp.ones((self.shape[1],), self.dtype))
        return jax.nn.logsumexp(value, axis=1) if reduction == "logsumexp" else value

    def cost_rows(self, index: Int[Array, " k"]) -> Float[Array, "k m"]:
        """See `AbstractGeometry.cost_rows`."""
        return self.matrix[index]


class Cloud(AbstractGeometry):
    """Two clouds of points; costs are computed block by block and never kept. Memory linear in n + m."""

    x: Float[Array, "n ..."]
    y: Float[Array, "m ..."]
    cost: BlockCost = eqx.field(static=True)
    swapped: bool = eqx.field(static=True, default=False)

    @property
    def shape(self) -> tuple[int, int]:
        """See `AbstractGeometry.shape`."""
        return self.x.shape[0], self.y.shape[0]

    @property
    def dtype(self) -> Any:
        """See `AbstractGeometry.dtype`."""
        return jax.eval_shape(self.cost, self.x[:1], self.y[:1]).dtype

    @property
    def transposed(self) -> Cloud:
        """See `AbstractGeometry.transposed`."""
        return Cloud(self.y, self.x, self.cost, not self.swapped)

    def dense(self) -> Dense:
        """All costs at once."""
        return Dense(_costs(stored_form(self.cost), self.swapped, self.x, self.y))

    def reduce(
        self,
        term: PairTerm,
        parameters: PyTree,
        rows: PyTree,
        columns: PyTree,
        reduction: Literal["sum", "logsumexp"] = "sum",
    ) -> PyTree:
        """See `AbstractGeometry.reduce`."""
        block = _BlockTerm(term, self.cost, self.swapped)
        return reduce_pairs(block, parameters, (self.x, rows), (self.y, columns), reduction=reduction)

    def log_marginal(
        self, f: Float[Array, " n"], g: Float[Array, " m"], log_weight: Float[Array, " m"], epsilon: Float[Array, ""]
    ) -> Float[Array, " n"]:
        """See `AbstractGeometry.log_marginal`.

        At potentials that are not far from optimal ones each row sums to something moderate: f is all the reference
        that a sum of exponentials needs, and half the time is saved that looking for the largest would take. A row of
        potential -inf has no mass.
        """
        total = self.reduce(_marginal_term, epsilon, f, (g, log_weight))
        limits = jnp.finfo(total.dtype)
        # What underflows must be less than rounding.
        moderate = (total >= self.shape[1] * limits.tiny / limits.eps) & (total < limits.max)
        return jax.lax.cond(
            jnp.all(moderate | (f == -jnp.inf)),
            lambda: jnp.log(total),
            lambda: self.reduce(_log_term, epsilon, f, (g, log_weight), "logsumexp"),
        )

    def cost_rows(self, index: Int[Array, " k"]) -> Float[Array, "k m"]:
        """See `AbstractGeometry.cost_rows`."""
        return _costs(self.cost, self.swapped, self.x[index], self.y)


def _costs(cost: BlockCost, swapped: bool, x: Array, y: Array) -> Array:
    return cost(y, x).T if swapped else cost(x, y)


class _BlockTerm:
    """A pair term on blocks of points."""

    def __init__(self, term: PairTerm, cost: BlockCost, swapped: bool) -> None:
        self.parts = term, cost, swapped

    def __call__(self, parameters: PyTree, row: PyTree, column: PyTree, weight: Array) -> PyTree:
        term, cost, swapped = self.parts
        return term(parameters, _costs(cost, swapped, row[0], column[0]), row[1], column[1], weight)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _BlockTerm) and self.parts == other.parts

    def __hash__(self) -> int:
        return hash(self.parts)


def _log_term(epsilon: Array, cost: Array, f: Array, column: PyTree, weight: Array) -> Array:
    g, log_weight = column
    return log_weight[None, :] + (f[:, None] + g[None, :] - cost) / epsilon


def _push_term(epsilon: Array, cost: Array, f: Array, column: PyTree, weight: Array) -> Array:
    g, log_weight, vectors = column
    plan = jnp.exp(_log_term(epsilon, cost, f, (g, log_weight), weight))
    vectors = weight[:, None] * vectors
    if vectors.shape[1] == 1:
        # A sum that is compiled together with its terms: the block is never written.
        return jnp.sum(plan * vectors[None, :, 0], axis=1, keepdims=True)
    return product(plan, vectors)


def _marginal_term(epsilon: Array, cost: Array, f: Array, column: PyTree, weight: Array) -> Array:
    return jnp.sum(jnp.exp(_log_term(epsilon, cost, f, column, weight)) * weight[None, :], axis=1)


def _density_term(epsilon: Array, cost: Array, f: Array, column: PyTree, weight: Array) -> Array:
    g, b = column
    return jnp.sum(jnp.exp(bounded_exponent(epsilon, cost, f, g)) * (b * weight)[None, :], axis=1)


def bounded_exponent(epsilon: Array, cost: Array, f: Array, g: Array) -> Array:
    """``(f_i + g_j - C_ij) / epsilon`` of a block, bounded: between weights of zero nothing else is."""
    return jnp.minimum((f[:, None] + g[None, :] - cost) / epsilon, 0.9 * jnp.log(jnp.finfo(cost.dtype).max))


def _deviation_term(centre: Array, cost: Array, _: Array, b: Array, weight: Array) -> tuple[Array, Array]:
    share = (b * weight)[None, :]
    return jnp.sum((cost - centre) * share, axis=1), jnp.sum(jnp.abs(cost - centre) * share, axis=1)
