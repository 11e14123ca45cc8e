"""Transport of a share of the mass."""

from __future__ import annotations

from typing import Any, get_args

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from .._checks import check_count, check_positive
from ._arguments import make_geometry, make_weights
from ._iterate import Method, Settings
from ._marginals import Exact
from ._padded import largest_cost, padded
from ._problem import Problem
from ._solution import Transport
from ._solve import _solve

_FAR = 4.0
"""Cost between the two dummies, in units of the largest cost. From one on it pays to keep them apart."""
_FAR_IN_EPSILON = 100.0


class PartialTransport(eqx.Module):
    """A plan that moves a given mass, from where and to where that is cheapest.

    Attributes:
        extended: the balanced problem that was solved, with a dummy for x and one for y last. What a point of x sends
            to the dummy of y stays where it is. For status, potentials and iterations.
    """

    extended: Transport

    @property
    def cost(self) -> Float[Array, ""]:
        """The optimal value of ``<C, P> + epsilon KL``, KL being that of the extended plan. Differentiable."""
        return self.extended.cost

    @property
    def linear_cost(self) -> Float[Array, ""]:
        """``<C, P>`` of a plan that moves the mass and keeps to the weights."""
        return self.extended.linear_cost

    @property
    def gap(self) -> Float[Array, ""]:
        """By how much `cost` can be wrong."""
        return self.extended.gap

    @property
    def converged(self) -> Bool[Array, ""]:
        """Whether the marginal error is at most the tolerance."""
        return self.extended.converged

    @property
    def plan(self) -> Float[Array, "n m"]:
        """The whole plan: n m numbers."""
        return self.extended.plan[:-1, :-1]

    @property
    def potentials(self) -> tuple[Float[Array, " n"], Float[Array, " m"]]:
        """Potentials f and g, zero for the dummies: ``-price`` is what is left between those. At most about zero."""
        f, g = self.extended.potentials
        return f[:-1] + g[-1], g[:-1] + f[-1]

    @property
    def price(self) -> Float[Array, ""]:
        """Derivative of the cost in the mass, but for terms of order epsilon."""
        f, g = self.extended.potentials
        return -(f[-1] + g[-1])

    def apply(self, vectors: Float[Array, "m ..."], *, transpose: bool = False) -> Float[Array, "n ..."]:
        """``P v``, or ``P^T v``, without forming the plan."""
        vectors = jnp.asarray(vectors, self.extended.problem.geometry.dtype)
        count = self.extended.problem.geometry.shape[0 if transpose else 1] - 1
        if vectors.ndim == 0 or vectors.shape[0] != count:
            raise ValueError(f"vectors has shape {vectors.shape}: expected a first axis of {count} points.")
        with_dummy = jnp.concatenate([vectors, jnp.zeros_like(vectors[:1])])
        return self.extended.apply(with_dummy, transpose=transpose)[:-1]

    def marginals(self) -> tuple[Float[Array, " n"], Float[Array, " m"]]:
        """What is moved from each point of x and to each point of y."""
        n, m = self.extended.problem.geometry.shape
        return self.apply(jnp.ones((m - 1,))), self.apply(jnp.ones((n - 1,)), transpose=True)


def partial(
    x: Any = None,
    y: Any = None,
    *,
    mass: Any,
    a: Any = None,
    b: Any = None,
    cost: Any = "sqeuclidean",
    epsilon: Any,
    method: Method = "auto",
    tolerance: Any = None,
    max_sweeps: int = 2000,
    max_newton_steps: int = 100,
) -> PartialTransport:
    """Entropic transport of a given mass: row sums at most a, column sums at most b, and ``sum P = mass``.

    A dummy of weight ``sum b - mass`` joins x and one of weight ``sum a - mass`` joins y; what is not moved goes to
    them at no cost. The result is a balanced problem, solved and differentiated as such:
    ``min <C, P> + epsilon KL(P' | a' b'^T)`` over the extended plans P'. Against a regularisation of P alone there are
    terms in what stays too, so that no weight is used up entirely at positive epsilon.

    Cost: that of `solve` with a point more on each side. Differentiable in points, costs, weights, mass and epsilon.

    Args:
        x: points (n, d), or None when ``cost`` is a matrix.
        y: points (m, d), or None when ``cost`` is a matrix.
        mass: how much to move: positive, and no more than either side has.
        a: weights (n,), of any sum; None for 1 / n each.
        b: weights (m,), of any sum.
        cost: as for `solve`.
        epsilon: regularisation, in units of the cost.
        method: as for `solve`.
        tolerance: as for `solve`, as a share of the mass that there is, moved or not: ``sum a + sum b - mass``.
        max_sweeps: as for `solve`.
        max_newton_steps: as for `solve`.

    Raises:
        ValueError: for a mass that cannot be moved, or what `solve` refuses.

    Reference: Chapel, Alaya and Gasso, Partial optimal transport with applications on positive-unlabeled learning,
    arXiv:2002.08276, proposition 1 (the dummies); Benamou et al., arXiv:1412.5154, section 5 (entropic).
    """
    if method not in get_args(Method):
        raise ValueError(f"method={method!r}: expected one of {list(get_args(Method))}.")
    geometry = make_geometry(x, y, cost)
    (n, m), dtype = geometry.shape, geometry.dtype
    weights = make_weights("a", a, n, dtype, any_mass=True), make_weights("b", b, m, dtype, any_mass=True)
    share = check_positive("mass", mass, dtype, "units of the weights")
    masses = jnp.sum(weights[0]), jnp.sum(weights[1])
    slack = 100.0 * float(jnp.finfo(dtype).eps)
    if not any(isinstance(each, jax.core.Tracer) for each in (share, *masses)):
        most = min(float(masses[0]), float(masses[1]))
        if float(share) > most * (1.0 + slack):
            raise ValueError(
                f"mass={float(share):g}: expected at most what either side has, {most:g}; to move all pass that."
            )
    level = check_positive("epsilon", epsilon, dtype)
    corner = _FAR * largest_cost(jax.lax.stop_gradient(geometry)) + _FAR_IN_EPSILON * jax.lax.stop_gradient(level)
    left = tuple(_left(each, share, slack) for each in masses)
    extended = (
        jnp.concatenate([weights[0], left[1][None]]),
        jnp.concatenate([weights[1], left[0][None]]),
    )
    problem = Problem(padded(geometry, corner), *extended, level, Exact(), Exact())
    wanted = None if tolerance is None else check_positive("tolerance", tolerance, dtype, "shares of the mass")
    settings = Settings(
        method, check_count("max_sweeps", max_sweeps, 0), check_count("max_newton_steps", max_newton_steps, 0)
    )
    return PartialTransport(_solve(problem, None, wanted, settings))


def _left(total: Array, share: Array, slack: float) -> Array:
    """What stays; nothing where it is only the rounding of a sum."""
    return jnp.where(total - share > slack * total, total - share, 0.0)
