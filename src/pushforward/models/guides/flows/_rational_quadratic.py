"""Monotone rational-quadratic splines with linear tails, for one number at a time."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from ._network import bounded

MIN_BIN = 1e-2
"""Smallest bin, as a fraction of the mean bin."""
MAX_LOG_SLOPE = 3.0
MAX_LOG_TAIL = 0.5
"""Tails of layers multiply, and what is far out in one layer is farther out in the next."""


class Knots(NamedTuple):
    """A spline on [-bound, bound] in both directions. Leading axes are numbers, the last is bins or knots."""

    widths: Float[Array, "... bin"]
    heights: Float[Array, "... bin"]
    lefts: Float[Array, "... bin"]
    """Left ends of the bins."""
    floors: Float[Array, "... bin"]
    """Values at the left ends."""
    slopes: Float[Array, "... knot"]
    """Derivatives at all knots; the first and the last are those of the tails."""


def num_raw(num_bins: int) -> int:
    """Free numbers of one spline: widths, heights, and slopes at all knots."""
    return 3 * num_bins + 1


def knots(raw: Float[Array, "... raw"], bound: float) -> Knots:
    """The spline of unrestricted numbers; all zero gives the identity."""
    num_bins = (raw.shape[-1] - 1) // 3
    widths, lefts = _bins(raw[..., :num_bins], bound)
    heights, floors = _bins(raw[..., num_bins : 2 * num_bins], bound)
    most = np.full(num_bins + 1, MAX_LOG_SLOPE)
    most[[0, -1]] = MAX_LOG_TAIL
    slopes = jnp.exp(bounded(raw[..., 2 * num_bins :], jnp.asarray(most, raw.dtype)))
    return Knots(widths, heights, lefts, floors, slopes)


def _bins(raw: Array, bound: float) -> tuple[Array, Array]:
    num_bins = raw.shape[-1]
    shares = (1.0 - MIN_BIN) * jax.nn.softmax(raw, axis=-1) + MIN_BIN / num_bins
    sizes = 2.0 * bound * shares
    # Sums of the bins to the left, as a product with a triangle of ones.
    before = jnp.triu(jnp.ones((num_bins, num_bins), raw.dtype), 1)
    return sizes, sizes @ before - bound


def spline(x: Float[Array, "..."], at: Knots, bound: float) -> tuple[Float[Array, "..."], Float[Array, "..."]]:
    """The value and the logarithm of the slope.

    Reference: Durkan et al., Neural spline flows, arXiv:1906.04032, eqs. 4 and 5.
    """
    inside = jnp.clip(x, -bound, bound)
    width, height, left, floor, low, high = _bin_of(inside, at.lefts, at)
    steep = height / width
    t = (inside - left) / width
    u = t * (1.0 - t)
    denominator = steep + (high + low - 2.0 * steep) * u
    value = floor + height * (steep * t**2 + low * u) / denominator
    slope = (steep / denominator) ** 2 * (high * t**2 + 2.0 * steep * u + low * (1.0 - t) ** 2)
    return _with_tails(x, value, jnp.log(slope), at, bound)


def inverse_spline(y: Float[Array, "..."], at: Knots, bound: float) -> tuple[Float[Array, "..."], Float[Array, "..."]]:
    """The inverse, and the logarithm of the slope of the spline there.

    Reference: Durkan et al., arXiv:1906.04032, eqs. 6 to 8 (the root that loses no digits).
    """
    inside = jnp.clip(y, -bound, bound)
    width, height, left, floor, low, high = _bin_of(inside, at.floors, at)
    steep = height / width
    rise = jnp.maximum(inside - floor, 0.0)
    curve = rise * (high + low - 2.0 * steep)
    a, b, c = height * (steep - low) + curve, height * low - curve, -steep * rise
    t = 2.0 * c / (-b - jnp.sqrt(jnp.maximum(b**2 - 4.0 * a * c, 0.0)))
    u = t * (1.0 - t)
    denominator = steep + (high + low - 2.0 * steep) * u
    slope = (steep / denominator) ** 2 * (high * t**2 + 2.0 * steep * u + low * (1.0 - t) ** 2)
    low_tail, high_tail = at.slopes[..., 0], at.slopes[..., -1]
    x = jnp.where(
        y < -bound,
        (y + bound) / low_tail - bound,
        jnp.where(y > bound, (y - bound) / high_tail + bound, left + width * t),
    )
    return x, _tail_slope(y, jnp.log(slope), at, bound)


def _bin_of(x: Array, starts: Array, at: Knots) -> tuple[Array, ...]:
    """Width, height, left end, floor and both slopes of the bin that holds x."""
    index = jnp.sum((x[..., None] >= starts[..., 1:]).astype(jnp.int32), axis=-1)
    chosen = jax.nn.one_hot(index, starts.shape[-1], dtype=x.dtype)
    columns = (at.widths, at.heights, at.lefts, at.floors, at.slopes[..., :-1], at.slopes[..., 1:])
    # Sums of products instead of gathers: they vectorise, and so do their derivatives.
    return tuple(jnp.sum(chosen * column, axis=-1) for column in columns)


def _with_tails(x: Array, value: Array, log_slope: Array, at: Knots, bound: float) -> tuple[Array, Array]:
    low, high = at.slopes[..., 0], at.slopes[..., -1]
    value = jnp.where(x < -bound, low * (x + bound) - bound, jnp.where(x > bound, high * (x - bound) + bound, value))
    return value, _tail_slope(x, log_slope, at, bound)


def _tail_slope(x: Array, log_slope: Array, at: Knots, bound: float) -> Array:
    low, high = at.slopes[..., 0], at.slopes[..., -1]
    return jnp.where(x < -bound, jnp.log(low), jnp.where(x > bound, jnp.log(high), log_slope))
