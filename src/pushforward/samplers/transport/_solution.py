"""What a transport solver returns: a plan held as two potentials, and what is known about it."""

from __future__ import annotations

import enum
from collections.abc import Callable

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from ...models._types import Key
from .._checks import check_count, check_key
from ._problem import Problem

_BATCH = 2**20
"""Entries of the plan in sight at once where rows are looked at one by one."""


class Status(enum.IntEnum):
    """How a solver ended."""

    CONVERGED = 0
    NOT_CONVERGED = 1
    """The steps ran out, or no longer lowered the error."""
    PRECISION = 2
    """The tolerance is below what the dtype resolves at this epsilon."""
    NOT_FINITE = 3


class Transport(eqx.Module):
    """An entropic transport plan, held as its two potentials: ``P_ij = a_i b_j exp((f_i + g_j - C_ij) / epsilon)``.

    Attributes:
        problem: what was solved.
        cost: the optimal value of ``<C, P> + epsilon KL(P | a b^T)`` (and, where marginals are soft, their penalties),
            in units of the cost. Differentiable in points, costs, weights and epsilon.
        linear_cost: ``<C, P>`` of the rounded plan, which meets its marginals.
        dual: dual value, a lower bound on the optimum.
        primal: the objective of the rounded plan, an upper bound.
        gap: at least ``primal - dual``: how far either is from the optimum at most, rounding allowed for.
        potentials: f of shape (n,) and g of shape (m,), in units of the cost; defined where weights are zero too.
            Differentiable.
        row_error: summed absolute deviation of the row sums from what is asked, as a share of the mass: of what is
            moved, or of the lesser of the sums of a and b where that is more.
        column_error: that of the column sums.
        tolerance: what their sum was to reach.
        resolution: by how much rounding of potentials and costs typically changes their sum: an estimate.
        num_sweeps: pairs of Sinkhorn updates.
        num_newton_steps: Newton steps.
    """

    problem: Problem
    cost: Float[Array, ""]
    potentials: tuple[Float[Array, " n"], Float[Array, " m"]]
    linear_cost: Float[Array, ""]
    dual: Float[Array, ""]
    primal: Float[Array, ""]
    gap: Float[Array, ""]
    row_error: Float[Array, ""]
    column_error: Float[Array, ""]
    tolerance: Float[Array, ""]
    resolution: Float[Array, ""]
    num_sweeps: Int[Array, ""]
    num_newton_steps: Int[Array, ""]

    @property
    def marginal_error(self) -> Float[Array, ""]:
        """Summed absolute deviation of both marginals, as a share of the mass."""
        return self.row_error + self.column_error

    @property
    def converged(self) -> Bool[Array, ""]:
        """Whether the marginal error, with what rounding may hide, is at most the tolerance."""
        known = self.marginal_error + self.resolution
        # Potentials that ask for an infinite mass resolve nothing, and no tolerance follows from them.
        return jnp.isfinite(known) & (known <= self.tolerance)

    @property
    def status_code(self) -> Int[Array, ""]:
        """`status` as a number, inside compiled code too."""
        finite = jnp.isfinite(self.marginal_error) & jnp.isfinite(self.cost)
        failed = jnp.where(self.resolution >= self.tolerance, Status.PRECISION, Status.NOT_CONVERGED)
        return jnp.where(self.converged, Status.CONVERGED, jnp.where(finite, failed, Status.NOT_FINITE))

    @property
    def status(self) -> Status:
        """How the solver ended; outside of compiled code."""
        return Status(int(self.status_code))

    @property
    def precision(self) -> str:
        """The dtype that was computed in; matrix products are made in its full precision on every device."""
        return str(jnp.dtype(self.problem.geometry.dtype))

    @property
    def plan(self) -> Float[Array, "n m"]:
        """The whole plan: n m numbers. For large sets use `apply`, `conditional_mean`, `sample` or `match`."""
        return self._rows(jnp.arange(self.problem.a.shape[0]))

    def apply(self, vectors: Float[Array, "m ..."], *, transpose: bool = False) -> Float[Array, "n ..."]:
        """``P v``, or ``P^T v``, without forming the plan."""
        (outer, inner), problem = self.potentials, self.problem
        geometry, weights, log_weight = problem.geometry, problem.a, problem.log_b
        if transpose:
            geometry, outer, inner = geometry.transposed, inner, outer
            weights, log_weight = problem.b, problem.log_a
        vectors = jnp.asarray(vectors, geometry.dtype)
        _check_length(vectors, geometry.shape[1])
        flat = jnp.reshape(vectors, (vectors.shape[0], -1))
        found = weights[:, None] * geometry.push(outer, inner, log_weight, problem.epsilon, flat)
        return jnp.reshape(found, (found.shape[0], *vectors.shape[1:]))

    def marginals(self) -> tuple[Float[Array, " n"], Float[Array, " m"]]:
        """Row and column sums of the plan."""
        n, m = self.problem.geometry.shape
        return self.apply(jnp.ones((m,))), self.apply(jnp.ones((n,)), transpose=True)

    def conditional_mean(self, values: Float[Array, "m ..."], *, transpose: bool = False) -> Float[Array, "n ..."]:
        """``sum_j P_ij v_j / sum_j P_ij``: with the other side's points for v, the barycentric map.

        Defined for points of weight zero too. With ``transpose``, values of shape (n, ...) to means of shape (m, ...).
        """
        (outer, inner), problem = self.potentials, self.problem
        geometry, log_weight = problem.geometry, problem.log_b
        if transpose:
            geometry, outer, inner, log_weight = geometry.transposed, inner, outer, problem.log_a
        values = jnp.asarray(values, geometry.dtype)
        _check_length(values, geometry.shape[1])
        # Normalised row by row, so that potentials of any error give means.
        outer = outer - problem.epsilon * geometry.log_marginal(outer, inner, log_weight, problem.epsilon)
        flat = jnp.reshape(values, (values.shape[0], -1))
        found = geometry.push(outer, inner, log_weight, problem.epsilon, flat)
        return jnp.reshape(found, (found.shape[0], *values.shape[1:]))

    def match(self) -> Int[Array, " n"]:
        """For each row the column that gets most of it."""
        return self._by_row(lambda index: jnp.argmax(self._logits(index[None])[0]), jnp.arange(self.problem.a.shape[0]))

    def sample(self, key: Key, num_pairs: int) -> tuple[Int[Array, " k"], Int[Array, " k"]]:
        """Independent pairs of indices (i, j) with probabilities P_ij. Cost: O(num_pairs m).

        Raises:
            ValueError: for a key that is not typed, or a number that is none.
        """
        key, num_pairs = check_key(key), check_count("num_pairs", num_pairs, 0)
        to_row, to_column = jax.random.split(key)
        rows = jax.random.choice(to_row, self.problem.a.shape[0], (num_pairs,), p=self.problem.a / self.problem.a.sum())

        def draw(given: tuple[Array, Array]) -> Array:
            index, key = given
            return jax.random.categorical(key, self._logits(index[None])[0])

        return rows, self._by_row(draw, (rows, jax.random.split(to_column, num_pairs)))

    def _by_row(self, function: Callable[..., Array], given: object) -> Array:
        return jax.lax.map(function, given, batch_size=max(1, _BATCH // self.problem.geometry.shape[1]))

    def _logits(self, index: Int[Array, " k"]) -> Float[Array, "k m"]:
        """Logarithms of rows of the plan over their weights."""
        (f, g), problem = self.potentials, self.problem
        exponent = (f[index, None] + g[None, :] - problem.geometry.cost_rows(index)) / problem.epsilon
        return problem.log_b[None, :] + exponent

    def _rows(self, index: Int[Array, " k"]) -> Float[Array, "k m"]:
        return self.problem.a[index, None] * jnp.exp(self._logits(index))


def _check_length(values: Array, length: int) -> None:
    if values.ndim == 0 or values.shape[0] != length:
        raise ValueError(
            f"values of shape {values.shape} for a plan with {length} points on that side: expected a first axis of "
            f"{length}. For the other direction pass transpose=True."
        )
