"""Radial flow."""

from __future__ import annotations

from typing import Any, ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp

from ..._target import Target
from ..._types import Key
from ._bijection import AbstractBijection, Scalar, Stack, Vector
from ._flow import AbstractFlow
from ._planar import OFFSET
from ._settings import check_network


class RadialLayer(AbstractBijection):
    """y = x + beta (x - c) / (alpha + r), with r = |x - c|, alpha > 0 and beta > -alpha: one to one.

    Both directions in closed form: the new radius is a quadratic equation in the old one.
    """

    centre: Vector
    raw_alpha: Scalar
    raw_beta: Scalar

    @classmethod
    def of(cls, key: Key, dim: int, dtype: Any) -> RadialLayer:
        """The identity, around a random centre."""
        zero = jnp.zeros((), dtype)
        return cls(jax.random.normal(key, (dim,), dtype), zero + OFFSET, zero)

    def forward(self, x: Vector) -> tuple[Vector, Scalar]:
        """See `AbstractBijection.forward`."""
        alpha, beta = self._constants()
        away = x - self.centre
        radius = _norm(away)
        return x + beta / (alpha + radius) * away, self._log_det(radius, x.size)

    def inverse(self, y: Vector) -> tuple[Vector, Scalar]:
        """See `AbstractBijection.inverse`."""
        alpha, beta = self._constants()
        away = y - self.centre
        new = _norm(away)
        half = 0.5 * (alpha + beta - new)
        root = jnp.sqrt(half**2 + alpha * new)
        # Of the two forms of the positive root the one that subtracts nothing.
        safe = jnp.where(half > 0.0, half + root, 1.0)
        radius = jnp.where(half > 0.0, alpha * new / safe, root - half)
        return self.centre + away / (1.0 + beta / (alpha + radius)), -self._log_det(radius, y.size)

    def _log_det(self, radius: Scalar, dim: int) -> Scalar:
        alpha, beta = self._constants()
        inverse = 1.0 / (alpha + radius)
        return (dim - 1) * jnp.log1p(beta * inverse) + jnp.log1p(alpha * beta * inverse**2)

    def _constants(self) -> tuple[Scalar, Scalar]:
        alpha = jax.nn.softplus(self.raw_alpha)
        return alpha, alpha * (jax.nn.softplus(self.raw_beta + OFFSET) - 1.0)


def _norm(x: Vector) -> Scalar:
    """The length, with derivative zero at the origin."""
    square = jnp.sum(x**2)
    return jnp.where(square > 0.0, jnp.sqrt(jnp.where(square > 0.0, square, 1.0)), 0.0)


class Radial(AbstractFlow):
    """Radial flow: each layer draws mass towards a point or pushes it away.

    Cheap (O(dim) per layer, no network) and weak: many layers for few dimensions. Both directions are in closed form.

    Args:
        target: binds the guide; None leaves it unbound.
        num_layers: layers.

    Raises:
        ValueError: if ``num_layers`` is below 1.

    Reference: Rezende and Mohamed, arXiv:1505.05770, eq. 14 and appendix A.2.
    """

    learning_rate: ClassVar[float] = 5e-3
    num_layers: int = eqx.field(static=True)

    def __init__(self, target: Target | None = None, *, num_layers: int = 16) -> None:
        check_network(self, num_layers=num_layers)
        self.num_layers = num_layers
        self._place(target)

    def make(self, key: Key, dim: int, dtype: Any) -> AbstractBijection:
        """See `AbstractFlow.make`."""
        return Stack.of(key, lambda k: RadialLayer.of(k, dim, dtype), self.num_layers)
