"""Estimates of the gradient of the log-density over all data from minibatches."""

from __future__ import annotations

import abc
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from ...models._types import Batch

LogDensity = Callable[[Array, Batch | None], Array]
"""``(flat position, batch) -> unbiased estimate of the log-density over all data``; all data with batch None."""


class AbstractGradientEstimate(eqx.Module):
    """An unbiased estimate of ``grad log p(x)``, all data counted: the plate's N/B scaling is included."""

    @abc.abstractmethod
    def init(self, logdensity: LogDensity, x: Float[Array, " d"]) -> Any:
        """What it remembers."""

    @abc.abstractmethod
    def __call__(
        self, logdensity: LogDensity, x: Float[Array, " d"], batch: Batch | None, memory: Any
    ) -> tuple[Float[Array, " d"], Any]:
        """The estimate at a position, and what is remembered then."""


class Minibatch(AbstractGradientEstimate):
    """The gradient on the minibatch alone. Cost: one gradient of B data."""

    def init(self, logdensity: LogDensity, x: Float[Array, " d"]) -> tuple[()]:
        """Nothing to remember."""
        return ()

    def __call__(
        self, logdensity: LogDensity, x: Float[Array, " d"], batch: Batch | None, memory: tuple[()]
    ) -> tuple[Float[Array, " d"], tuple[()]]:
        """See `AbstractGradientEstimate`."""
        return checked_gradient(logdensity, x, batch), ()


def checked_gradient(logdensity: LogDensity, x: Float[Array, " d"], batch: Batch | None) -> Float[Array, " d"]:
    """The gradient, NaN where the density is not finite: beyond a wall the gradient alone can look innocent."""
    value, gradient = jax.value_and_grad(logdensity)(x, batch)
    return jnp.where(jnp.isfinite(value), gradient, jnp.nan)
