"""Bandwidths from the particles: which median, with or without the diagonal, with which logarithm."""

from __future__ import annotations

import abc
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from ..engine._pairs import reduce_pairs
from ._distance import squared_distances


class AbstractBandwidth(eqx.Module):
    """A rule that gives the squared bandwidth h^2 of a kernel, in squared units of the particles."""

    @abc.abstractmethod
    def __call__(self, points: Float[Array, "n d"], alive: Array) -> Float[Array, ""]:
        """h^2 for particles ``points``, of which those with ``alive`` count."""


class Fixed(AbstractBandwidth):
    """The same bandwidth always."""

    squared: Array

    def __init__(self, bandwidth: float | Array) -> None:
        value = jnp.asarray(bandwidth, jnp.result_type(float))
        if not isinstance(value, jax.core.Tracer) and not (jnp.ndim(value) == 0 and bool(value > 0)):
            raise ValueError(f"bandwidth={bandwidth}: expected one positive number, in units of the particles.")
        self.squared = value**2

    def __call__(self, points: Float[Array, "n d"], alive: Array) -> Float[Array, ""]:
        """See `AbstractBandwidth`."""
        return self.squared.astype(points.dtype)


class Median(AbstractBandwidth):
    """``h^2 = scale * median(|x_i - x_j|^2) / log(n + 1)`` (``log=True``) or without the logarithm.

    A bisection on the bits of the squared distances, without a sort: exact as long as the dtype counts the pairs (in
    single precision up to 4,096 points), to one part in 1e7 beyond. One when all points coincide, or only one counts.

    Args:
        scale: positive factor. With 0.5 an RBF kernel has sum_j k(x_i, x_j) of about one at the median distance.
        log: divide by log(n + 1), n the number of particles.
        diagonal: count the n zero distances of particles to themselves; matters for few particles.
        num_points: take the median over this many of the particles, evenly spaced in their order (starts and draws of
            chains come sorted by mode or by chain), or None for all: then distances are computed again in every pass,
            in blocks, and memory stays linear in n.

    Cost: about 32 passes (64 for double precision) over num_points^2 numbers.

    Reference: Liu and Wang, Stein variational gradient descent, arXiv:1608.04471, section 5.
    """

    scale: float = eqx.field(static=True)
    log: bool = eqx.field(static=True)
    diagonal: bool = eqx.field(static=True)
    num_points: int | None = eqx.field(static=True)

    def __init__(
        self, *, scale: float = 0.5, log: bool = True, diagonal: bool = False, num_points: int | None = 256
    ) -> None:
        if not scale > 0:
            raise ValueError(f"Median(scale={scale}): expected a positive factor; 0.5 is usual.")
        if num_points is not None and num_points < 2:
            raise ValueError(f"Median(num_points={num_points}): expected at least 2 particles, or None for all.")
        self.scale, self.log, self.diagonal, self.num_points = scale, log, diagonal, num_points

    def __call__(self, points: Float[Array, "n d"], alive: Array) -> Float[Array, ""]:
        """See `AbstractBandwidth`."""
        count = jnp.sum(alive)
        chosen, used = points, alive
        if self.num_points is not None and self.num_points < points.shape[0]:
            # Living particles first, in their order; of them evenly spaced ones, where there are enough.
            order, rank = jnp.argsort(~alive, stable=True), jnp.arange(self.num_points)
            step, rest = count // self.num_points, count % self.num_points
            spaced = rank * step + rank * rest // self.num_points
            taken = order[jnp.where(count >= self.num_points, spaced, rank)]
            chosen, used = points[taken], alive[taken]
        chosen = chosen - jnp.sum(jnp.where(used[:, None], chosen, 0.0), axis=0) / jnp.maximum(jnp.sum(used), 1)
        median = _median(chosen, used, self.diagonal, stream=self.num_points is None)
        squared = self.scale * median
        if self.log:
            squared = squared / jnp.log(count.astype(points.dtype) + 1.0)
        return jax.lax.stop_gradient(jnp.where((squared > 0) & (count > 1), squared, 1.0))


def as_bandwidth(rule: Any) -> AbstractBandwidth:
    """A rule from a rule or a number."""
    return rule if isinstance(rule, AbstractBandwidth) else Fixed(rule)


def _median(points: Float[Array, "n d"], used: Array, diagonal: bool, *, stream: bool) -> Float[Array, ""]:  # noqa: FBT001
    # Each pair is met twice, and the diagonal once: with the diagonal left out, ranks shift by its n zeros.
    n = jnp.sum(used).astype(points.dtype)
    zeros = jnp.zeros((), points.dtype) if diagonal else n
    total = n * n - zeros
    # The two middle ranks, from one.
    lower, upper = zeros + jnp.floor((total + 1) / 2), zeros + jnp.floor(total / 2) + 1
    if stream:
        weight = used.astype(points.dtype)

        def count(threshold: Array) -> Array:
            return jnp.sum(reduce_pairs(_within, threshold, points, points, weight=weight) * weight)

        return 0.5 * (_smallest_with(count, lower, points.dtype) + _smallest_with(count, upper, points.dtype))
    squared = squared_distances(points, points)
    squared = jnp.where(used[:, None] & used[None, :], squared, jnp.inf)

    def count_all(threshold: Array) -> Array:
        return jnp.sum((squared <= threshold).astype(points.dtype))

    low = _smallest_with(count_all, lower, points.dtype)
    above = jnp.min(jnp.where(squared > low, squared, jnp.inf))
    return 0.5 * (low + jnp.where(count_all(low) >= upper, low, above))


def _within(threshold: Array, row: Array, column: Array, weight: Array) -> Array:
    return (squared_distances(row, column) <= threshold).astype(weight.dtype) @ weight


def _smallest_with(count: Any, rank: Array, dtype: Any) -> Float[Array, ""]:
    """The smallest number that at least ``rank`` distances do not exceed: non-negative floats order like their bits."""
    bits = jnp.finfo(dtype).bits
    integer = jnp.dtype(f"int{bits}")
    value = jax.lax.bitcast_convert_type(jnp.asarray(jnp.finfo(dtype).max, dtype), integer)

    def halve(_: Int[Array, ""], bounds: tuple[Array, Array]) -> tuple[Array, Array]:
        low, high = bounds
        middle = low + (high - low) // 2
        enough = count(jax.lax.bitcast_convert_type(middle, dtype)) >= rank
        return jnp.where(enough, low, middle + 1), jnp.where(enough, middle, high)

    low, _ = jax.lax.fori_loop(0, bits, halve, (jnp.zeros((), integer), value))
    return jax.lax.bitcast_convert_type(low, dtype)
