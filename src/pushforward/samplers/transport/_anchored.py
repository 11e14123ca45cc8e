"""Stored costs seen from a point of the dual: sums over pairs become matrix products while potentials stay near it.

Reference: Schmitzer, Stabilized sparse scaling algorithms for entropy regularized transport problems, arXiv:1610.06519,
section 3.2 (there scalings are absorbed when they grow; here everything is computed from the costs instead).
"""

from __future__ import annotations

from typing import Any, Literal

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, PyTree

from ..pairs._distance import product
from ._geometry import AbstractGeometry, Dense, PairTerm
from ._problem import Point, Problem

_FAR = 20.0
"""Change of a potential, in units of epsilon, up to which the kernel is used."""


class Anchored(AbstractGeometry):
    """A matrix of costs with ``K_ij = exp((f_i + g_j - C_ij) / epsilon)`` at some potentials.

    A marginal then costs one product of K with a vector instead of n m exponentials. Where the potentials have moved
    far, or a sum is so small that what K has lost by underflow could matter, the costs are used.
    """

    base: Dense
    kernel: Float[Array, "n m"]
    f: Float[Array, " n"]
    g: Float[Array, " m"]
    epsilon: Float[Array, ""]

    @property
    def shape(self) -> tuple[int, int]:
        """See `AbstractGeometry.shape`."""
        return self.base.shape

    @property
    def dtype(self) -> Any:
        """See `AbstractGeometry.dtype`."""
        return self.base.dtype

    @property
    def transposed(self) -> Anchored:
        """See `AbstractGeometry.transposed`."""
        return Anchored(self.base.transposed, self.kernel.T, self.g, self.f, self.epsilon)

    def reduce(
        self,
        term: PairTerm,
        parameters: PyTree,
        rows: PyTree,
        columns: PyTree,
        reduction: Literal["sum", "logsumexp"] = "sum",
    ) -> PyTree:
        """See `AbstractGeometry.reduce`."""
        return self.base.reduce(term, parameters, rows, columns, reduction)

    def cost_rows(self, index: Int[Array, " k"]) -> Float[Array, "k m"]:
        """See `AbstractGeometry.cost_rows`."""
        return self.base.cost_rows(index)

    def log_marginal(
        self, f: Float[Array, " n"], g: Float[Array, " m"], log_weight: Float[Array, " m"], epsilon: Float[Array, ""]
    ) -> Float[Array, " n"]:
        """See `AbstractGeometry.log_marginal`."""
        moved = jnp.where(log_weight > -jnp.inf, (g - self.g) / epsilon, 0.0)
        total = product(self.kernel, jnp.exp(jnp.minimum(moved, _FAR) + log_weight)[:, None])[:, 0]
        limits = jnp.finfo(total.dtype)
        least = limits.tiny * jnp.exp(_FAR) / limits.eps**2
        near = (jnp.max(jnp.abs(moved)) <= _FAR) & (jnp.min(total) >= least) & (epsilon == self.epsilon)
        return jax.lax.cond(
            near,
            lambda: jnp.log(total) + (f - self.f) / epsilon,
            lambda: self.base.log_marginal(f, g, log_weight, epsilon),
        )

    def push(
        self,
        f: Float[Array, " n"],
        g: Float[Array, " m"],
        log_weight: Float[Array, " m"],
        epsilon: Float[Array, ""],
        vectors: Float[Array, "m k"],
    ) -> Float[Array, "n k"]:
        """See `AbstractGeometry.push`."""
        moved = jnp.where(log_weight > -jnp.inf, (g - self.g) / epsilon, 0.0)
        near = (jnp.max(jnp.abs(moved)) <= _FAR) & (epsilon == self.epsilon)
        return jax.lax.cond(
            near,
            lambda: (
                jnp.exp((f - self.f) / epsilon)[:, None]
                * product(self.kernel, jnp.exp(jnp.minimum(moved, _FAR) + log_weight)[:, None] * vectors)
            ),
            lambda: self.base.push(f, g, log_weight, epsilon, vectors),
        )

    def plan_rows(
        self,
        left: Float[Array, " n"],
        right: Float[Array, " m"],
        f: Float[Array, " n"],
        g: Float[Array, " m"],
        index: Int[Array, " k"],
    ) -> Float[Array, "k m"]:
        """Some rows of ``left_i right_j exp((f_i + g_j - C_ij) / epsilon)``, for potentials near the anchor."""
        rows, columns = jnp.exp((f - self.f) / self.epsilon), jnp.exp((g - self.g) / self.epsilon)
        return (left * rows)[index, None] * self.kernel[index] * (right * columns)[None, :]


def begin(problem: Problem, f: Float[Array, " n"], g: Float[Array, " m"]) -> tuple[Problem, Point]:
    """The problem seen from the point with the best f for this g, and that point. Two passes over stored costs."""
    if not isinstance(problem.geometry, Dense):
        return problem, problem.point(f, g)
    soft = f - problem.epsilon * problem.log_rows(f, g)
    f = problem.row_marginal.update(soft, problem.epsilon)
    nothing = jnp.zeros_like(f)
    here = anchored(problem, Point(f, g, nothing, jnp.zeros_like(g), jnp.zeros_like(problem.epsilon)))
    return here, here.point(f, g)


def anchored(problem: Problem, point: Point) -> Problem:
    """The same problem, seen from a point whose f is optimal for its g. Streamed costs stay as they are."""
    geometry = problem.geometry
    base = geometry.base if isinstance(geometry, Anchored) else geometry
    if not isinstance(base, Dense):
        return problem
    # Nothing bounds the exponent where a weight is zero; potentials there are found at the end, from the costs.
    used = (problem.a > 0)[:, None] & (problem.b > 0)[None, :]
    exponent = (point.f[:, None] + point.g[None, :] - base.matrix) / problem.epsilon
    kernel = jnp.exp(jnp.where(used, exponent, 0.0))
    return eqx.tree_at(lambda p: p.geometry, problem, Anchored(base, kernel, point.f, point.g, problem.epsilon))
