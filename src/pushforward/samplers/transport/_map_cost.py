"""What a map moves beside what has to be moved."""

from __future__ import annotations

from typing import Any

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Float

from .._checks import check_flag, check_floats
from ..pairs._distance import product
from ._exact import exact
from ._gaussian import bures_wasserstein

_LIMIT = 2000
"""Points up to which the cheapest pairing is looked for unasked."""


class MapCost(eqx.Module):
    """Squared distance that a map moves points, between bounds.

    Attributes:
        cost: ``mean_i |T(x_i) - x_i|^2``.
        standard_error: of ``cost``, as an average over independent points.
        gaussian: squared Bures-Wasserstein distance of the Gaussians with the moments of x and T(x): no map between
            clouds of these moments moves less.
        optimal: a lower bound on the cost of the cheapest pairing of these very points, as sharp as
            ``optimal_gap`` says; None where there are too many points.
        optimal_gap: the pairing's cost is at most ``optimal + optimal_gap``; None with ``optimal``.
    """

    cost: Float[Array, ""]
    standard_error: Float[Array, ""]
    gaussian: Float[Array, ""]
    optimal: Float[Array, ""] | None
    optimal_gap: Float[Array, ""] | None

    @property
    def excess(self) -> Float[Array, ""]:
        """Share of the cost that the best known lower bound does not explain; zero for an optimal map."""
        bound = self.gaussian if self.optimal is None else jnp.maximum(self.gaussian, self.optimal)
        return jnp.where(self.cost > 0, 1.0 - bound / jnp.where(self.cost > 0, self.cost, 1.0), 0.0)


def map_cost(x: Any, y: Any, *, pairing: bool | None = None) -> MapCost:
    """Cost of moving each x_i to y_i = T(x_i), as a flow or a guide does, beside the least that could do.

    A flow whose paths are straight and do not cross moves as little as optimal transport; one that winds costs more,
    and is harder to integrate.

    Args:
        x: points of the base, shape (n, d), n at least 2.
        y: where the map takes them, shape (n, d).
        pairing: whether to look for the cheapest pairing; None for up to 2,000 points.

    Returns:
        A `MapCost`.

    Raises:
        ValueError: for clouds that do not match or are not finite.

    Bias: all bounds are those of the two clouds as they are. Of the laws they come from, the cheapest pairing of finite
    clouds is an estimate from above that falls slowly with n in many dimensions; ``gaussian`` is one to O(1 / n).

    Cost: O(n d^2 + d^3); the pairing that of `exact`.

    Reference: Gelbrich, On a formula for the L2 Wasserstein metric between measures on Euclidean and Hilbert spaces,
    1990 (the bound by Gaussians).

    Example:
        >>> import jax.numpy as jnp
        >>> x = jnp.array([[0.0], [1.0], [2.0]])
        >>> float(map_cost(x, x[::-1], pairing=False).excess.round(3))
        1.0
    """
    x, y = check_floats("x", x, "n, d"), check_floats("y", y, "n, d")
    if x.shape != y.shape or x.shape[0] < 2:
        raise ValueError(
            f"x has shape {x.shape} and y {y.shape}: expected the same shape (n, d), n at least 2, row i of y being "
            "where row i of x is moved to."
        )
    dtype = jnp.promote_types(x.dtype, y.dtype)
    x, y = x.astype(dtype), y.astype(dtype)
    count = x.shape[0]
    moved = jnp.sum((y - x) ** 2, axis=1)
    means = jnp.mean(x, axis=0), jnp.mean(y, axis=0)
    covariances = [product((z - m[None, :]).T, z - m[None, :]) / count for z, m in zip((x, y), means, strict=True)]
    # Rounding may leave it slightly negative.
    gaussian = jnp.maximum(bures_wasserstein(means[0], covariances[0], means[1], covariances[1]), 0.0)
    error = jnp.std(moved, ddof=1) / jnp.sqrt(jnp.asarray(count, dtype))
    if not (count <= _LIMIT if pairing is None else check_flag("pairing", pairing)):
        return MapCost(jnp.mean(moved), error, gaussian, None, None)
    found = exact(x, y)
    return MapCost(jnp.mean(moved), error, gaussian, found.dual, found.gap)
