"""Sliced Wasserstein distance with control variates of known mean: fewer directions for the same error, without bias.

Along a direction u the squared distance of two projected clouds is that of their means, plus that of the centred
projections. The first part, ``(u . delta)^2``, and the two projected variances are quadratic forms of u, whose mean
over the sphere is their trace over d. Regression on them would estimate its coefficients from the very directions that
it corrects, a bias of order one over their number. Here the coefficients follow from the clouds alone, so that there
is none. For the shift it is one. For the variances q and r they are the slopes, at the mean values, of
``(sqrt(q) - sqrt(r))^2``, which the distance of the centred projections would be if these were Gaussian.
"""

from __future__ import annotations

import functools
from typing import Any, Literal, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from ...models._types import Key
from .._checks import check_clouds, check_count, check_key, check_weights
from ._matrices import product
from ._one_dimensional import check_order, merge, power_of_distance

Control: TypeAlias = Literal["upper", "lower"] | None


def sliced_wasserstein(
    key: Key,
    x: Any,
    y: Any,
    *,
    a: Any = None,
    b: Any = None,
    num_directions: int = 10,
    control: Control = "upper",
    p: float = 2.0,
) -> Float[Array, ""]:
    """Unbiased estimate of the sliced distance to its power, ``SW_p^p = mean_u W_p(u . x, u . y)^p`` over unit vectors.

    The root is left to the user: it would bias the estimate. (`pf.sliced_wasserstein` returns the root.) Compiled code,
    works under ``jax.vmap``, and is differentiable in points and weights: the gradient is unbiased too. An estimate
    with a control may be negative where the distance is small against its noise.

    Args:
        key: for the directions; equal keys give equal directions.
        x: points (n, d).
        y: points (m, d).
        a: weights of x that sum to one; equal ones by default.
        b: weights of y.
        num_directions: L.
        control: what is subtracted, less its mean. "lower": the distance of the means, a lower bound of the distance;
            "upper": also the projected variances (shift and variances bound it from above), each by its slope. None:
            plain Monte Carlo. Both need p = 2.
        p: at least one.

    Raises:
        ValueError: for clouds that do not match or are not finite, weights that are negative or do not sum to one, or a
            control with another p.

    Cost: O(L (n + m) (d + log(n + m))); a control adds O((n + m) d).

    Bias: none, for any number of directions. Variance: falls as 1/L; with a control it does not depend on the shift.

    Reference: Nguyen and Ho, Sliced Wasserstein estimation with control variates, arXiv:2305.00402, section 3, for the
    controls; their coefficients are estimated, with a bias of order 1/L.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> x = jnp.zeros((3, 4))
        >>> float(sliced_wasserstein(jax.random.key(0), x, x + 1.0, num_directions=1))
        1.0
    """
    check_key(key)
    x, y = check_clouds(x, y)
    num_directions = check_count("num_directions", num_directions, 1)
    check_order(p)
    if control not in (None, "upper", "lower"):
        raise ValueError(f"control={control!r}: expected 'upper', 'lower' or None.")
    if control is not None and p != 2:
        raise ValueError(f"control={control!r} with p={p}: expected p=2, for which its mean is known; or control=None.")
    equal = a is None and b is None
    weights = check_weights("a", a, x.shape[0], x.dtype), check_weights("b", b, y.shape[0], y.dtype)
    return _estimate(key, x, y, weights, num_directions, control, float(p), equal)


@functools.partial(jax.jit, static_argnums=(4, 5, 6, 7))
def _estimate(
    key: Key,
    x: Array,
    y: Array,
    weights: tuple[Array, Array],
    num_directions: int,
    control: Control,
    p: float,
    equal: bool,  # noqa: FBT001
) -> Float[Array, ""]:
    directions = jax.random.normal(key, (num_directions, x.shape[1]), x.dtype)
    directions = directions / jnp.sqrt(jnp.sum(directions**2, axis=1, keepdims=True))
    if control is None:
        projected = product(directions, x.T), product(directions, y.T)
        return jnp.mean(_distances(*projected, weights, p, equal=equal))
    return _controlled(directions, x, y, weights, upper=control == "upper", equal=equal)


def _controlled(
    directions: Float[Array, "l d"],
    x: Float[Array, "n d"],
    y: Float[Array, "m d"],
    weights: tuple[Float[Array, " n"], Float[Array, " m"]],
    *,
    upper: bool,
    equal: bool,
) -> Float[Array, ""]:
    """The distance of means exactly, that of centred clouds with or without the controls of variance."""
    dim = x.shape[1]
    means = product(weights[0], x), product(weights[1], y)
    x, y = x - means[0][None, :], y - means[1][None, :]
    shift = jnp.sum((means[0] - means[1]) ** 2) / dim
    low, high = product(directions, x.T), product(directions, y.T)
    values = _distances(low, high, weights, 2.0, equal=equal)
    if not upper:
        return shift + jnp.mean(values)
    mean_q, mean_r = (product(w, jnp.sum(z**2, axis=1)) / dim for z, w in ((x, weights[0]), (y, weights[1])))
    q, r = product(low**2, weights[0]), product(high**2, weights[1])
    # Of clouds without width the slopes are not defined: nothing is subtracted.
    wide = (mean_q > 0) & (mean_r > 0)
    ratio = jnp.sqrt(jnp.where(wide, mean_q, 1.0) / jnp.where(wide, mean_r, 1.0))
    slope_q, slope_r = (jnp.where(wide, 1.0 - slope, 0.0) for slope in (1.0 / ratio, ratio))
    return shift + jnp.mean(values - slope_q * (q - mean_q) - slope_r * (r - mean_r))


def _distances(
    low: Float[Array, "l n"], high: Float[Array, "l m"], weights: tuple[Array, Array], p: float, *, equal: bool
) -> Float[Array, " l"]:
    """``W_p^p`` of each pair of rows."""
    if not equal:
        return jax.vmap(lambda u, v: _weighted(u, v, *weights, p))(low, high)
    low, high = jnp.sort(low, axis=1), jnp.sort(high, axis=1)
    n, m = low.shape[1], high.shape[1]
    if n == m:
        return jnp.mean(power_of_distance(low, high, p), axis=1)
    # Quantile functions are constant between neighbouring multiples of 1/n and 1/m: in whole numbers.
    levels = np.union1d(np.arange(1, n + 1, dtype=np.int64) * m, np.arange(1, m + 1, dtype=np.int64) * n)
    width = jnp.asarray(np.diff(levels, prepend=0) / (n * m), low.dtype)
    return product(power_of_distance(low[:, -(-levels // m) - 1], high[:, -(-levels // n) - 1], p), width)


def _weighted(low: Float[Array, " n"], high: Float[Array, " m"], a: Array, b: Array, p: float) -> Float[Array, ""]:
    rows, columns = jnp.argsort(low), jnp.argsort(high)
    from_x, from_y, mass = merge(a[rows], b[columns])
    return jnp.sum(mass * power_of_distance(low[rows][from_x], high[columns][from_y], p))
