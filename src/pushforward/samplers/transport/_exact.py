"""Unregularised transport, by proximal steps that are warm-started entropic problems.

``P_{k+1} = argmin <C, P> + delta KL(P | P_k)`` from ``P_0 = a b^T`` is the entropic plan at ``delta / k``: each step
only adds ``-C / delta`` to the logarithm of the kernel. So proximal steps are a descent of epsilon, any number of them
can be taken at once, and each starts from the potentials of the last.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from .._checks import check_positive
from ._arguments import make_geometry, make_weights
from ._certificate import certify
from ._implicit import differentiable
from ._iterate import choose_system
from ._marginals import Exact
from ._newton import newton
from ._problem import Point, Problem, log_weights
from ._sinkhorn import sweep
from ._solution import Transport

_COARSEST = 0.2
"""First regularisation, as a share of the scale of the costs."""
_DECAY = 0.5
_LOOSE = 0.05
"""Marginal error of a step, as a share of the mass and of how far from optimal the last one was."""
_STEPS = 20
"""Newton steps for one proximal step, at most."""
_ROUNDING = 16.0
"""Allowance for rounding of the two bounds, in units of the dtype's epsilon and their size."""


class ExactTransport(eqx.Module):
    """Unregularised transport between an upper and a lower bound.

    Attributes:
        cost: ``<C, P>`` of a plan P that meets its marginals: an upper bound. Differentiable, with the derivatives of
            the entropic optimum at the last epsilon; where the optimal plan or potentials are not unique, the
            unregularised cost has none.
        dual: ``sum a f + sum b g`` of `potentials`: a lower bound.
        potentials: f of shape (n,) and g of shape (m,) with ``f_i + g_j <= C_ij`` wherever weights are positive.
        gap: ``cost - dual``, rounding allowed for: how far either is from the optimum at most.
        tolerance: what the gap was to reach, in units of the cost.
        num_proximal_steps: outer steps.
        transport: the last entropic problem, for its plan and all that is done with one.
    """

    cost: Float[Array, ""]
    dual: Float[Array, ""]
    potentials: tuple[Float[Array, " n"], Float[Array, " m"]]
    gap: Float[Array, ""]
    tolerance: Float[Array, ""]
    num_proximal_steps: Int[Array, ""]
    transport: Transport

    @property
    def converged(self) -> Bool[Array, ""]:
        """Whether the gap is at most the tolerance."""
        return self.gap <= self.tolerance

    @property
    def plan(self) -> Float[Array, "n m"]:
        """The plan, its marginals off by `Transport.marginal_error`. For large sets use the methods of `transport`."""
        return self.transport.plan


def exact(
    x: Any = None,
    y: Any = None,
    *,
    a: Any = None,
    b: Any = None,
    cost: Any = "sqeuclidean",
    tolerance: Any = None,
) -> ExactTransport:
    """Optimal transport without regularisation: ``min_P <C, P>`` over plans with marginals a and b.

    Solves entropic problems at halving epsilon until the certified gap is closed: the cost of the rounded plan minus
    the dual value after a c-transform. The error falls in proportion to epsilon and, where the optimal plan is unique,
    in the end exponentially in 1 / epsilon. Memory is linear in n + m for large clouds, as in `solve`.

    Cost: some tens of Newton steps and sweeps, O(n m d) each, and for stored costs of up to 2048 columns O(n m^2).
    For measures on a line, and for assignments of a few hundred points, direct methods are faster.

    Args:
        x: points (n, d), or a `Grid`, or None when ``cost`` is a matrix.
        y: points (m, d), or a `Grid`, or None when ``cost`` is a matrix.
        a: weights (n,) that sum to one; None for equal ones. Zeros are allowed.
        b: weights (m,).
        cost: as for `solve`.
        tolerance: largest gap, as a share of the mean absolute deviation of the costs. By default 1e-6 in float64 and
            2e-3 in float32, which cannot do much better: what it loses to rounding grows as epsilon falls.

    Raises:
        ValueError: for what `solve` refuses, or a tolerance that is not positive.

    Reference: Wu et al., PINS: proximal iterations with sparse Newton and Sinkhorn for optimal transport,
    arXiv:2502.03749, section 3; Xie et al., A fast proximal point method for Wasserstein distance, arXiv:1802.04307.
    """
    geometry = make_geometry(x, y, cost)
    (n, m), dtype = geometry.shape, geometry.dtype
    weights = make_weights("a", a, n, dtype, any_mass=False), make_weights("b", b, m, dtype, any_mass=False)
    share = (1e-6 if dtype == jnp.float64 else 2e-3) if tolerance is None else tolerance
    # The regularisation is chosen below.
    problem = Problem(geometry, *weights, jnp.ones((), dtype), Exact(), Exact())
    return _exact(problem, check_positive("tolerance", share, dtype, "shares of the costs' scale"))


class Bounds(NamedTuple):
    """What a plan and potentials say about the unregularised optimum."""

    upper: Float[Array, ""]
    lower: Float[Array, ""]
    gap: Float[Array, ""]
    potentials: tuple[Float[Array, " n"], Float[Array, " m"]]


class _State(NamedTuple):
    epsilon: Float[Array, ""]
    point: Point
    above: Float[Array, ""]
    slope: Float[Array, " m"]
    """How g changed with epsilon on the last step."""
    bounds: Bounds
    num_rungs: Int[Array, ""]
    num_steps: Int[Array, ""]


