"""How much noise an interpolant carries between its ends: the square of gamma, which is smooth where gamma is not."""

from __future__ import annotations

import abc
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from .._checks import check_positive


class AbstractGamma(eqx.Module):
    """``gamma(t)^2`` with gamma(0) = gamma(1) = 0. Derivatives are taken of the square: gamma's own may be infinite."""

    @abc.abstractmethod
    def squared(self, t: Float[Array, ""]) -> Float[Array, ""]:
        """The variance of the noise at time t."""


def check_gamma(value: Any) -> AbstractGamma:
    """A gamma."""
    if not isinstance(value, AbstractGamma):
        raise ValueError(
            f"noise is {type(value).__name__}: expected Brownian(scale), Parabolic(), SineSquared(), Bump() or "
            "NoNoise()."
        )
    return value


class Brownian(AbstractGamma):
    """``gamma^2 = scale t (1 - t)``: the variance of a Brownian bridge.

    Args:
        scale: positive, the variance gained per unit of time at the ends.
    """

    scale: Float[Array, ""] = eqx.field(
        converter=lambda v: check_positive("scale", v, unit="squared units of the points"), default=1.0
    )

    def squared(self, t: Float[Array, ""]) -> Float[Array, ""]:
        """See `AbstractGamma.squared`."""
        return self.scale.astype(t.dtype) * t * (1.0 - t)


class Parabolic(AbstractGamma):
    """``gamma = t (1 - t)``."""

    def squared(self, t: Float[Array, ""]) -> Float[Array, ""]:
        """See `AbstractGamma.squared`."""
        return (t * (1.0 - t)) ** 2


class SineSquared(AbstractGamma):
    """``gamma = sin(pi t)^2``."""

    def squared(self, t: Float[Array, ""]) -> Float[Array, ""]:
        """See `AbstractGamma.squared`."""
        return _sine(t) ** 4


class Bump(AbstractGamma):
    """Difference of two logistic functions around t = 1/2, less what is left of it at the ends.

    Args:
        steepness: positive; the larger, the longer the ends stay without noise.
    """

    steepness: Float[Array, ""] = eqx.field(
        converter=lambda v: check_positive("steepness", v, unit="per unit of time"), default=10.0
    )

    def squared(self, t: Float[Array, ""]) -> Float[Array, ""]:
        """See `AbstractGamma.squared`."""
        steepness = self.steepness.astype(t.dtype)

        def bump(s: Array) -> Array:
            return jax.nn.sigmoid(steepness * s + 1.0) - jax.nn.sigmoid(steepness * s - 1.0)

        return (bump(t - 0.5) - bump(jnp.full_like(t, 0.5))) ** 2


class NoNoise(AbstractGamma):
    """``gamma = 0``: the interpolant of flow matching."""

    def squared(self, t: Float[Array, ""]) -> Float[Array, ""]:
        """See `AbstractGamma.squared`."""
        return jnp.zeros_like(t)


def _sine(t: Float[Array, ""]) -> Float[Array, ""]:
    """``sin(pi t)``, exact near both ends."""
    return jnp.sin(jnp.pi * jnp.where(t > 0.5, 1.0 - t, t))
