"""Rational-quadratic spline coupling flow."""

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
from ._rational_quadratic import Knots, inverse_spline, knots, num_raw, spline
from ._realnvp import MAX_LOG_SCALE
from ._settings import check_network


class SplineCoupling(AbstractCoupling):
    """y_t = exp(s) S(x_t) + t: a monotone rational-quadratic spline, then an affine map, both decided by x_c.

    The spline maps [-bound, bound] onto itself and goes on linearly with the slopes at its ends.
    """

    bound: float = eqx.field(static=True)

    @classmethod
    def of(
        cls, key: Key, dim: int, sizes: tuple[int, ...], num_bins: int, bound: float, dtype: Any, *, keeps_last: bool
    ) -> SplineCoupling:
        """Half of ``dim`` coordinates moves; a network with these hidden ``sizes`` decides how."""
        kept, moved = coupling_sizes(dim, keeps_last=keeps_last)
        outputs = (num_raw(num_bins) + 2) * moved
        return cls(Network.of(key, (kept, *sizes, outputs), dtype), keeps_last, bound)

    def bend(self, x: Array, raw: Array) -> tuple[Array, Array]:
        """See `AbstractCoupling.bend`."""
        at, shift, log_scale = self._parts(x, raw)
        y, log_slope = spline(x, at, self.bound)
        return y * jnp.exp(log_scale) + shift, log_slope + log_scale

    def unbend(self, y: Array, raw: Array) -> tuple[Array, Array]:
        """See `AbstractCoupling.unbend`."""
        at, shift, log_scale = self._parts(y, raw)
        x, log_slope = inverse_spline((y - shift) * jnp.exp(-log_scale), at, self.bound)
        return x, log_slope + log_scale

    def _parts(self, x: Array, raw: Array) -> tuple[Knots, Array, Array]:
        # Numbers of one kind lie side by side, so that all splines are worked on at once.
        table = raw.reshape(-1, x.size).T
        return knots(table[:, 2:], self.bound), table[:, 0], bounded(table[:, 1], MAX_LOG_SCALE)


class SplineFlow(AbstractFlow):
    """Flow of rational-quadratic spline couplings, each followed by an affine map of the same coordinates.

    Bends every coordinate freely within ``bound`` standard deviations of the coordinates it works in and goes on
    linearly outside, with slopes of its own on either side (skewed posteriors). Cost: two networks per layer in either
    direction, about three times `RealNVP` at equal sizes; `Path` adds one vector-Jacobian product each.

    Args:
        target: binds the guide; None leaves it unbound.
        num_layers: layers of two couplings each.
        hidden: units per hidden layer of the networks.
        depth: their hidden layers.
        num_bins: bins of each spline.
        bound: the splines bend between minus and plus this.
        checkpoint: see `RealNVP`.

    Raises:
        ValueError: if a size is below 1, or ``bound`` not positive.

    Reference: Durkan et al., Neural spline flows, arXiv:1906.04032, section 3.
    """

    num_layers: int = eqx.field(static=True)
    hidden: int = eqx.field(static=True)
    depth: int = eqx.field(static=True)
    num_bins: int = eqx.field(static=True)
    bound: float = eqx.field(static=True)
    checkpoint: bool = eqx.field(static=True)

    def __init__(
        self,
        target: Target | None = None,
        *,
        num_layers: int = 4,
        hidden: int = 32,
        depth: int = 2,
        num_bins: int = 8,
        bound: float = 5.0,
        checkpoint: bool = False,
    ) -> None:
        check_network(self, num_layers=num_layers, hidden=hidden, depth=depth, num_bins=num_bins)
        if not bound > 0:
            raise ValueError(f"SplineFlow(bound={bound}): expected a positive number of standard deviations, e.g. 5.0.")
        self.num_layers, self.hidden, self.depth, self.checkpoint = num_layers, hidden, depth, checkpoint
        self.num_bins, self.bound = num_bins, float(bound)
        self._place(target)

    def make(self, key: Key, dim: int, dtype: Any) -> AbstractBijection:
        """See `AbstractFlow.make`."""
        sizes = (self.hidden,) * self.depth

        def layer(key: Key) -> AbstractBijection:
            halves = [
                SplineCoupling.of(
                    jax.random.fold_in(key, i), dim, sizes, self.num_bins, self.bound, dtype, keeps_last=keeps_last
                )
                for i, keeps_last in enumerate(sides(dim))
            ]
            return Chain((*halves, Shuffle()))

        return Stack.of(key, layer, self.num_layers, checkpoint=self.checkpoint)
