"""The Stein force: the direction in which a cloud of particles should move."""

from __future__ import annotations

from typing import TYPE_CHECKING

import jax.numpy as jnp
from jaxtyping import Array, Float

from ..engine._pairs import reduce_pairs
from ._distance import product, squared_distances, weighted_differences

if TYPE_CHECKING:
    from ._base import AbstractRadialKernel


def stein_force(
    kernel: AbstractRadialKernel,
    squared_bandwidth: Float[Array, ""],
    points: Float[Array, "n d"],
    scores: Float[Array, "n d"],
    weight: Float[Array, " n"],
    *,
    at: Float[Array, "m d"] | None = None,
    repulsion: float | Array = 1.0,
) -> Float[Array, "m d"]:
    """``sum_j w_j [k(x_i, x_j) s_j + repulsion grad_j k(x_i, x_j)] / sum_j w_j``.

    Cost: two matrix products per block of pairs; memory linear in n.

    Args:
        kernel: positive-definite kernel.
        squared_bandwidth: its h^2.
        points: particles x_j.
        scores: gradients of the log-density at the particles.
        weight: weight of each particle; zero for those that do not count.
        at: where the force is wanted; None for the particles themselves.
        repulsion: factor of the second term.

    Reference: Liu and Wang, arXiv:1608.04471, eq. 8.
    """
    centre = (weight @ points) / jnp.sum(weight)
    rows = points if at is None else at
    parameters = (kernel, squared_bandwidth, jnp.asarray(repulsion, points.dtype), centre)
    total = reduce_pairs(_term, parameters, rows, (points, scores), weight=weight)
    return total / jnp.sum(weight)


def _term(
    parameters: tuple[AbstractRadialKernel, Array, Array, Array], x: Array, column: tuple[Array, Array], weight: Array
) -> Array:
    kernel, squared_bandwidth, repulsion, centre = parameters
    # Centred block by block: a centred copy of all points would be as large as the points.
    x, y, scores = x - centre, column[0] - centre, column[1]
    profile = kernel.profile(squared_distances(x, y), squared_bandwidth)
    attraction = product(profile.value, weight[:, None] * scores)
    # grad_j k = 2 k' (x_j - x_i).
    return attraction + repulsion * weighted_differences(2.0 * profile.first * weight[None, :], x, y)
