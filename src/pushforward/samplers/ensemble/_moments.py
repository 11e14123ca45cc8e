"""Moments of a cloud, and what is computed from them: everything in sums over particles, never pairs."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from ...models import Target
from ...models._layout import Layout
from ...models._types import Batch
from ..pairs._distance import product


class Moments(NamedTuple):
    """Weighted mean and covariance."""

    mean: Float[Array, " d"]
    deviations: Float[Array, "n d"]
    """Particles less the mean; zero for those of weight zero."""
    covariance: Float[Array, "d d"]


def moments(particles: Float[Array, "n d"], weights: Float[Array, " n"]) -> Moments:
    """Mean, deviations and covariance under weights that sum to one (no small-sample factor)."""
    used = (weights > 0)[:, None]
    mean = jnp.sum(jnp.where(used, weights[:, None] * particles, 0.0), axis=0)
    deviations = jnp.where(used, particles - mean, 0.0)
    return Moments(mean, deviations, product(deviations.T, weights[:, None] * deviations))


def uniform_weights(alive: Bool[Array, " n"], dtype: jnp.dtype) -> Float[Array, " n"]:
    """Equal weights of the living particles."""
    return alive.astype(dtype) / jnp.maximum(jnp.sum(alive), 1).astype(dtype)


def softmax_weights(logits: Float[Array, " n"], alive: Bool[Array, " n"]) -> Float[Array, " n"]:
    """Normalised exponentials over the living particles; zero where no logit is finite."""
    masked = jnp.where(alive, logits, -jnp.inf)
    highest = jnp.max(masked)
    raw = jnp.exp(masked - jnp.where(jnp.isfinite(highest), highest, 0.0))
    total = jnp.sum(raw)
    return raw / jnp.where(total > 0, total, 1.0)


def lower_root(covariance: Float[Array, "d d"]) -> Float[Array, "d d"]:
    """Lower-triangular L with L L' = covariance, also of one that is singular to rounding.

    It changes with the coordinates as the covariance does under scalings and lower-triangular maps, so an algorithm
    that draws L times standard normal noise is equivariant under these path by path, and under all affine maps in law.
    """
    dim = covariance.shape[0]
    variance = jnp.diagonal(covariance)
    scale = jnp.sqrt(jnp.where(variance > 0, variance, 1.0))
    correlation = covariance / (scale[:, None] * scale[None, :])
    jitter = 4.0 * dim * jnp.finfo(covariance.dtype).eps
    return scale[:, None] * jnp.linalg.cholesky(correlation + jitter * jnp.eye(dim, dtype=covariance.dtype))


def logdensities(
    target: Target,
    layout: Layout,
    particles: Float[Array, "n d"],
    alive: Bool[Array, " n"],
    batch: Batch | None,
    *,
    jacobian: bool = True,
) -> tuple[Float[Array, " n"], Bool[Array, " n"]]:
    """Log-densities without gradients, and which particles count: -inf is a value, NaN and +inf are failures."""
    value = jax.vmap(lambda x: target.logdensity(layout.unravel(x), batch, jacobian=jacobian))(particles)
    return value, alive & ~jnp.isnan(value) & (value < jnp.inf)
