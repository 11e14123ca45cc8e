"""Estimates of the gradient of the log-density over all data from minibatches."""

from __future__ import annotations

import abc
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
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
        return jax.grad(logdensity)(x, batch), ()
