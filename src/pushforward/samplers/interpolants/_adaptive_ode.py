"""The flow of an interpolant to a tolerance, by an adaptive Runge-Kutta method of diffrax."""

from __future__ import annotations

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PyTree

from .._checks import check_count, check_positive
from ._adaptive_sde import Adaptive
from ._fields import AbstractFields
from ._points import check_moved, check_points
from ._times import check_arrived, check_span


def flow_adaptive(
    fields: AbstractFields,
    x: Float[Array, "n *event"],
    *,
    rtol: Any = 1e-5,
    atol: Any = 1e-5,
    start: float = 0.0,
    end: float = 1.0,
    max_steps: int = 4096,
    solver: Any = None,
    condition: PyTree = None,
) -> Adaptive:
    """Move points along ``dX = b(t, X) dt``, each with steps of its own, as long as the tolerance allows.

    Needs diffrax: ``pip install "pushforward[ode]"``.

    Args:
        fields: fields of an interpolant.
        x: points at ``start``.
        rtol: error allowed in a step, as a share of the point.
        atol: error allowed in a step, in units of the points.
        start: first time.
        end: last time; before ``start`` for the way back.
        max_steps: steps after which a point that has not arrived is an error.
        solver: a solver of diffrax; ``diffrax.Tsit5()`` where None, of order 5.
        condition: passed on to the fields, one leading entry per point.

    Returns:
        Points at ``end``, evaluations and refused steps of each (six evaluations a step are counted, as of Tsit5).

    Raises:
        ImportError: without diffrax.
        FloatingPointError: where a point does not arrive.
    """
    try:
        import diffrax
    except ImportError as error:
        raise ImportError(
            'flow_adaptive needs diffrax: pip install "pushforward[ode]"; `flow` with num_steps does without.'
        ) from error
    if solver is not None and not isinstance(solver, diffrax.AbstractSolver):
        raise ValueError(f"solver={solver!r}: expected a solver of diffrax such as diffrax.Tsit5(), or None.")
    x, condition = check_points(fields, x, condition)
    check_span(start, end)
    rules = (
        check_positive("rtol", rtol, x.dtype, "no units"),
        check_positive("atol", atol, x.dtype, "units of the points"),
        jnp.asarray(start, x.dtype),
        jnp.asarray(end, x.dtype),
    )
    most = check_count("max_steps", max_steps, 1)
    points, done, tried, refused = _solve(
        fields, x, condition, rules, most, diffrax.Tsit5() if solver is None else solver
    )
    check_arrived(done, end, most)
    return Adaptive(points, 6 * tried + 1, refused)


@eqx.filter_jit
def _solve(
    fields: AbstractFields, x: Array, condition: PyTree, rules: tuple[Array, ...], most: int, solver: Any
) -> tuple[Array, Array, Array, Array]:
    import diffrax

    rtol, atol, start, end = rules

    def one(x: Array, condition: PyTree = None) -> tuple[Array, Array, Array, Array]:
        def velocity(t: Any, x: Array, args: Any) -> Array:
            found = fields.velocity(jnp.asarray(t, x.dtype), x, condition)
            check_moved(found[None], x[None])
            return found

        found = diffrax.diffeqsolve(
            diffrax.ODETerm(velocity),
            solver,
            start,
            end,
            None,
            x,
            stepsize_controller=diffrax.PIDController(rtol=rtol, atol=atol),
            max_steps=most,
            throw=False,
        )
        arrived = (found.result == diffrax.RESULTS.successful) & jnp.isfinite(found.ys[0]).all()
        return found.ys[0], arrived, found.stats["num_steps"], found.stats["num_rejected_steps"]

    return jax.vmap(one)(x) if condition is None else jax.vmap(one)(x, condition)
