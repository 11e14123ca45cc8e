"""Logarithms of gamma variates with an implicit gradient: what Gamma, Beta, Dirichlet and Student's t are made of."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from ...models._types import Key


def log_gamma_variate(key: Key, concentration: Float[Array, "..."]) -> Float[Array, "..."]:
    """Logarithm of a Gamma(concentration, 1) variate, implicitly differentiable in the concentration.

    In logarithms, because for small concentrations the variate itself underflows: at 0.01 two draws in five in single
    precision.
    """
    stopped = jax.lax.stop_gradient(concentration)
    log_z = jax.random.loggamma(key, stopped, jnp.shape(stopped), stopped.dtype)
    return attach_log_gamma(log_z, concentration)


@jax.custom_jvp
def attach_log_gamma(log_z: Float[Array, "..."], concentration: Float[Array, "..."]) -> Float[Array, "..."]:
    """``log_z``, with the derivative in the concentration that keeps F(z; concentration) fixed."""
    return log_z


@attach_log_gamma.defjvp
def _attach_log_gamma_jvp(primals: tuple[Array, Array], tangents: tuple[Any, Any]) -> tuple[Array, Array]:
    log_z, concentration = primals
    return log_z, tangents[0] + log_gamma_velocity(log_z, concentration) * tangents[1]


def log_gamma_velocity(log_z: Float[Array, "..."], concentration: Float[Array, "..."]) -> Float[Array, "..."]:
    """Speed of log z along the concentration: -(d F(z; a) / d a) / (z q(z; a)) for Gamma(a, 1).

    Three ranges: the power series of F near zero, where z may underflow; `jax.lax.random_gamma_grad` (exact to rounding
    in double precision); in single precision and for large a, where that loses its digits, the cube-root
    approximation.
    """
    a = jnp.broadcast_to(concentration, jnp.shape(log_z)).astype(log_z.dtype)
    eps = float(jnp.finfo(log_z.dtype).eps)
    z = jnp.exp(log_z)
    # log F = a log z - log Gamma(a + 1) - a z / (a + 1) + O(z^2), differentiated in a and in log z.
    near = -(log_z - jax.lax.digamma(a + 1.0) - z / (a + 1.0) ** 2) / (a * (1.0 - z / (a + 1.0)))
    small = z < eps**0.5
    middle = jax.lax.random_gamma_grad(a, jnp.where(small, 1.0, z)) / jnp.where(small, 1.0, z)
    velocity = jnp.where(small, near, middle)
    if eps > 1e-10:
        # z = a (1 - 1/(9a) + n / (3 sqrt(a)))^3 with n standard normal, differentiated in a at fixed n.
        root = jnp.cbrt(z / a)
        n = 3.0 * jnp.sqrt(a) * (root - 1.0 + 1.0 / (9.0 * a))
        far = (1.0 + 3.0 / root * (1.0 / (9.0 * a) - n / (6.0 * jnp.sqrt(a)))) / a
        velocity = jnp.where(a > 1e4, far, velocity)
    return velocity