@eqx.filter_jit
def _exact(problem: Problem, share: Float[Array, ""]) -> ExactTransport:
    fixed = jax.lax.stop_gradient(problem)
    dtype = fixed.geometry.dtype
    spread = fixed.geometry.spread(fixed.a, fixed.b)
    scale = jnp.where(spread > 0, spread, 1.0)
    end = _descend(fixed, scale, share)
    problem = problem.at(jax.lax.stop_gradient(end.above))
    fixed = fixed.at(end.above)
    known = jax.lax.stop_gradient(certify(fixed, end.point))
    potentials, value = differentiable(problem, end.point.f, end.point.g)
    transport = Transport(
        problem=problem,
        cost=value,
        potentials=potentials,
        linear_cost=known.linear,
        dual=known.dual,
        primal=known.primal,
        gap=known.gap,
        row_error=known.row_error,
        column_error=known.column_error,
        tolerance=_LOOSE * share,
        resolution=0.5 * jnp.finfo(dtype).eps * scale / end.above,
        num_sweeps=end.num_rungs,
        num_newton_steps=end.num_steps,
    )
    bounds = jax.lax.stop_gradient(end.bounds)
    return ExactTransport(
        cost=bounds.upper + value - jax.lax.stop_gradient(value),
        dual=bounds.lower,
        potentials=bounds.potentials,
        gap=bounds.gap,
        # Below what rounding leaves no tolerance can be met; where all costs are equal it is all there is.
        tolerance=jnp.where(spread > 0, share * scale, bounds.gap),
        num_proximal_steps=end.num_rungs,
        transport=transport,
    )


def _descend(problem: Problem, scale: Float[Array, ""], share: Float[Array, ""]) -> _State:
    """Halve epsilon until the gap is at most ``share * scale``, or rounding takes over."""
    system = choose_system(problem, "auto")
    dtype = problem.geometry.dtype
    least = jnp.finfo(dtype).eps * scale / share

    def unfinished(state: _State) -> Array:
        return (state.bounds.gap > share * scale) & (state.epsilon > least)

    def body(state: _State) -> _State:
        rung = problem.at(state.epsilon)
        known = jnp.isfinite(state.above)
        step = jnp.where(known, state.above - state.epsilon, 0.0)
        point = sweep(rung, rung.point(state.point.f, state.point.g - step * state.slope))
        wanted = _LOOSE * jnp.clip(state.bounds.gap / scale, share, 1.0)
        found = newton(rung, system, point, wanted, _STEPS)
        point = _centred(problem, found.point)
        slope = jnp.where(known, (state.point.g - point.g) / jnp.where(step > 0, step, 1.0), 0.0)
        bounds = bound(rung, point, scale)
        # Potentials of an earlier step may be the better ones.
        better = bounds.lower >= state.bounds.lower
        lower = jnp.where(better, bounds.lower, state.bounds.lower)
        kept = jax.tree.map(lambda a, b: jnp.where(better, a, b), bounds.potentials, state.bounds.potentials)
        bounds = Bounds(bounds.upper, lower, bounds.gap - (lower - bounds.lower), kept)
        return _State(
            state.epsilon * _DECAY,
            point,
            state.epsilon,
            slope,
            bounds,
            state.num_rungs + 1,
            state.num_steps + found.num_steps,
        )

    start = problem.at(_COARSEST * scale)
    flat = start.point(jnp.zeros_like(problem.a), jnp.zeros_like(problem.b))
    infinite, zero = jnp.full((), jnp.inf, dtype), jnp.zeros((), jnp.int32)
    nothing = Bounds(infinite, -infinite, infinite, (flat.f, flat.g))
    # The state's point belongs to ``above``: the first step has no step before it.
    state = _State(start.epsilon, flat, infinite, jnp.zeros_like(flat.g), nothing, zero, zero)
    return jax.lax.while_loop(unfinished, body, body(state))


def _centred(problem: Problem, point: Point) -> Point:
    """Without a constant common to both potentials, which would cost digits."""
    shift = 0.5 * (jnp.sum(problem.a * point.f) - jnp.sum(problem.b * point.g))
    return point._replace(f=point.f - shift, g=point.g + shift)


def bound(problem: Problem, point: Point, scale: Float[Array, ""]) -> Bounds:
    """Bounds on the unregularised optimum from entropic potentials."""
    upper = certify(problem, point).linear
    f = _c_transform(problem.geometry, point.g, problem.b, scale)
    g = _c_transform(problem.geometry.transposed, f, problem.a, scale)
    lower = jnp.sum(problem.a * f) + jnp.sum(problem.b * g)
    size = jnp.sum(problem.a * jnp.abs(f)) + jnp.sum(problem.b * jnp.abs(g)) + jnp.abs(upper)
    rounding = _ROUNDING * jnp.finfo(size.dtype).eps * size
    return Bounds(upper, lower, jnp.maximum(upper - lower, 0.0) + rounding, (f, g))


def _c_transform(geometry: Any, g: Float[Array, " m"], b: Float[Array, " m"], scale: Float[Array, ""]) -> Array:
    """``min_j (C_ij - g_j)`` over columns with weight, as a soft minimum, which is never more."""
    epsilon = jnp.finfo(g.dtype).eps * scale
    used = log_weights(jnp.where(b > 0, 1.0, 0.0).astype(g.dtype))
    return -epsilon * geometry.log_marginal(jnp.zeros((geometry.shape[0],), g.dtype), g, used, epsilon)
