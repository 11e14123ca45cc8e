"""Implicit gradient of the von Mises distribution."""

from __future__ import annotations

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

_NODES, _WEIGHTS = np.polynomial.legendre.leggauss(48)
_REACH = 13.0
"""Half-width, in units of concentration**-0.5, beyond which the density ratio is below 1e-14."""


@jax.custom_jvp
def attach_von_mises(
    z: Float[Array, "..."], loc: Float[Array, "..."], concentration: Float[Array, "..."]
) -> Float[Array, "..."]:
    """``z`` in [-pi, pi], with the derivative in the parameters that keeps its distribution function fixed.

    The distribution function starts at -pi, so that no probability crosses the cut: the gradient of E[F(z)] is
    unbiased for every smooth F on the interval, periodic or not. (Turning the draw along with ``loc`` would be unbiased
    for periodic F only.)
    """
    return z


@attach_von_mises.defjvp
def _attach_von_mises_jvp(primals: tuple[Array, Array, Array], tangents: tuple[Any, Any, Any]) -> tuple[Array, Array]:
    z, loc, concentration = primals
    centred, cut = _wrap(z - loc), _wrap(math.pi + loc)
    # F(z) = G(z - loc) - G(-pi - loc), G the integral of the centred density from its mode; dG = -velocity * density.
    ratio = jnp.exp(concentration * (jnp.cos(cut) - jnp.cos(centred)))
    by_concentration = _centred_velocity(centred, concentration) + ratio * _centred_velocity(cut, concentration)
    return z, tangents[0] + (1.0 - ratio) * tangents[1] + by_concentration * tangents[2]


def _wrap(angle: Array) -> Array:
    return (angle + math.pi) % (2.0 * math.pi) - math.pi


def _centred_velocity(x: Float[Array, "..."], concentration: Float[Array, "..."]) -> Float[Array, "..."]:
    """Speed of x along the concentration c at fixed G(x; c): minus int_0^x (cos t - A) exp(c (cos t - cos x)) dt.

    A is the mean of cos t. Far from the mode the integral is taken from x to pi, where the exponential decays (over the
    half circle it adds up to zero), so no digits cancel.
    """
    size, kappa = jnp.abs(x), jnp.broadcast_to(concentration, jnp.shape(x))
    mean = jax.scipy.special.i1e(kappa) / jax.scipy.special.i0e(kappa)
    inner = kappa * (1.0 - jnp.cos(size)) < 1.0
    stop = jnp.minimum(math.pi, size + _REACH * jax.lax.rsqrt(jnp.maximum(kappa, 1e-6)))
    low, high = jnp.where(inner, 0.0, size), jnp.where(inner, size, stop)
    nodes, weights = jnp.asarray(_NODES, x.dtype), jnp.asarray(_WEIGHTS, x.dtype)
    half = 0.5 * (high - low)
    t = low[..., None] + half[..., None] * (nodes + 1.0)
    # cos t - cos x as a product: the difference itself has no digits left where the two angles nearly agree.
    gap = -2.0 * jnp.sin(0.5 * (t + size[..., None])) * jnp.sin(0.5 * (t - size[..., None]))
    integrand = (jnp.cos(t) - mean[..., None]) * jnp.exp(kappa[..., None] * gap)
    integral = half * jnp.sum(weights * integrand, -1)
    return jnp.sign(x) * jnp.where(inner, -integral, integral)
