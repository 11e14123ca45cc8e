"""The debiased Sinkhorn divergence."""

from __future__ import annotations

from typing import Any

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from ._arguments import make_points
from ._grid import Grid
from ._iterate import Method
from ._solution import Transport
from ._solve import solve


class Divergence(eqx.Module):
    """A Sinkhorn divergence with the three transport problems it is made of.

    Attributes:
        value: the divergence, in units of the cost. Differentiable in points, weights and epsilon.
        between: transport from x to y.
        within: transport from x to x and from y to y.
    """

    value: Float[Array, ""]
    between: Transport
    within: tuple[Transport, Transport]

    @property
    def converged(self) -> Bool[Array, ""]:
        """Whether all three problems are solved to their tolerance."""
        return self.between.converged & self.within[0].converged & self.within[1].converged

    @property
    def gap(self) -> Float[Array, ""]:
        """By how much `value` can be wrong: the certified gaps of the three problems, as they enter it."""
        return self.between.gap + 0.5 * (self.within[0].gap + self.within[1].gap)


def sinkhorn_divergence(
    x: Any,
    y: Any,
    *,
    a: Any = None,
    b: Any = None,
    cost: Any = "sqeuclidean",
    epsilon: Any,
    marginal_strength: Any = None,
    method: Method = "auto",
    tolerance: Any = None,
    max_sweeps: int = 2000,
    max_newton_steps: int = 100,
) -> Divergence:
    """``S(a, b) = OT(a, b) - (OT(a, a) + OT(b, b)) / 2 + epsilon / 2 (sum a - sum b)^2``, OT being what `solve` gives.

    Zero where the two measures are equal, and more elsewhere (but for `Divergence.gap`) for costs of which
    ``exp(-cost / epsilon)`` is a positive definite kernel: "sqeuclidean", "euclidean", "l1" and "cosine". It tends to
    the unregularised cost as epsilon falls and to a kernel distance as it grows. The last term is there for soft
    marginals only, where masses may differ. The gradient in x is that of a sampled loss without the pull towards the
    mean that entropic transport alone has.

    Cost: three times that of `solve`. Bias against unregularised transport: of order epsilon^2 for smooth densities in
    exact arithmetic, besides that of taking samples for them.

    Args:
        x: points (n, d), or a `Grid`.
        y: points (m, d), or a `Grid`.
        a: weights (n,) that sum to one, or to any mass with ``marginal_strength``; None for equal ones.
        b: weights (m,).
        cost: as for `solve`, but no matrix: costs within each set are needed too. Of a function: a symmetric one.
        epsilon: regularisation, in units of the cost.
        marginal_strength: None holds the marginals; a number charges ``strength KL(marginal | weights)`` for each.
        method: as for `solve`.
        tolerance: as for `solve`.
        max_sweeps: as for `solve`.
        max_newton_steps: as for `solve`.

    Raises:
        ValueError: for a matrix of costs, a pair of strengths, or what `solve` refuses.

    Reference: Feydy et al., Interpolating between optimal transport and MMD using Sinkhorn divergences,
    arXiv:1810.08278, eq. 3; Sejourne et al., Sinkhorn divergences for unbalanced optimal transport, arXiv:1910.12958.
    """
    if not isinstance(cost, str) and not callable(cost):
        raise ValueError(
            f"cost is {type(cost).__name__}: expected a name or a function of two points. The divergence needs costs "
            "within x and within y as well, which a matrix between them does not give."
        )
    if isinstance(marginal_strength, tuple | list):
        raise ValueError(
            f"marginal_strength={marginal_strength!r}: expected None or one number. With a strength for each side the "
            "divergence would not be zero for equal measures."
        )
    options: dict[str, Any] = {
        "cost": cost,
        "epsilon": epsilon,
        "marginal_strength": marginal_strength,
        "method": method,
        "tolerance": tolerance,
        "max_sweeps": max_sweeps,
        "max_newton_steps": max_newton_steps,
    }
    if not isinstance(x, Grid) and not isinstance(y, Grid) and x is not None and y is not None:
        x, y = make_points("x", x), make_points("y", y)
        # Of one dtype, so that all three problems are solved in it.
        dtype = jnp.promote_types(x.dtype, y.dtype)
        x, y = x.astype(dtype), y.astype(dtype)
    between = solve(x, y, a=a, b=b, **options)
    within = solve(x, x, a=a, b=a, **options), solve(y, y, a=b, b=b, **options)
    value = between.cost - 0.5 * (within[0].cost + within[1].cost)
    if marginal_strength is not None:
        problem = between.problem
        value = value + 0.5 * problem.epsilon * (jnp.sum(problem.a) - jnp.sum(problem.b)) ** 2
    return Divergence(value, between, within)
