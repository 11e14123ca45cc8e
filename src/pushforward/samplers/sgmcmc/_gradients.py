"""Estimates of the gradient of the log-density over all data from minibatches."""

from __future__ import annotations

import abc
from typing import Any

import equinox as eqx
from jaxtyping import Array, Float

from ...models._types import Batch
from ._density import LogDensity


class AbstractGradientEstimate(eqx.Module):
    """An unbiased estimate of ``grad log p(x)``, all data counted: the plate's N/B scaling is included.

    It may look at all data in `bind`, once, and in `refresh`, now and then; calls see the minibatch only.
    """

    def bind(self, density: LogDensity) -> AbstractGradientEstimate:
        """The estimate for a target, outside of compiled code."""
        return self

    @abc.abstractmethod
    def init(self, density: LogDensity, x: Float[Array, " d"]) -> Any:
        """What it remembers at the start of a chain."""

    def refresh(self, density: LogDensity, x: Float[Array, " d"], memory: Any) -> Any:
        """What it remembers from here on; called once per step, before the gradient is asked for."""
        return memory

    @abc.abstractmethod
    def __call__(
        self, density: LogDensity, x: Float[Array, " d"], batch: Batch | None, memory: Any
    ) -> Float[Array, " d"]:
        """The estimate at a position; NaN where the density is not finite."""


class Minibatch(AbstractGradientEstimate):
    """The gradient on the minibatch alone. Cost: one gradient of B data."""

    def init(self, density: LogDensity, x: Float[Array, " d"]) -> tuple[()]:
        """Nothing to remember."""
        return ()

    def __call__(
        self, density: LogDensity, x: Float[Array, " d"], batch: Batch | None, memory: tuple[()]
    ) -> Float[Array, " d"]:
        """See `AbstractGradientEstimate`."""
        return density.gradient(x, batch)


def as_gradient(name: str, gradient: Any) -> AbstractGradientEstimate:
    """A gradient estimate; that on the minibatch alone for None.

    Raises:
        ValueError: if it is none.
    """
    if gradient is None:
        return Minibatch()
    if isinstance(gradient, AbstractGradientEstimate):
        return gradient
    raise ValueError(
        f"{name}(gradient={gradient!r}): expected None (the gradient on the minibatch), pf.ControlVariate() or "
        "pf.SVRG()."
    )
