"""Inverse autoregressive flow."""

from __future__ import annotations

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jax.scipy.linalg import solve_triangular
from jaxtyping import Array

from ..._target import Target
from ..._types import Key
from ._bijection import AbstractBijection, Chain, Reverse, Scalar, Stack, Vector
from ._flow import AbstractFlow
from ._network import MaskedNetwork, bounded
from ._realnvp import MAX_LOG_SCALE
from ._settings import check_network


class MaskedAffine(AbstractBijection):
    """y_i = x_i exp(s_i) + t_i, where s_i and t_i depend on the x before i; s between -1 and 1.

    Forward: one evaluation of the network. Inverse: as many as there are coordinates, one after the other.
    """

    network: MaskedNetwork

    def forward(self, x: Vector) -> tuple[Vector, Scalar]:
        """See `AbstractBijection.forward`."""
        shift, log_scale = self._parts(x)
        return x * jnp.exp(log_scale) + shift, jnp.sum(log_scale)

    def inverse(self, y: Vector) -> tuple[Vector, Scalar]:
        """See `AbstractBijection.inverse`. Each pass settles one more coordinate, whatever the others hold."""

        def settle(x: Vector, _: None) -> tuple[Vector, None]:
            shift, log_scale = self._parts(x)
            return (y - shift) * jnp.exp(-log_scale), None

        x, _ = jax.lax.scan(settle, jnp.zeros_like(y), None, length=y.size)
        return x, -jnp.sum(self._parts(x)[1])

    def forward_with_force(self, x: Vector, force: Vector) -> tuple[Vector, Scalar, Vector]:
        """See `AbstractBijection.forward_with_force`.

        A triangular system in the Jacobian, whose rows are one batch of tangents through the network: no sequential
        pass.
        """
        y, log_det = self.forward(x)
        fixed, there, force = jax.lax.stop_gradient((self, x, force))
        jacobian, change = jax.jacfwd(fixed.forward)(there)
        return y, jax.lax.stop_gradient(log_det), solve_triangular(jacobian, force - change, trans=1, lower=True)

    def _parts(self, x: Vector) -> tuple[Array, Array]:
        shift, raw = self.network(x)
        return shift, bounded(raw, MAX_LOG_SCALE)


class IAF(AbstractFlow):
    """Inverse autoregressive flow: every coordinate of a layer depends on all those before it; layers alternate order.

    Cost: one network per layer for a draw with its density; the density of a given point takes dim networks per layer
    one after the other; `Path` takes dim tangents of the network at once and solves a triangular system per layer and
    draw, O(dim**2). More flexible per layer than `RealNVP`, for few dozen dimensions.

    Args:
        target: binds the guide; None leaves it unbound.
        num_layers: layers.
        hidden: units per hidden layer of the masked networks; at least the dimension is advisable.
        depth: their hidden layers.
        checkpoint: see `RealNVP`.

    Raises:
        ValueError: if a size is below 1.

    Reference: Kingma et al., Improved variational inference with inverse autoregressive flow, arXiv:1606.04934, eq. 10.
    """

    num_layers: int = eqx.field(static=True)
    hidden: int = eqx.field(static=True)
    depth: int = eqx.field(static=True)
    checkpoint: bool = eqx.field(static=True)

    def __init__(
        self,
        target: Target | None = None,
        *,
        num_layers: int = 4,
        hidden: int = 32,
        depth: int = 2,
        checkpoint: bool = False,
    ) -> None:
        check_network(self, num_layers=num_layers, hidden=hidden, depth=depth)
        self.num_layers, self.hidden, self.depth, self.checkpoint = num_layers, hidden, depth, checkpoint
        self._place(target)

    def make(self, key: Key, dim: int, dtype: Any) -> AbstractBijection:
        """See `AbstractFlow.make`."""

        def layer(key: Key) -> AbstractBijection:
            network = MaskedNetwork.of(key, dim, self.hidden, self.depth, 2, dtype)
            return Chain((MaskedAffine(network), Reverse()))

        return Stack.of(key, layer, self.num_layers, checkpoint=self.checkpoint)
