"""The entry point: from points, weights and a cost to a plan that says whether it can be trusted."""

from __future__ import annotations

from typing import Any, get_args

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array

from .._checks import check_count, check_positive
from ._arguments import make_geometry, make_marginals, make_start, make_weights
from ._certificate import certify
from ._implicit import differentiable
from ._iterate import Method, Settings, iterate
from ._marginals import Soft
from ._problem import Problem
from ._solution import Transport

_ROUNDING = 0.25
"""Share of the largest relative rounding error of a plan's entries that is left in its sums."""
_MOST = 0.1
"""Largest default tolerance: what misses its marginals by more is no plan, whatever the dtype resolves."""


def solve(
    x: Any = None,
    y: Any = None,
    *,
    a: Any = None,
    b: Any = None,
    cost: Any = "sqeuclidean",
    epsilon: Any,
    method: Method = "auto",
    marginal_strength: Any = None,
    initial: Any = None,
    tolerance: Any = None,
    max_sweeps: int = 2000,
    max_newton_steps: int = 100,
) -> Transport:
    """Entropic optimal transport: ``min_P <C, P> + epsilon KL(P | a b^T)`` over plans with marginals a and b.

    ``KL(P | Q) = sum P log(P / Q) - P + Q``. Up to 4 million pairs costs are stored, beyond that computed block by
    block at each pass: memory is then linear in n + m. Cost of a sweep, a pair of passes: O(n m d). Iterations are not
    differentiated: derivatives come from the conditions that optimal potentials meet.

    Args:
        x: points (n, d), or None when ``cost`` is a matrix.
        y: points (m, d), or None when ``cost`` is a matrix.
        a: weights (n,) that sum to one, or to any mass with ``marginal_strength``; None for equal ones of sum one.
            Zeros are allowed.
        b: weights (m,).
        cost: "sqeuclidean", "euclidean", "l1", "cosine", a function of two points, or a matrix (n, m).
        epsilon: regularisation, in units of the cost.
        method: "auto" goes down a ladder of regularisations with sweeps and Newton steps, whichever gets on faster; for
            costs that are not stored the sweeps are accelerated.
            "sinkhorn" and "anderson" (accelerated) make sweeps at ``epsilon`` only; "newton-cg" (conjugate gradients on
            the whole plan) and "newton-sparse" (on its largest entries) are "auto" with that linear solver.
        marginal_strength: None holds both marginals; a number, or a pair (None for an exact one), charges
            ``strength KL(marginal | weights)`` instead, in units of the cost.
        initial: potential g of shape (m,) to start from, such as that of a similar problem.
        tolerance: largest summed absolute deviation of both marginals, as a share of the mass: of what is moved, or of
            the lesser of the sums of a and b where that is more. By default 1e-12 in float64 and 1e-5 in float32, or
            what the dtype resolves at this epsilon if that is more, up to a tenth.
        max_sweeps: most Sinkhorn sweeps.
        max_newton_steps: most Newton steps.

    Returns:
        A `Transport`, which says whether it converged and how far from optimal it can be.

    Raises:
        ValueError: for points or costs that are not finite or of less than 32 bits, weights that are negative or do not
            sum to one, sets that are empty or do not match, or an epsilon that is not positive.

    Reference: Cuturi, arXiv:1306.0895 (sweeps); Tang et al., arXiv:2401.12253 (Newton steps after sweeps).
    """
    if method not in get_args(Method):
        raise ValueError(f"method={method!r}: expected one of {list(get_args(Method))}.")
    geometry = make_geometry(x, y, cost)
    (n, m), dtype = geometry.shape, geometry.dtype
    marginals = make_marginals(marginal_strength, dtype)
    # With one marginal soft there is a plan for any two masses.
    free = any(isinstance(each, Soft) for each in marginals)
    weights = make_weights("a", a, n, dtype, any_mass=free), make_weights("b", b, m, dtype, any_mass=free)
    problem = Problem(geometry, *weights, check_positive("epsilon", epsilon, dtype), *marginals)
    start = make_start(initial, m, dtype)
    tolerance = None if tolerance is None else check_positive("tolerance", tolerance, dtype, "shares of the mass")
    most = check_count("max_sweeps", max_sweeps, 0), check_count("max_newton_steps", max_newton_steps, 0)
    return _solve(problem, start, tolerance, Settings(method, *most))


@eqx.filter_jit
def _solve(problem: Problem, initial: Array | None, tolerance: Array | None, settings: Settings) -> Transport:
    fixed, initial = jax.lax.stop_gradient((problem, initial))
    dtype = fixed.geometry.dtype
    scale = fixed.geometry.spread(fixed.a, fixed.b)
    relative = _ROUNDING * jnp.finfo(dtype).eps / fixed.epsilon
    least = jnp.clip(8.0 * relative * scale, 1e-12 if dtype == jnp.float64 else 1e-5, _MOST)
    wanted = least if tolerance is None else tolerance
    # Short of the tolerance by what rounding may hide.
    aim = jnp.maximum(wanted - 4.0 * relative * scale, 0.25 * wanted)
    start = jnp.zeros_like(fixed.b) if initial is None else initial
    found = iterate(fixed, start, scale, aim, settings, warm=initial is not None)
    known = jax.lax.stop_gradient(certify(fixed, found.point))
    resolution = relative * known.size
    if tolerance is None:
        tolerance = jnp.clip(8.0 * resolution, least, _MOST)
    potentials, value = differentiable(problem, found.point.f, found.point.g)
    return Transport(
        problem=problem,
        cost=value,
        potentials=potentials,
        linear_cost=known.linear,
        dual=known.dual,
        primal=known.primal,
        gap=known.gap,
        row_error=known.row_error,
        column_error=known.column_error,
        tolerance=tolerance,
        resolution=resolution,
        num_sweeps=found.num_sweeps,
        num_newton_steps=found.num_newton_steps,
    )
