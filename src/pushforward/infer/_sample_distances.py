"""Distances between two sets of samples."""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from ..models._types import Key
from ..samplers.engine import reduce_pairs
from ..samplers.pairs import RBF, AbstractRadialKernel, Median
from ..samplers.pairs._distance import product, squared_distances
from ..samplers.stein._mirrored import check_radial
from ._arguments import check_count, check_key
from ._sample_sets import DEFAULT_POINTS, Discrepancy, points_of


def mmd(
    first: Any,
    second: Any,
    *,
    key: Key | None = None,
    kernel: AbstractRadialKernel | None = None,
    num_permutations: int = 1000,
    max_points: int | None = DEFAULT_POINTS,
) -> Discrepancy:
    """Maximum mean discrepancy, ``MMD^2 = E k(x, x') + E k(y, y') - 2 E k(x, y)``.

    The p-value is that of the hypothesis that both sets come from one distribution, by permutations; it holds exactly
    for independent draws.

    Args:
        first: a `Posterior` (its positions on unconstrained space) or an array (n, d).
        second: another of the same dimension.
        key: for the p-value; None leaves it out.
        kernel: radial; by default `RBF` whose squared bandwidth is the median squared distance of all points together.
        num_permutations: random permutations.
        max_points: each set is thinned to at most so many.

    Returns:
        A `Discrepancy`.

    Raises:
        ValueError: for sets of different dimension, or of too few points, or a kernel that is not radial.

    Cost: (n + m)^2 (d + num_permutations) multiplications; memory linear in n + m.

    Reference: Gretton et al., A kernel two-sample test, 2012, section 2 and lemma 6.
    """
    kernel = RBF(Median(scale=1.0, log=False)) if kernel is None else check_radial("mmd", kernel)
    return _compare(_kernel_term, kernel, first, second, key, num_permutations, max_points, root=True)


def energy_distance(
    first: Any,
    second: Any,
    *,
    key: Key | None = None,
    num_permutations: int = 1000,
    max_points: int | None = DEFAULT_POINTS,
) -> Discrepancy:
    """Energy distance ``2 E |x - y| - E |x - x'| - E |y - y'|``; without a bandwidth, in units of the positions.

    ``value`` averages over all pairs of the two sets (a V-statistic, never negative); ``unbiased`` leaves out the pairs
    of a point with itself. Arguments, p-value and cost are those of `mmd`, of which this is the case k = -|x - y|.

    Args:
        first: a `Posterior` (its positions on unconstrained space) or an array (n, d).
        second: another of the same dimension.
        key: for the p-value; None leaves it out.
        num_permutations: random permutations.
        max_points: each set is thinned to at most so many.

    Raises:
        ValueError: for sets of different dimension, or of too few points.

    Reference: Szekely and Rizzo, Energy statistics, 2013; Sejdinovic et al., arXiv:1207.6076 (as an MMD).
    """
    return _compare(_distance_term, None, first, second, key, num_permutations, max_points, root=False)


def sliced_wasserstein(
    first: Any,
    second: Any,
    *,
    key: Key,
    order: float = 2.0,
    num_projections: int = 200,
    max_points: int | None = None,
) -> float:
    """Sliced Wasserstein distance ``(mean_u W_p(u . x, u . y)^p)^(1/p)`` over random directions u.

    Exact in each direction, also for sets of different size. For a shift by a vector v and order 2 it is |v| / sqrt(d).

    Args:
        first: a `Posterior` (its positions on unconstrained space) or an array (n, d).
        second: another of the same dimension.
        key: for the directions; equal keys give equal directions.
        order: p, at least 1.
        num_projections: directions.
        max_points: each set is thinned to at most so many; None for all.

    Raises:
        ValueError: for sets of different dimension, or an order below 1.

    Cost: O(num_projections (n + m) (d + log(n + m))). Reference: Bonneel et al., Sliced and Radon Wasserstein
    barycenters of measures, 2015.
    """
    check_key(key)
    check_count("num_projections", num_projections, 1)
    if not order >= 1:
        raise ValueError(f"order={order}: expected a number of at least 1; 2 is usual.")
    x, y = paired_points(first, second, max_points)
    directions = jax.random.normal(key, (num_projections, x.shape[1]), x.dtype)
    directions = directions / jnp.sqrt(jnp.sum(directions**2, axis=1, keepdims=True))
    return float(_sliced(jnp.asarray(x), jnp.asarray(y), directions, jnp.asarray(order, x.dtype)))


