"""Objectives written by the user."""

from __future__ import annotations

from collections.abc import Callable
from typing import overload

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from ._base import AbstractObjective


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


@overload
def objective(function: Callable[[Array], Array]) -> CustomObjective: ...
@overload
def objective(*, minimise: bool = ...) -> Callable[[Callable[[Array], Array]], CustomObjective]: ...
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
        name = getattr(function, "__name__", "objective")
        try:
            shape = jax.eval_shape(function, jnp.zeros(4)).shape
        except Exception as error:  # the function is the user's code: any exception type is possible
            raise ValueError(
                f"The objective '{name}' failed on four log-weights: {error} Expected a JAX function of one vector."
            ) from error
        if shape != ():
            raise ValueError(
                f"The objective '{name}' returns shape {shape} for log-weights of shape (4,): expected a scalar. "
                "Reduce over the draws, for instance with jnp.mean."
            )
        return CustomObjective(function, minimise)

    return build if function is None else build(function)
