"""What an objective is."""

from __future__ import annotations

import abc

import equinox as eqx
from jaxtyping import Array, Float


class AbstractObjective(eqx.Module):
    """A scalar function F of K log-weights l_k = log p(z_k, data) - log q(z_k), to be maximised; the loss is -F."""

    @abc.abstractmethod
    def __call__(self, log_weights: Float[Array, " k"]) -> Float[Array, ""]:
        """The objective at these log-weights, in nats."""