@jax.jit
def _sliced(
    x: Float[Array, "n d"], y: Float[Array, "m d"], directions: Float[Array, "k d"], order: Float[Array, ""]
) -> Float[Array, ""]:
    n, m = x.shape[0], y.shape[0]
    # Both quantile functions are constant between neighbouring multiples of 1/n and 1/m: all of them, in whole numbers.
    levels = np.union1d(np.arange(1, n + 1, dtype=np.int64) * m, np.arange(1, m + 1, dtype=np.int64) * n)
    width = jnp.asarray(np.diff(levels, prepend=0) / (n * m), x.dtype)
    from_x, from_y = jnp.asarray(-(-levels // m) - 1), jnp.asarray(-(-levels // n) - 1)

    def one(direction: Float[Array, " d"]) -> Float[Array, ""]:
        low, high = (jnp.sort(jnp.sum(points * direction, axis=1)) for points in (x, y))
        return jnp.sum(width * jnp.abs(low[from_x] - high[from_y]) ** order)

    return jnp.mean(jax.lax.map(one, directions)) ** (1.0 / order)


def paired_points(first: Any, second: Any, max_points: int | None) -> tuple[np.ndarray, np.ndarray]:
    """Both sets as points of one dimension and dtype."""
    x = points_of(first, name="first", max_points=max_points)
    y = points_of(second, name="second", max_points=max_points)
    if x.shape[1] != y.shape[1]:
        raise ValueError(
            f"The sets have points of {x.shape[1]} and {y.shape[1]} dimensions: expected equal ones, such as two "
            "posteriors of one target."
        )
    dtype = np.result_type(x, y)
    return x.astype(dtype), y.astype(dtype)


def _compare(
    term: Any,
    kernel: AbstractRadialKernel | None,
    first: Any,
    second: Any,
    key: Key | None,
    num_permutations: int,
    max_points: int | None,
    *,
    root: bool,
) -> Discrepancy:
    x, y = paired_points(first, second, max_points)
    check_count("num_permutations", num_permutations, 1)
    if key is not None:
        check_key(key)
    count = 0 if key is None else num_permutations
    found = _two_sample(term, kernel, jnp.concatenate([jnp.asarray(x), jnp.asarray(y)]), x.shape[0], key, count)
    value, unbiased, larger = (np.asarray(v) for v in found)
    p_value = None if key is None else float((1 + larger) / (1 + num_permutations))
    distance = max(float(value), 0.0)
    return Discrepancy(distance**0.5 if root else distance, float(unbiased), p_value, (x.shape[0], y.shape[0]))


@functools.partial(jax.jit, static_argnums=(0, 3, 5))
def _two_sample(
    term: Any,
    kernel: AbstractRadialKernel | None,
    points: Float[Array, "n d"],
    size: int,
    key: Key | None,
    num_permutations: int,
) -> tuple[Array, Array, Array]:
    """V-statistic, U-statistic, and how many permutations give at least that U-statistic."""
    total, dtype = points.shape[0], points.dtype
    member = (jnp.arange(total) < size).astype(dtype)[:, None]
    if key is not None:
        orders = jax.vmap(lambda k: jax.random.permutation(k, member[:, 0]))(jax.random.split(key, num_permutations))
        member = jnp.concatenate([member, orders.T], axis=1)
    ones = jnp.ones((total, 1), dtype)
    # Without a kernel, the negative distance, which is zero on the diagonal.
    bandwidth, own = None, jnp.zeros((), dtype)
    if kernel is not None:
        # A rule may look at some of the points only: their order must not tell the sets apart.
        bandwidth = kernel.bandwidth(points[jnp.argsort(points[:, 0])], jnp.ones((total,), bool))
        own = kernel.profile(jnp.zeros((1, 1), dtype), bandwidth).value[0, 0]
    centred = points - jnp.mean(points, axis=0)
    columns = (centred, jnp.concatenate([ones, member], axis=1))
    products = reduce_pairs(term, (kernel, bandwidth), centred, columns)
    degree, within = products[:, :1], products[:, 1:]
    # Sums of the kernel over pairs inside the first group, across, and inside the second.
    xx = jnp.sum(member * within, axis=0)
    xy = jnp.sum(member * degree, axis=0) - xx
    yy = jnp.sum(degree) - 2.0 * xy - xx
    n, m = jnp.asarray(size, dtype), jnp.asarray(total - size, dtype)
    value = xx / n**2 + yy / m**2 - 2.0 * xy / (n * m)
    unbiased = (xx - n * own) / (n * (n - 1.0)) + (yy - m * own) / (m * (m - 1.0)) - 2.0 * xy / (n * m)
    # What only rounding tells apart counts as equal.
    slack = 64.0 * jnp.finfo(dtype).eps * jnp.sum(jnp.abs(degree)) / (n * m)
    return value[0], unbiased[0], jnp.sum(unbiased[1:] >= unbiased[0] - slack)


def _kernel_term(parameters: Any, x: Array, column: Any, weight: Array) -> Array:
    kernel, squared_bandwidth = parameters
    y, vectors = column
    value = kernel.profile(squared_distances(x, y), squared_bandwidth).value
    return product(value, weight[:, None] * vectors)


def _distance_term(parameters: Any, x: Array, column: Any, weight: Array) -> Array:
    y, vectors = column
    squared = squared_distances(x, y)
    distance = jnp.where(squared > 0, jnp.sqrt(jnp.where(squared > 0, squared, 1.0)), 0.0)
    return product(-distance, weight[:, None] * vectors)
