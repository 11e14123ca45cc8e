"""Objectives written by the user."""

from __future__ import annotations

from collections.abc import Callable
from typing import overload

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from .._keywords import explain_keywords
from ._base import AbstractObjective
from ._power import log_power_mean

_STEP = 0.01
"""Distance in nats at which derivatives are compared; a jump stands out from what smooth functions change over it."""
_WINDOW = 16.0
_WINDOWS = {4: 8, 8: 38}
"""By bytes of a number: log-weights around zero are probed in so many windows, each with a scale of its own. They end
before exp overflows."""


class CustomObjective(AbstractObjective):
    """A user's function of log-weights. Built by `objective`."""

    function: Callable[[Array], Array] = eqx.field(static=True)
    minimise: bool = eqx.field(static=True)

    def __call__(self, log_weights: Float[Array, " k"]) -> Float[Array, ""]:
        """The user's function."""
        return self.function(log_weights)

    @property
    def upper(self) -> bool:
        """Whether the function is minimised."""
        return self.minimise

    @property
    def label(self) -> str:
        """The function's name."""
        return getattr(self.function, "__name__", "objective")

    @property
    def smooth(self) -> bool:
        """Whether F_k is found to be continuous along lines through fixed points, one log-weight moving at a time."""
        return _has_no_jump(self.function)

    def check(self, num_particles: int) -> None:
        """See `AbstractObjective.check`: the function is tried on this many log-weights."""
        _check_scalar(self.function, num_particles)

    def model_gain(self, log_weights: Float[Array, " k"]) -> Float[Array, ""]:
        """The function itself, or the IWELBO where it is minimised: model parameters cannot follow an upper bound."""
        return log_power_mean(log_weights, 1.0) if self.minimise else self(log_weights)

    @property
    def common(self) -> bool:
        """Guide and model part ways where the function is minimised."""
        return not self.minimise


@overload
def objective(function: Callable[[Array], Array]) -> CustomObjective: ...
@overload
def objective(*, minimise: bool = ...) -> Callable[[Callable[[Array], Array]], CustomObjective]: ...
@explain_keywords
def objective(
    function: Callable[[Array], Array] | None = None, *, minimise: bool = False
) -> CustomObjective | Callable[[Callable[[Array], Array]], CustomObjective]:
    """Turn a function of log-weights into an objective; every gradient estimator is derived from it.

    Args:
        function: maps K log-weights (in nats) to a scalar, written in JAX and differentiable.
        minimise: whether it is minimised (an upper bound) instead of maximised.

    Raises:
        ValueError: if the function does not return a scalar.

    Example:
        >>> import jax.numpy as jnp
        >>> @objective
        ... def trimmed(log_weights):
        ...     return jnp.mean(jnp.sort(log_weights)[1:])
        >>> float(trimmed(jnp.array([0.0, 1.0, 3.0])))
        2.0
    """

    def build(function: Callable[[Array], Array]) -> CustomObjective:
        _check_scalar(function, 4)
        return CustomObjective(function, minimise)

    if function is None:
        return build
    if not callable(function):
        raise ValueError(
            f"pf.objective({function!r}): expected a JAX function of K log-weights that returns one number, e.g. "
            "@pf.objective above its definition."
        )
    return build(function)


def _check_scalar(function: Callable[[Array], Array], count: int) -> None:
    name = getattr(function, "__name__", "objective")
    try:
        result = jax.eval_shape(function, jnp.zeros(count))
        shape, dtype = result.shape, result.dtype
    except Exception as error:  # the function is the user's code: any exception type is possible
        reason = str(error).strip().split("\n")[0].rstrip(".")
        raise ValueError(
            f"The objective '{name}' failed on {count} log-weights ({type(error).__name__}: {reason}). Expected a "
            "function of one vector of any length, written in jax.numpy, which returns one number."
        ) from error
    if shape != () or not jnp.issubdtype(dtype, jnp.floating):
        raise ValueError(
            f"The objective '{name}' returns {dtype} of shape {shape} for log-weights of shape ({count},): expected a "
            "floating-point scalar. Reduce over the draws, for instance with jnp.mean."
        )


def _has_no_jump(function: Callable[[Array], Array]) -> bool:
    """Whether no F_k changes between neighbouring points by more than F_kk accounts for. 180,000 points."""
    count, inner = _WINDOWS[jnp.result_type(float).itemsize], round(_WINDOW / _STEP)
    moved = jnp.linspace(-0.5, 0.5, count * inner + 1) * (count * _WINDOW)

    def unexplained(direction: Array) -> Array:
        others = jnp.asarray([0.3, -0.7, 1.1, -2.0]) * (1.0 - direction)
        slope = jax.grad(lambda x: function(others + x * direction))
        first, second = jax.vmap(lambda x: jax.jvp(slope, (x,), (jnp.ones_like(x),)))(moved)
        jumps = jnp.reshape(jnp.abs(jnp.diff(first) - 0.5 * _STEP * (second[1:] + second[:-1])), (count, inner))
        sizes = jnp.reshape(jnp.abs(first[1:]), (count, inner))
        # Where a function overflows or is lost in rounding there is nothing to be seen.
        jumps, sizes = (jnp.where(jnp.isfinite(x), x, 0.0) for x in (jumps, sizes))
        near = jnp.max(sizes[count // 2])
        return jnp.max(jnp.max(jumps, axis=1) / (1e-2 * jnp.max(sizes, axis=1) + 1e-5 * near + 1e-30))

    return bool(jnp.all(jax.jit(jax.vmap(unexplained))(jnp.eye(3, 4)) < 1.0))
