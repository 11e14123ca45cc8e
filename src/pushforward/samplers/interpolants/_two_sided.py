"""Interpolants between two laws that are both given by draws or densities."""

from __future__ import annotations

from typing import ClassVar

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Float

from ._gamma import AbstractGamma, Brownian, SineSquared, check_gamma
from ._path import AbstractPath, root


class Linear(AbstractPath):
    """``x_t = (1 - t) x_0 + t x_1 + gamma(t) z``.

    Args:
        noise: by default `Brownian`; `NoNoise` gives flow matching and rectified flows.
    """

    num_ends: ClassVar[int] = 2
    noise: AbstractGamma = eqx.field(default_factory=Brownian, converter=check_gamma)

    def coefficients(self, t: Float[Array, ""]) -> Float[Array, " end"]:
        """See `AbstractPath.coefficients`."""
        return jnp.stack([1.0 - t, t])

    def variance(self, t: Float[Array, ""]) -> Float[Array, ""]:
        """See `AbstractPath.variance`."""
        return self.noise.squared(t)


class Trigonometric(AbstractPath):
    """``x_t = sqrt(1 - gamma^2) (cos(pi t / 2) x_0 + sin(pi t / 2) x_1) + gamma z``.

    Keeps the covariance of ends whose covariance is the identity. Where gamma reaches one, as `SineSquared` does at
    t = 1/2, both ends are forgotten there and the coefficients have a kink.

    Args:
        noise: at most one everywhere.
    """

    num_ends: ClassVar[int] = 2
    noise: AbstractGamma = eqx.field(default_factory=Brownian, converter=check_gamma)

    def coefficients(self, t: Float[Array, ""]) -> Float[Array, " end"]:
        """See `AbstractPath.coefficients`."""
        left = 1.0 - self.noise.squared(t)
        return root(left) * jnp.stack([quarter_sine(1.0 - t), quarter_sine(t)])

    def variance(self, t: Float[Array, ""]) -> Float[Array, ""]:
        """See `AbstractPath.variance`."""
        return self.noise.squared(t)


class EncodingDecoding(AbstractPath):
    """``x_0`` turns into noise until t = 1/2, which turns into ``x_1`` from then on: coefficients ``cos(pi t)^2``.

    Args:
        noise: not zero at t = 1/2; by default `SineSquared`, which is one there.
    """

    num_ends: ClassVar[int] = 2
    noise: AbstractGamma = eqx.field(default_factory=SineSquared, converter=check_gamma)

    def coefficients(self, t: Float[Array, ""]) -> Float[Array, " end"]:
        """See `AbstractPath.coefficients`."""
        squared, zero = jnp.cos(jnp.pi * t) ** 2, jnp.zeros_like(t)
        return jnp.stack([jnp.where(t < 0.5, squared, zero), jnp.where(t > 0.5, squared, zero)])

    def variance(self, t: Float[Array, ""]) -> Float[Array, ""]:
        """See `AbstractPath.variance`."""
        return self.noise.squared(t)


class Mirror(AbstractPath):
    """``x_t = x_1 + gamma(t) z``: from data to data, through noise.

    Args:
        noise: by default `Brownian`.
    """

    num_ends: ClassVar[int] = 1
    noise: AbstractGamma = eqx.field(default_factory=Brownian, converter=check_gamma)

    def coefficients(self, t: Float[Array, ""]) -> Float[Array, " end"]:
        """See `AbstractPath.coefficients`."""
        return jnp.ones_like(t)[None]

    def variance(self, t: Float[Array, ""]) -> Float[Array, ""]:
        """See `AbstractPath.variance`."""
        return self.noise.squared(t)


def quarter_sine(t: Float[Array, ""]) -> Float[Array, ""]:
    """``sin(pi t / 2)``, from the nearer end: exactly zero at 0 and one at 1."""
    return jnp.where(t > 0.5, jnp.cos(0.5 * jnp.pi * (1.0 - t)), jnp.sin(0.5 * jnp.pi * t))
