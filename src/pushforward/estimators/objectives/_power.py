"""Power means of weights: the one formula behind most bounds on the evidence."""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

_SMALL = 0.1
_FEW = 32
UPPER_BOUND_PARTICLES = 256
"""Draws per step for the logarithm of an upper bound: at 8 it collapses on a Gaussian in three dimensions."""


def log_power_mean(log_weights: Float[Array, " k"], power: float) -> Float[Array, ""]:
    """``log(mean(w ** power)) / power``, in nats: increasing in ``power``, with its limits.

    Power 0 is the mean of the log-weights (ELBO), 1 the log of the mean weight (IWELBO), minus and plus infinity are
    the smallest and the largest log-weight.

    Args:
        log_weights: l_k, K of them.
        power: any real number, infinities included.
    """
    if power == 0.0:
        return jnp.mean(log_weights)
    if math.isinf(power):
        return jnp.max(log_weights) if power > 0 else jnp.min(log_weights)
    if abs(power) >= _SMALL:
        return (jax.nn.logsumexp(power * log_weights) - math.log(log_weights.shape[0])) / power
    # Near 0 the logarithm is that of nearly 1: expand around the mean, which loses no digits. The result does not
    # depend on the centre, so that the centre may be a constant, and the gradient is exactly that of a softmax.
    centre = jax.lax.stop_gradient(jnp.mean(log_weights))
    deviation = power * (log_weights - centre)
    small = jnp.max(jnp.abs(deviation)) < 1.0
    near = jnp.log1p(jnp.mean(jnp.expm1(jnp.where(small, deviation, 0.0)))) / power + centre
    far = (jax.nn.logsumexp(power * log_weights) - math.log(log_weights.shape[0])) / power
    return jnp.where(small, near, far)


def power_mean_slope(log_weights: Float[Array, " k"], power: float) -> tuple[Float[Array, " k"], Float[Array, " k"]]:
    """First derivatives of `log_power_mean`, which are tempered weights s, and second ones, ``power * s * (1 - s)``.

    Cost: O(K), where a Hessian of a general function takes K products with it.
    """
    if power == 0.0:
        return jnp.full_like(log_weights, 1.0 / log_weights.shape[0]), jnp.zeros_like(log_weights)
    tempered = jax.nn.softmax(power * log_weights)
    return tempered, power * tempered * (1.0 - tempered)


def power_mean_without(log_weights: Float[Array, " k"], power: float) -> Float[Array, " k"]:
    """`log_power_mean` with each log-weight in turn replaced by the mean of the others, in O(K).

    The others' total is the whole total less one term, except for the largest term, which may be nearly all of it and
    is left out of a sum of its own.
    """
    count = log_weights.shape[0]
    others = (jnp.sum(log_weights) - log_weights) / (count - 1)
    if abs(power) < _SMALL or count <= _FEW:
        # Few numbers cost less in one K x K operation; nearly the mean, the expansion loses no digits.
        swapped = jnp.where(jnp.eye(count, dtype=bool), others[:, None], log_weights)
        return others if power == 0.0 else jax.vmap(lambda w: log_power_mean(w, power))(swapped)
    scaled, swapped_in = power * log_weights, power * others
    top = jnp.arange(count) == jnp.argmax(scaled)
    largest = jnp.max(scaled)
    terms = jnp.exp(scaled - largest)
    rest = jnp.where(top, 1.0, jnp.sum(terms) - terms) + jnp.exp(swapped_in - largest)
    second = jnp.max(jnp.where(top, -jnp.inf, scaled))
    without_top = jnp.sum(jnp.where(top, jnp.exp(swapped_in - second), jnp.exp(scaled - second)))
    total = jnp.where(top, second + jnp.log(without_top), largest + jnp.log(rest))
    return (total - math.log(count)) / power


def check_logarithm(name: str, num_particles: int, instead: str) -> None:
    """Refuse the logarithm of an upper bound's mean with one draw.

    Raises:
        ValueError: if there is one draw only.
    """
    if num_particles < 2:
        raise ValueError(
            f"{name} with num_particles={num_particles}: over one draw the logarithm of the mean is the log-weight, "
            f"whose mean would be minimised: the guide would flee the posterior. Expected hundreds, or {instead}."
        )
