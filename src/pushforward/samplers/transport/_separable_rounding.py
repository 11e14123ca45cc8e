"""What a rounded plan on grids costs and how far it is from that of the potentials, without a sum over all pairs.

A rounded plan is ``u + v``: the plan e of the potentials, scaled by row and column, and a product measure. The
logarithm of a sum does not go axis by axis, but ``x log(x / e)`` is convex and homogeneous, so that for any t between 0
and 1 ``(u + v) log((u + v) / e) <= u log(u / ((1 - t) e)) + v log(v / (t e))``, of which every part does. With t the
share of v in its row the bound is exact where either part is zero.
"""

from __future__ import annotations

import jax.numpy as jnp
from jaxtyping import Array, Float

from ._grid import Separable
from ._problem import log_weights

Rows = tuple[Float[Array, " n"], Float[Array, " n"], Float[Array, " n"]]
Columns = tuple[Float[Array, " m"], Float[Array, " m"], Float[Array, " m"], Float[Array, " m"]]


def rounded_parts(geometry: Separable, epsilon: Float[Array, ""], rows: Rows, columns: Columns) -> tuple[Array, ...]:
    """Cost, bounds on entropy and divergence, and mass of the rounded plan, per unit of row weight.

    Args:
        geometry: the grids.
        epsilon: regularisation.
        rows: potential, scale, and what is missing over the weight.
        columns: potential, weight, scale, and what is missing over the weight and the whole of what is missing.
    """
    f, row_scale, left = rows
    g, b, column_scale, right = columns
    log_row, log_column = log_weights(row_scale), log_weights(column_scale)
    vectors = jnp.stack([jnp.ones_like(g), column_scale, column_scale * _finite(log_column), column_scale * g], axis=1)
    sums = geometry.push(f, g, log_weights(b), epsilon, vectors)
    before, scaled, scaled_log, scaled_g = (
        sums[:, 0],
        row_scale * sums[:, 1],
        row_scale * sums[:, 2],
        row_scale * sums[:, 3],
    )
    scaled_cost = row_scale * geometry.push_cost(f, g, log_weights(b), epsilon, column_scale[:, None])[:, 0]
    scaled_log = scaled_log + _finite(log_row) * scaled

    share = b * right
    added = left * jnp.sum(share)
    added_log = _finite(log_weights(left)) * added + left * jnp.sum(share * _finite(log_weights(right)))
    added_cost = left * geometry.mean_cost(share)
    added_exponent = (f * added + left * jnp.sum(share * g) - added_cost) / epsilon

    part = added / (scaled + added)
    mixing = -scaled * jnp.log1p(-jnp.where(part < 1, part, 0.0)) - added * _finite(log_weights(part))
    linear, mass = scaled_cost + added_cost, scaled + added
    logarithms = scaled_log + added_log + mixing
    entropy = logarithms + (f * scaled + scaled_g - scaled_cost) / epsilon - mass + jnp.sum(b)
    return linear, entropy, logarithms - added_exponent - mass + before, mass


def _finite(log: Array) -> Array:
    """Logarithms to be multiplied by what they are of: zero for zero."""
    return jnp.where(jnp.isfinite(log), log, 0.0)
