"""Histograms on product grids, for costs that are sums over axes: all reductions go axis by axis.

With ``C_ij = sum_k C^k[i_k, j_k]`` the kernel ``exp(-C / epsilon)`` is a product over axes, so that a sum over all
nodes is a chain of sums over one axis each: O(n sum_k n_k) instead of O(n^2). Every link keeps its own largest
exponent, so that nothing overflows, and what vanishes does so only beside something larger.
"""

from __future__ import annotations

import math
from typing import Any, Literal

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, PyTree

from .._checks import as_array
from ._cost import block_cost
from ._geometry import AbstractGeometry, PairTerm

_BATCH = 2**22
"""Terms of a sum in sight at once."""


class Grid(eqx.Module):
    """The nodes of a product grid, to pass for points.

    Weights belong to the nodes in row-major order: a histogram h of the grid's shape is passed as ``h.ravel()``.

    Attributes:
        axes: coordinates along each axis.

    Example:
        >>> import jax.numpy as jnp
        >>> Grid((jnp.linspace(0.0, 1.0, 3), jnp.array([0.0, 5.0]))).points.shape
        (6, 2)
    """

    axes: tuple[Float[Array, " n_k"], ...]

    def __init__(self, axes: Any) -> None:
        """Check the axes: one-dimensional, finite, not empty.

        Raises:
            ValueError: for other axes.
        """
        if isinstance(axes, jax.Array | np.ndarray):
            raise ValueError(f"axes is one array of shape {axes.shape}: expected a sequence of one-dimensional ones.")
        if isinstance(axes, str) or not hasattr(axes, "__iter__"):
            raise ValueError(f"axes is {type(axes).__name__}: expected a sequence of one-dimensional arrays.")
        self.axes = tuple(_axis(k, axis) for k, axis in enumerate(axes))
        if not self.axes:
            raise ValueError("axes is empty: expected one array of coordinates per dimension.")

    @property
    def shape(self) -> tuple[int, ...]:
        """Number of nodes along each axis."""
        return tuple(axis.shape[0] for axis in self.axes)

    @property
    def points(self) -> Float[Array, "n d"]:
        """All nodes."""
        return jnp.stack([one.ravel() for one in jnp.meshgrid(*self.axes, indexing="ij")], axis=1)


def _axis(k: int, axis: Any) -> Array:
    axis = as_array(f"axes[{k}]", axis, "floating-point coordinates")
    if not jnp.issubdtype(axis.dtype, jnp.floating):
        raise ValueError(f"axes[{k}] has dtype {axis.dtype}: expected floating-point coordinates.")
    if axis.ndim != 1 or axis.size == 0:
        raise ValueError(f"axes[{k}] has shape {axis.shape}: expected coordinates along one axis, at least one.")
    if not isinstance(axis, jax.core.Tracer) and not np.isfinite(np.asarray(axis)).all():
        raise ValueError(f"axes[{k}] has coordinates that are not finite: expected finite ones.")
    return axis


