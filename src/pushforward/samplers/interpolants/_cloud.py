"""Weighted particles on their way: running evidence, families, and resampling once the weights are too uneven."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, PyTree

from ...models._types import Key
from .._tempering import effective_sample_size
from ..smc._resampling import resample


class Cloud(NamedTuple):
    """Weights of n particles towards the target of their time. The mean of their exponentials estimates its mass."""

    log_weights: Float[Array, " n"]
    ancestor: Int[Array, " n"]
    """Which particle of the start each descends from."""
    num_resampled: Int[Array, ""]

    def gain(self, logs: Float[Array, " n"]) -> Cloud:
        """Multiply the weights; those that come out as no numbers are zero from then on."""
        gained = self.log_weights + logs
        dead = jnp.isnan(gained) | (gained == jnp.inf)
        return self._replace(log_weights=jnp.where(dead, -jnp.inf, gained))


def new_cloud(log_weights: Float[Array, " n"]) -> Cloud:
    """Every particle its own ancestor."""
    count = log_weights.shape[0]
    empty = Cloud(jnp.zeros_like(log_weights), jnp.arange(count, dtype=jnp.int32), jnp.zeros((), jnp.int32))
    return empty.gain(log_weights)


def log_mean_exp(logs: Float[Array, " n"]) -> Float[Array, ""]:
    """``log mean exp``; minus infinity where nothing is finite."""
    return jax.nn.logsumexp(logs) - jnp.log(jnp.asarray(logs.shape[0], logs.dtype))


def resample_where_few(
    key: Key, cloud: Cloud, particles: PyTree, threshold: float | Float[Array, ""]
) -> tuple[Cloud, PyTree]:
    """Resample systematically where the effective fraction of particles is below a threshold.

    The mean of the weights, and with it the estimate of the evidence, stays what it was.

    Args:
        key: for the one uniform number.
        cloud: weights.
        particles: leaves with one leading entry per particle.
        threshold: fraction of the particles.
    """
    logs, count = cloud.log_weights, cloud.log_weights.shape[0]
    few = effective_sample_size(logs) < jnp.asarray(threshold, logs.dtype) * count
    weights = jax.nn.softmax(logs)
    # Where every weight is zero there is nothing to choose by: all stay, and the evidence is zero.
    few = few & jnp.any(jnp.isfinite(logs))
    drawn = resample("systematic", key, jnp.where(few, weights, 1.0 / count))
    parents = jnp.where(few, drawn, jnp.arange(count, dtype=drawn.dtype))
    left = jnp.where(few, log_mean_exp(logs), logs)
    moved = jax.tree.map(lambda leaf: leaf[parents], particles)
    return Cloud(left, cloud.ancestor[parents], cloud.num_resampled + few.astype(jnp.int32)), moved


def relative_variance(cloud: Cloud) -> Float[Array, ""]:
    """Of the evidence estimate, from one cloud: what particles of one ancestor weigh together counts as one.

    Without resampling it is the sample variance of the weights over their squared mean, divided by n.

    Reference: Lee and Whiteley, Variance estimation in the particle filter, arXiv:1509.00394, eq. 7, where the factor
    for multinomial resampling is replaced by that of independent starts, since systematic resampling adds hardly any.
    """
    count = cloud.log_weights.shape[0]
    families = jax.ops.segment_sum(jax.nn.softmax(cloud.log_weights), cloud.ancestor, num_segments=count)
    return jnp.maximum((count * jnp.sum(families**2) - 1.0) / (count - 1), 0.0)


def check_threshold(name: str, value: Any) -> float:
    """A fraction of the particles in (0, 1]."""
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 < value <= 1:
        raise ValueError(
            f"{name}={value!r}: expected a fraction of the particles in (0, 1], below which the effective sample size "
            "must fall before they are resampled (0.5 is usual), or None for no resampling."
        )
    return float(value)
