"""The density of what an interpolant's flow makes of its base."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PyTree

from ...models._types import Key
from .._checks import check_count, check_key
from ._fields import AbstractFields
from ._points import check_log_density, check_moved, check_points
from ._runge_kutta import Rule, integrate
from ._times import make_times


class LogProb(NamedTuple):
    """Log-densities of points."""

    value: Float[Array, " n"]
    """In nats."""
    standard_error: Float[Array, " n"]
    """Of the value, from the probes of the trace; zero where the trace is exact."""
    base: Float[Array, "n *event"]
    """Where the points come from."""


def log_prob(
    fields: AbstractFields,
    log_base: Callable[[Float[Array, " *event"]], Float[Array, ""]],
    x: Float[Array, "n *event"],
    *,
    num_steps: int = 100,
    times: Any = None,
    rule: Rule = "rk4",
    num_probes: int | None = None,
    key: Key | None = None,
    condition: PyTree = None,
) -> LogProb:
    """Log-density of the flow of ``b``, at points of the target.

    ``log p(x) = log p_0(X_0) - int_0^1 div b(t, X_t) dt`` along the flow that ends at x.

    Args:
        fields: fields of an interpolant.
        log_base: log-density of one point of the base, normalised.
        x: points at time 1.
        num_steps: steps from 1 to 0, unless ``times`` are given.
        times: increasing times in [0, 1].
        rule: see `flow`.
        num_probes: None for the exact trace, d Jacobian-vector products at once; otherwise that many random directions
            (at least two, for their standard error), the same at all times.
        key: for the probes.
        condition: passed on to the fields, one leading entry per point.

    Returns:
        Values, their standard errors, and the points of the base.

    Raises:
        ValueError: where probes are asked for without a key, or the other way round.

    Bias and cost: the error of the integration; probes add none. Per step ``min(d, num_probes)`` times a velocity.

    Reference: Chen et al., Neural ordinary differential equations, arXiv:1806.07366, eq. 8; Hutchinson probes after
    Grathwohl et al., FFJORD, arXiv:1810.01367, eq. 7.
    """
    x, condition = check_points(fields, x, condition)
    check_log_density("log_base", log_base, x.shape[1:], x.dtype)
    if (num_probes is None) != (key is None):
        raise ValueError("num_probes and key belong together: pass both for random probes, or neither.")
    if num_probes is not None:
        num_probes = check_count("num_probes", num_probes, 2)
        key = check_key(key)
    grid = make_times(times, num_steps, x.dtype, reverse=True)
    return _log_prob(fields, log_base, x, grid, rule, num_probes, key, condition)


@eqx.filter_jit
def _log_prob(
    fields: AbstractFields,
    log_base: Callable[[Array], Array],
    x: Array,
    grid: Array,
    rule: Rule,
    num_probes: int | None,
    key: Key | None,
    condition: PyTree,
) -> LogProb:
    event, size = x.shape[1:], x[0].size
    if num_probes is None or key is None:
        probes = jnp.broadcast_to(jnp.eye(size, dtype=x.dtype), (x.shape[0], size, size))
    else:
        probes = jax.random.rademacher(key, (x.shape[0], num_probes, size), x.dtype)

    def one(t: Array, point: Array, probes: Array, condition: PyTree) -> tuple[Array, Array]:
        def velocity(y: Array) -> Array:
            found = fields.velocity(t, y, condition)
            check_moved(found[None], y[None])
            return found

        def along(probe: Array) -> tuple[Array, Array]:
            value, change = jax.jvp(velocity, (point,), (probe.reshape(event),))
            return value, jnp.sum(change.ravel() * probe)

        values, traces = jax.vmap(along, out_axes=(None, 0))(probes)
        return values, traces

    def velocity(t: Array, state: tuple[Array, Array]) -> tuple[Array, Array]:
        axes = (None, 0, 0, None if condition is None else 0)
        return jax.vmap(one, axes)(t, state[0], probes, condition)

    base, traces = integrate(velocity, (x, jnp.zeros(probes.shape[:2], x.dtype)), grid, rule)
    # Integrated from 1 to 0, the traces carry the sign of the change of log-density from the base.
    logs = jax.vmap(log_base)(base)
    if num_probes is None:
        return LogProb(logs + jnp.sum(traces, axis=1), jnp.zeros_like(logs), base)
    error = jnp.std(traces, axis=1, ddof=1) / num_probes**0.5
    return LogProb(logs + jnp.mean(traces, axis=1), error, base)
