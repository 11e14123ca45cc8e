"""Costs of moving a unit of mass from one point to another, block by block."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal, TypeAlias, get_args

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from ..pairs._distance import product, squared_distances

CostName: TypeAlias = Literal["sqeuclidean", "euclidean", "l1", "cosine"]
CostFunction: TypeAlias = Callable[[Any, Any], Float[Array, ""]]
"""``cost(x_i, y_j)`` of two single points."""
BlockCost: TypeAlias = Callable[[Array, Array], Float[Array, "i j"]]

_DIFFERENCES = 256
"""Dimensions up to which stored distances are sums of squared differences."""


def block_cost(cost: Any) -> BlockCost:
    """A named cost, or a user's cost of two points, as a function of two blocks of points.

    Raises:
        ValueError: for an unknown name, or what is neither a name nor a function.
    """
    if isinstance(cost, str) and cost in _NAMED:
        return _NAMED[cost]
    if callable(cost):
        return _Pairwise(cost)
    raise ValueError(
        f"cost={cost!r}: expected one of {list(get_args(CostName))}, a function cost(x_i, y_j) of two points, or an "
        "array of shape (n, m)."
    )


class _Pairwise:
    """A cost of two points, for all pairs of two blocks; equal for equal functions: programs are found again."""

    def __init__(self, cost: CostFunction) -> None:
        self.cost = cost

    def __call__(self, x: Array, y: Array) -> Float[Array, "i j"]:
        return jax.vmap(lambda one: jax.vmap(lambda other: self.cost(one, other))(y))(x)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Pairwise) and self.cost == other.cost

    def __hash__(self) -> int:
        return hash(self.cost)


def stored_form(cost: BlockCost) -> BlockCost:
    """The same cost, as exact as its dtype allows, where it is computed once and kept."""
    if cost is squared_distances:
        return _squared_by_differences
    return _euclidean_by_differences if cost is _euclidean else cost


def _squared_by_differences(x: Float[Array, "i d"], y: Float[Array, "j d"]) -> Float[Array, "i j"]:
    """Squared distances without cancellation. Derivatives are those of the form with norms, which keep no differences.

    In very many dimensions distances are as large as norms, and the form with norms has nothing to lose.
    """
    squared = squared_distances(x, y)
    if x.shape[1] > _DIFFERENCES:
        return squared
    left, right = jax.lax.stop_gradient((x.T, y.T))

    def add(index: Array, total: Array) -> Array:
        return total + (left[index][:, None] - right[index][None, :]) ** 2

    exact = jax.lax.fori_loop(0, x.shape[1], add, jnp.zeros(squared.shape, squared.dtype))
    return squared + (exact - jax.lax.stop_gradient(squared))


def _euclidean_by_differences(x: Float[Array, "i d"], y: Float[Array, "j d"]) -> Float[Array, "i j"]:
    return _root(_squared_by_differences(x, y))


def _euclidean(x: Float[Array, "i d"], y: Float[Array, "j d"]) -> Float[Array, "i j"]:
    return _root(squared_distances(x, y))


def _root(squared: Float[Array, "i j"]) -> Float[Array, "i j"]:
    # The gradient where points meet is taken as zero.
    return jnp.where(squared > 0, jnp.sqrt(jnp.where(squared > 0, squared, 1.0)), 0.0)


def _l1(x: Float[Array, "i d"], y: Float[Array, "j d"]) -> Float[Array, "i j"]:
    parts = (jnp.abs(x[:, c, None] - y[None, :, c]) for c in range(x.shape[1]))
    return sum(parts, jnp.zeros((), x.dtype))


def _cosine(x: Float[Array, "i d"], y: Float[Array, "j d"]) -> Float[Array, "i j"]:
    return 1.0 - product(_unit(x), _unit(y).T)


def _unit(x: Float[Array, "i d"]) -> Float[Array, "i d"]:
    squared = jnp.sum(x * x, axis=1, keepdims=True)
    return x * jnp.where(squared > 0, jax.lax.rsqrt(jnp.where(squared > 0, squared, 1.0)), 0.0)


_NAMED: dict[str, BlockCost] = {
    "sqeuclidean": squared_distances,
    "euclidean": _euclidean,
    "l1": _l1,
    "cosine": _cosine,
}