class Separable(AbstractGeometry):
    """The pairs of nodes of two grids; costs are sums over axes and never formed."""

    matrices: tuple[Float[Array, "n_k m_k"], ...]

    @property
    def shape(self) -> tuple[int, int]:
        """See `AbstractGeometry.shape`."""
        return math.prod(self._sizes(0)), math.prod(self._sizes(1))

    @property
    def dtype(self) -> Any:
        """See `AbstractGeometry.dtype`."""
        return self.matrices[0].dtype

    @property
    def transposed(self) -> Separable:
        """See `AbstractGeometry.transposed`."""
        return Separable(tuple(matrix.T for matrix in self.matrices))

    def reduce(
        self,
        term: PairTerm,
        parameters: PyTree,
        rows: PyTree,
        columns: PyTree,
        reduction: Literal["sum", "logsumexp"] = "sum",
    ) -> PyTree:
        """See `AbstractGeometry.reduce`. Over all pairs: a term need not be a product over axes."""
        weight = jnp.ones((self.shape[1],), self.dtype)

        def one(given: tuple[Array, PyTree]) -> PyTree:
            index, row = given
            block = jax.tree.map(lambda leaf: leaf[None], row)
            value = term(parameters, self.cost_rows(index[None]), block, columns, weight)
            value = jax.nn.logsumexp(value, axis=1) if reduction == "logsumexp" else value
            return jax.tree.map(lambda leaf: leaf[0], value)

        n, m = self.shape
        return jax.lax.map(one, (jnp.arange(n), rows), batch_size=max(1, _BATCH // m))

    def log_marginal(
        self, f: Float[Array, " n"], g: Float[Array, " m"], log_weight: Float[Array, " m"], epsilon: Float[Array, ""]
    ) -> Float[Array, " n"]:
        """See `AbstractGeometry.log_marginal`."""
        top, total = self._chain(g / epsilon + log_weight, jnp.ones_like(g)[:, None], epsilon)
        return f / epsilon + top + jnp.log(total[:, 0])

    def push(
        self,
        f: Float[Array, " n"],
        g: Float[Array, " m"],
        log_weight: Float[Array, " m"],
        epsilon: Float[Array, ""],
        vectors: Float[Array, "m k"],
    ) -> Float[Array, "n k"]:
        """See `AbstractGeometry.push`."""
        top, total = self._chain(g / epsilon + log_weight, vectors, epsilon)
        return jnp.exp(f / epsilon + top)[:, None] * total

    def push_cost(
        self,
        f: Float[Array, " n"],
        g: Float[Array, " m"],
        log_weight: Float[Array, " m"],
        epsilon: Float[Array, ""],
        vectors: Float[Array, "m k"],
    ) -> Float[Array, "n k"]:
        """``sum_j b_j exp((f_i + g_j - C_ij) / epsilon) C_ij v_j``: the costs an axis at a time."""
        whole = jnp.zeros((self.shape[0], vectors.shape[1]), self.dtype)
        for axis in range(len(self.matrices)):
            top, total = self._chain(g / epsilon + log_weight, vectors, epsilon, axis)
            whole = whole + jnp.exp(f / epsilon + top)[:, None] * total
        return whole

    def mean_cost(self, weights: Float[Array, " m"]) -> Float[Array, " n"]:
        """``sum_j C_ij w_j``."""
        shares = _axis_sums(weights, self._sizes(1))
        parts = [
            jnp.matmul(matrix, share, precision=jax.lax.Precision.HIGHEST)
            for matrix, share in zip(self.matrices, shares, strict=True)
        ]
        return _outer_sum([part[None] for part in parts])[0]

    def density(
        self, f: Float[Array, " n"], g: Float[Array, " m"], b: Float[Array, " m"], epsilon: Float[Array, ""]
    ) -> Float[Array, " n"]:
        """See `AbstractGeometry.density`."""
        top, total = self._chain(g / epsilon, b[:, None], epsilon)
        most = 0.9 * jnp.log(jnp.finfo(self.dtype).max)
        return jnp.exp(jnp.minimum(f / epsilon + top, most)) * total[:, 0]

    def cost_rows(self, index: Int[Array, " k"]) -> Float[Array, "k m"]:
        """See `AbstractGeometry.cost_rows`."""
        places = jnp.unravel_index(index, self._sizes(0))
        return _outer_sum([matrix[place] for matrix, place in zip(self.matrices, places, strict=True)])

    def spread(self, a: Float[Array, " n"], b: Float[Array, " m"]) -> Float[Array, ""]:
        """An upper bound on `AbstractGeometry.spread`: the sum of the axes' own."""
        rows, columns = _axis_sums(a / jnp.sum(a), self._sizes(0)), _axis_sums(b / jnp.sum(b), self._sizes(1))
        total = jnp.zeros((), self.dtype)
        for matrix, row, column in zip(self.matrices, rows, columns, strict=True):
            both = row[:, None] * column[None, :]
            total = total + jnp.sum(both * jnp.abs(matrix - jnp.sum(both * matrix)))
        return total

    def _sizes(self, side: int) -> tuple[int, ...]:
        return tuple(matrix.shape[side] for matrix in self.matrices)

    def _chain(
        self, exponent: Float[Array, " m"], values: Float[Array, "m k"], epsilon: Float[Array, ""], costly: int = -1
    ) -> tuple[Float[Array, " n"], Float[Array, "n k"]]:
        """``top_i`` and ``sum_j exp(exponent_j - C_ij / epsilon - top_i) v_j``, times C of the axis ``costly``."""
        width = values.shape[1]
        for axis, matrix in enumerate(self.matrices):
            # The axis summed over is first, and the one that takes its place goes last.
            size = matrix.shape[1]
            exponent, values = jnp.reshape(exponent, (size, -1)), jnp.reshape(values, (size, -1, width))
            exponent, values = _link(exponent, values, matrix, epsilon, costly == axis)
            exponent, values = exponent.T, jnp.swapaxes(values, 0, 1)
        return jnp.reshape(exponent, (-1,)), jnp.reshape(values, (-1, width))


def _link(
    exponent: Float[Array, "j r"],
    values: Float[Array, "j r k"],
    matrix: Float[Array, "i j"],
    epsilon: Array,
    costly: bool,
) -> tuple[Float[Array, "i r"], Float[Array, "i r k"]]:
    """One axis of the chain."""

    def one(cost: Array) -> tuple[Array, Array]:
        each = exponent - cost[:, None] / epsilon
        top = jnp.max(jax.lax.stop_gradient(each), axis=0)
        top = jnp.where(jnp.isfinite(top), top, 0.0)
        share = jnp.exp(each - top[None, :])
        share = share * cost[:, None] if costly else share
        return top, jnp.sum(share[:, :, None] * values, axis=0)

    batch = max(1, _BATCH // values.size)
    if matrix.shape[0] <= batch:
        return jax.vmap(one)(matrix)
    return jax.lax.map(jax.checkpoint(one), matrix, batch_size=batch)


def _axis_sums(weights: Array, sizes: tuple[int, ...]) -> list[Array]:
    """Marginal of each axis."""
    whole = jnp.reshape(weights, sizes)
    return [jnp.sum(whole, axis=tuple(j for j in range(len(sizes)) if j != k)) for k in range(len(sizes))]


def _outer_sum(parts: list[Float[Array, "k _"]]) -> Float[Array, "k m"]:
    """``p_{i_1} + q_{i_2} + ...`` of every node, row by row."""
    total = parts[0]
    for part in parts[1:]:
        total = jnp.reshape(total[:, :, None] + part[:, None, :], (total.shape[0], -1))
    return total


def grid_geometry(x: Any, y: Any, cost: Any) -> Separable:
    """Two grids and a cost that is a sum over axes: "sqeuclidean", "l1", or a function of two points for each axis.

    Raises:
        ValueError: for points beside a grid, grids of different dimensions, or a cost that is no such sum.
    """
    if not (isinstance(x, Grid) and isinstance(y, Grid)):
        raise ValueError("One of x and y is a Grid: expected both, or points for both (a grid has them as .points).")
    if len(x.axes) != len(y.axes):
        raise ValueError(f"x has {len(x.axes)} axes and y has {len(y.axes)}: expected the same number.")
    if isinstance(cost, str) and cost in ("euclidean", "cosine"):
        raise ValueError(
            f'cost={cost!r} on grids: expected one that is a sum over axes, "sqeuclidean", "l1" or a function. For '
            "this one pass the nodes, Grid.points."
        )
    function = block_cost(cost)
    dtype = jnp.result_type(*x.axes, *y.axes)
    pairs = zip(x.axes, y.axes, strict=True)
    return Separable(tuple(function(one.astype(dtype)[:, None], other.astype(dtype)[:, None]) for one, other in pairs))
