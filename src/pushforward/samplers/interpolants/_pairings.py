"""Which draw of the base goes with which draw of the target."""

from __future__ import annotations

import abc
import math
from typing import Any, ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, PyTree

from ...models._types import Key
from .._checks import check_count, check_positive
from ..transport import coupling
from ._gamma import Brownian
from ._path import AbstractPath
from ._two_sided import Linear


class AbstractCoupling(eqx.Module):
    """A joint law of the two ends of a path, as a rule that pairs batches of draws."""

    rowwise: ClassVar[bool] = False
    """Whether row i of the base belongs to row i of the target to begin with."""

    @abc.abstractmethod
    def pairs(
        self, key: Key, base: Float[Array, "n *event"], target: Float[Array, "n *event"], condition: PyTree = None
    ) -> tuple[Int[Array, " n"], Int[Array, " n"]]:
        """Rows of the base and rows of the target, and of its condition, that go together."""


class Independent(AbstractCoupling):
    """Any draw with any: the fields of the product law."""

    def pairs(
        self, key: Key, base: Float[Array, "n *event"], target: Float[Array, "n *event"], condition: PyTree = None
    ) -> tuple[Int[Array, " n"], Int[Array, " n"]]:
        """See `AbstractCoupling.pairs`."""
        rows = jnp.arange(base.shape[0])
        return rows, rows


class Paired(AbstractCoupling):
    """Row i of the base with row i of the target: pairs that are given, such as those of `reflow`."""

    rowwise: ClassVar[bool] = True

    def pairs(
        self, key: Key, base: Float[Array, "n *event"], target: Float[Array, "n *event"], condition: PyTree = None
    ) -> tuple[Int[Array, " n"], Int[Array, " n"]]:
        """See `AbstractCoupling.pairs`."""
        rows = jnp.arange(base.shape[0])
        return rows, rows


class MinibatchTransport(AbstractCoupling):
    """Pairs from optimal transport between groups of draws: shorter and straighter ways.

    Batches are cut into groups, so that the size of a group, whose cost is cubic, is not that of a batch. See
    `pushforward.transport.coupling` for the bias of finite groups and for conditions, which must be one array.

    Args:
        group: draws of each end that are matched with one another; the largest divisor of the batch size up to that.
        epsilon: entropic regularisation, in squared units of the points; None for the cheapest matching.
        replace: whether draws may be used more than once: independent draws from the plan.
        condition_weight: cost of a squared distance of conditions.

    Reference: Tong et al., arXiv:2302.00482, section 4.
    """

    epsilon: Float[Array, ""] | None
    condition_weight: Float[Array, ""]
    group: int = eqx.field(static=True)
    replace: bool = eqx.field(static=True)

    def __init__(
        self, group: int = 128, *, epsilon: Any = None, replace: bool = False, condition_weight: Any = 1.0
    ) -> None:
        self.group = check_count("group", group, 2)
        self.epsilon = None if epsilon is None else check_positive("epsilon", epsilon)
        self.condition_weight = check_positive("condition_weight", condition_weight)
        self.replace = replace

    def pairs(
        self, key: Key, base: Float[Array, "n *event"], target: Float[Array, "n *event"], condition: PyTree = None
    ) -> tuple[Int[Array, " n"], Int[Array, " n"]]:
        """See `AbstractCoupling.pairs`."""
        n = base.shape[0]
        size = max(k for k in range(1, min(self.group, n) + 1) if n % k == 0)
        leaves = jax.tree.leaves(condition)
        if len(leaves) > 1:
            raise ValueError(
                f"A condition of {len(leaves)} arrays with MinibatchTransport: expected a single array, from whose "
                "distances the cost is made; concatenate them, or use Independent()."
            )

        def cut(points: Array) -> Array:
            return jnp.reshape(points, (n // size, size, -1))

        given = [jnp.reshape(leaf, (n // size, size, *leaf.shape[1:])) for leaf in leaves]

        def match(key: Key, x: Array, y: Array, *conditions: Array) -> tuple[Array, Array]:
            return coupling(
                key,
                x,
                y,
                condition=conditions[0] if conditions else None,
                condition_weight=self.condition_weight,
                epsilon=self.epsilon,
                replace=self.replace,
            )

        keys = jax.random.split(key, n // size)
        rows, columns = jax.vmap(match)(keys, cut(base), cut(target), *given)
        offset = jnp.arange(n // size)[:, None] * size
        return jnp.ravel(rows + offset), jnp.ravel(columns + offset)


def schroedinger(path: AbstractPath, group: int = 128) -> MinibatchTransport:
    """The coupling with which a `Linear` path with `Brownian` noise is a Schroedinger bridge.

    Bridges of a Brownian motion of variance ``scale`` per unit of time, between ends drawn from the entropic plan of
    cost ``|x - y|^2`` and regularisation ``2 scale``.

    Args:
        path: ``Linear(Brownian(scale))``.
        group: see `MinibatchTransport`; the bias of small groups falls as they grow.

    Raises:
        ValueError: for another path.

    Reference: Leonard, A survey of the Schroedinger problem, arXiv:1308.0215, theorem 2.4; minibatches: Tong et al.,
    arXiv:2307.03672, section 3.
    """
    if not isinstance(path, Linear) or not isinstance(path.noise, Brownian):
        raise ValueError(
            f"path is {type(path).__name__}: expected Linear(Brownian(scale)), whose noise is that of the bridges of a "
            "Brownian motion; other paths are no Schroedinger bridges whatever the coupling."
        )
    return MinibatchTransport(group, epsilon=2.0 * path.noise.scale, replace=True)


def check_coupling(value: Any) -> AbstractCoupling:
    """A coupling; independent for None."""
    if value is None:
        return Independent()
    if not isinstance(value, AbstractCoupling):
        raise ValueError(
            f"coupling={value!r}: expected Independent(), Paired(), MinibatchTransport() or schroedinger(path)."
        )
    return value


def num_values(condition: PyTree) -> int:
    """Numbers in the condition of one draw."""
    return sum(math.prod(leaf.shape[1:]) for leaf in jax.tree.leaves(condition))
