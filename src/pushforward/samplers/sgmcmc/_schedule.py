"""Step sizes as functions of the step."""

from __future__ import annotations

import abc
import math
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Float, Int


class AbstractSchedule(eqx.Module):
    """A positive step size for every step."""

    @abc.abstractmethod
    def __call__(self, step: Int[Array, ""]) -> Float[Array, ""]:
        """The step size of a step, counted from 0."""


class Constant(AbstractSchedule):
    """The same step size always."""

    value: Array

    def __call__(self, step: Int[Array, ""]) -> Float[Array, ""]:
        """See `AbstractSchedule`."""
        return self.value


class Custom(AbstractSchedule):
    """The user's own function of the step, such as an optax schedule."""

    function: Callable[[Array], Any] = eqx.field(static=True)

    def __call__(self, step: Int[Array, ""]) -> Float[Array, ""]:
        """See `AbstractSchedule`."""
        return jnp.asarray(self.function(step))


POSITION_ADVICE = "about a tenth of the smallest posterior variance"
MOMENTUM_ADVICE = "about a fifth of the smallest posterior standard deviation"


def as_schedule(name: str, step_size: Any, advice: str = POSITION_ADVICE) -> AbstractSchedule:
    """A schedule from a number, a function or a schedule.

    Args:
        name: the sampler's, for the message.
        step_size: a positive number, a function of the step, or a schedule.
        advice: how large it should be, for the message.

    Raises:
        ValueError: if it is none of these.
    """
    if isinstance(step_size, AbstractSchedule):
        return step_size
    if callable(step_size):
        return Custom(step_size)
    if not is_number(step_size) or not float(step_size) > 0:
        raise ValueError(
            f"{name}(step_size={step_size!r}): expected a positive number (a time step of the full-data dynamics, "
            f"{advice}) or a function of the step, such as an optax schedule."
        )
    return Constant(jnp.asarray(step_size, jnp.result_type(float)))


def is_number(value: Any) -> bool:
    """Whether it is one finite number, also as an array without axes."""
    if value is None or isinstance(value, bool | str) or jnp.ndim(value) != 0:
        return False
    return math.isfinite(float(value))
