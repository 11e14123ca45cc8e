"""Power means of weights: the one formula behind most bounds on the evidence."""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

_SMALL = 0.1


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
    # Near 0 the logarithm is that of nearly 1: expand around the mean, which loses no digits.
    mean = jnp.mean(log_weights)
    deviation = power * (log_weights - mean)
    near = jnp.log1p(jnp.mean(jnp.expm1(jnp.clip(deviation, -1.0, 1.0)))) / power + mean
    far = (jax.nn.logsumexp(power * log_weights) - math.log(log_weights.shape[0])) / power
    return jnp.where(jnp.max(jnp.abs(deviation)) < 1.0, near, far)
