"""Affine coupling flow."""

from __future__ import annotations

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array

from ..._target import Target
from ..._types import Key
from ._bijection import AbstractBijection, Chain, Shuffle, Stack
from ._coupling import AbstractCoupling, coupling_sizes, sides
from ._flow import AbstractFlow
from ._network import Network, bounded
from ._settings import check_network

MAX_LOG_SCALE = 1.0
"""Per coupling. Layers multiply: a larger bound lets a few far draws of an early step blow the flow up."""


class AffineCoupling(AbstractCoupling):
    """y_t = x_t exp(s(x_c)) + t(x_c), with s kept between -1 and 1."""

    @classmethod
    def of(cls, key: Key, dim: int, sizes: tuple[int, ...], dtype: Any, *, keeps_last: bool) -> AffineCoupling:
        """Half of ``dim`` coordinates moves; a network with these hidden ``sizes`` decides how."""
        kept, moved = coupling_sizes(dim, keeps_last=keeps_last)
        return cls(Network.of(key, (kept, *sizes, 2 * moved), dtype), keeps_last)

    def bend(self, x: Array, raw: Array) -> tuple[Array, Array]:
        """See `AbstractCoupling.bend`."""
        shift, log_scale = raw[: x.size], bounded(raw[x.size :], MAX_LOG_SCALE)
        return x * jnp.exp(log_scale) + shift, log_scale

    def unbend(self, y: Array, raw: Array) -> tuple[Array, Array]:
        """See `AbstractCoupling.unbend`."""
        shift, log_scale = raw[: y.size], bounded(raw[y.size :], MAX_LOG_SCALE)
        return (y - shift) * jnp.exp(-log_scale), log_scale


class RealNVP(AbstractFlow):
    """Flow of affine couplings: each layer moves both halves of the coordinates once, then mixes the halves.

    Cost: two networks per layer, in either direction; `Path` adds one vector-Jacobian product each. Bias: none as a
    density; its tails are Gaussian.

    Args:
        target: binds the guide; None leaves it unbound.
        num_layers: layers of two couplings each.
        hidden: units per hidden layer of the networks.
        depth: their hidden layers.
        checkpoint: recompute the networks in the reverse pass instead of keeping their activations: memory for one
            layer's networks, whatever ``num_layers``, for one more evaluation.

    Raises:
        ValueError: if a size is below 1.

    Example:
        >>> flow = RealNVP(num_layers=4)

    Reference: Dinh, Sohl-Dickstein and Bengio, Density estimation using Real NVP, arXiv:1605.08803, eqs. 7 and 8.
    """

    num_layers: int = eqx.field(static=True)
    hidden: int = eqx.field(static=True)
    depth: int = eqx.field(static=True)
    checkpoint: bool = eqx.field(static=True)

    def __init__(
        self,
        target: Target | None = None,
        *,
        num_layers: int = 6,
        hidden: int = 32,
        depth: int = 2,
        checkpoint: bool = False,
    ) -> None:
        check_network(self, num_layers=num_layers, hidden=hidden, depth=depth)
        self.num_layers, self.hidden, self.depth, self.checkpoint = num_layers, hidden, depth, checkpoint
        self._place(target)

    def make(self, key: Key, dim: int, dtype: Any) -> AbstractBijection:
        """See `AbstractFlow.make`."""
        sizes = (self.hidden,) * self.depth

        def layer(key: Key) -> AbstractBijection:
            halves = [
                AffineCoupling.of(jax.random.fold_in(key, i), dim, sizes, dtype, keeps_last=keeps_last)
                for i, keeps_last in enumerate(sides(dim))
            ]
            return Chain((*halves, Shuffle()))

        return Stack.of(key, layer, self.num_layers, checkpoint=self.checkpoint)
