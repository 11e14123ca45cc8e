"""What the algorithms need of a positive-definite kernel."""

from __future__ import annotations

import abc
from typing import NamedTuple

import equinox as eqx
from jaxtyping import Array, Float

from ._bandwidth import AbstractBandwidth


class Profile(NamedTuple):
    """A radial kernel and its first two derivatives in the squared distance r^2."""

    value: Float[Array, "i j"]
    first: Float[Array, "i j"]
    second: Float[Array, "i j"]


class AbstractRadialKernel(eqx.Module):
    """``k(x, y) = profile(|x - y|^2)`` with a bandwidth h; its gradient in y is ``2 profile'(r^2) (y - x)``."""

    bandwidth: eqx.AbstractVar[AbstractBandwidth]

    @abc.abstractmethod
    def profile(self, squared: Float[Array, "i j"], squared_bandwidth: Float[Array, ""]) -> Profile:
        """Value and derivatives at squared distances, for a squared bandwidth h^2."""
