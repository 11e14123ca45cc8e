"""The Stein kernel, whose mean over pairs is the squared kernel Stein discrepancy."""

from __future__ import annotations

from typing import TYPE_CHECKING

import jax.numpy as jnp
from jaxtyping import Array, Float

from ._distance import product, squared_distances

if TYPE_CHECKING:
    from ._base import AbstractRadialKernel


def stein_kernel_rows(
    parameters: tuple[AbstractRadialKernel, Float[Array, ""]],
    row: tuple[Float[Array, "i d"], Float[Array, "i d"]],
    column: tuple[Float[Array, "j d"], Float[Array, "j d"]],
    weight: Float[Array, " j"],
) -> Float[Array, " i"]:
    """``sum_j w_j u(x_i, y_j)``, a term for `reduce_pairs`.

    ``u = k s.r + s.grad_y k + r.grad_x k + tr grad_x grad_y k`` with scores s at x and r at y. For k = f(|x - y|^2)
    that is ``f s.r + 2 f' (x - y).(r - s) - 2 d f' - 4 f'' |x - y|^2``.

    Args:
        parameters: radial kernel and its squared bandwidth.
        row: points x and their scores; centred, with ``column``.
        column: points y and their scores.
        weight: weight of each column.

    Reference: Liu, Lee and Jordan, A kernelized Stein discrepancy, arXiv:1602.03253, theorem 3.6.
    """
    kernel, squared_bandwidth = parameters
    (x, s), (y, r) = row, column
    squared = squared_distances(x, y)
    profile = kernel.profile(squared, squared_bandwidth)
    across = product(x, r.T) + product(s, y.T) - jnp.sum(x * s, axis=1)[:, None] - jnp.sum(y * r, axis=1)[None, :]
    value = profile.value * product(s, r.T) + 2.0 * profile.first * (across - x.shape[1])
    return product(value - 4.0 * profile.second * squared, weight[:, None])[:, 0]
