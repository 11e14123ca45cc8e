"""What the algorithms need of a positive-definite kernel."""

from __future__ import annotations

import abc
from typing import Any, NamedTuple

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from ._bandwidth import AbstractBandwidth
from ._force import stein_force


class AbstractSteinKernel(eqx.Module):
    """A kernel of pairs of particles, scalar or matrix-valued, as far as Stein flows need it."""

    @abc.abstractmethod
    def fit(self, points: Float[Array, "n d"], alive: Bool[Array, " n"]) -> Any:
        """What the kernel takes from the cloud: its bandwidths."""

    @abc.abstractmethod
    def force(
        self,
        fitted: Any,
        points: Float[Array, "n d"],
        scores: Float[Array, "n d"],
        weight: Float[Array, " n"],
        *,
        repulsion: float | Array = 1.0,
    ) -> Float[Array, "n d"]:
        """``sum_j w_j [K(x_i, x_j) s_j + repulsion div_j K(x_i, x_j)] / sum_j w_j`` at every particle."""

    @abc.abstractmethod
    def statistics(self, fitted: Any) -> dict[str, Array]:
        """Figures of the fitted kernel, scalars."""


class Profile(NamedTuple):
    """A radial kernel and its first two derivatives in the squared distance r^2."""

    value: Float[Array, "i j"]
    first: Float[Array, "i j"]
    second: Float[Array, "i j"]


class AbstractRadialKernel(AbstractSteinKernel):
    """``k(x, y) = profile(|x - y|^2)`` with a bandwidth h; its gradient in y is ``2 profile'(r^2) (y - x)``."""

    bandwidth: eqx.AbstractVar[AbstractBandwidth]

    @abc.abstractmethod
    def profile(self, squared: Float[Array, "i j"], squared_bandwidth: Float[Array, ""]) -> Profile:
        """Value and derivatives at squared distances, for a squared bandwidth h^2."""

    def fit(self, points: Float[Array, "n d"], alive: Bool[Array, " n"]) -> Float[Array, ""]:
        """The squared bandwidth."""
        return self.bandwidth(points, alive)

    def force(
        self,
        fitted: Float[Array, ""],
        points: Float[Array, "n d"],
        scores: Float[Array, "n d"],
        weight: Float[Array, " n"],
        *,
        repulsion: float | Array = 1.0,
    ) -> Float[Array, "n d"]:
        """See `AbstractSteinKernel.force`."""
        return stein_force(self, fitted, points, scores, weight, repulsion=repulsion)

    def statistics(self, fitted: Float[Array, ""]) -> dict[str, Array]:
        """The bandwidth h."""
        return {"bandwidth": jnp.sqrt(fitted)}
