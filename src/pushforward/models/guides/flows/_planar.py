"""Planar flow."""

from __future__ import annotations

from typing import Any, ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp

from ..._target import Target
from ..._types import Key
from ._bijection import AbstractBijection, Scalar, Stack, Vector
from ._flow import AbstractFlow
from ._settings import check_network

OFFSET = 0.5413248546129181
"""log(e - 1): softplus is one there."""
_HALVINGS = 60


class PlanarLayer(AbstractBijection):
    """y = x + u tanh(w.x + b), with u kept where w.u > -1, so that the map is one to one.

    Inverse: bisection for w.x, one number, with derivatives by the implicit function theorem.
    """

    direction: Vector
    raw: Vector
    bias: Scalar

    @classmethod
    def of(cls, key: Key, dim: int, dtype: Any) -> PlanarLayer:
        """The identity, folding along a random direction."""
        key_direction, key_bias = jax.random.split(key)
        direction = jax.random.normal(key_direction, (dim,), dtype) / jnp.sqrt(jnp.asarray(dim, dtype))
        return cls(direction, jnp.zeros((dim,), dtype), jax.random.normal(key_bias, (), dtype))

    def forward(self, x: Vector) -> tuple[Vector, Scalar]:
        """See `AbstractBijection.forward`."""
        bent = jnp.tanh(jnp.vdot(self.direction, x) + self.bias)
        push = self._push()
        return x + push * bent, jnp.log1p((1.0 - bent**2) * jnp.vdot(self.direction, push))

    def inverse(self, y: Vector) -> tuple[Vector, Scalar]:
        """See `AbstractBijection.inverse`."""
        push = self._push()
        reach = jnp.vdot(self.direction, push)
        level = _root(jnp.vdot(self.direction, y) + self.bias, reach)
        bent = jnp.tanh(level)
        return y - push * bent, -jnp.log1p((1.0 - bent**2) * reach)

    def forward_with_force(self, x: Vector, force: Vector) -> tuple[Vector, Scalar, Vector]:
        """See `AbstractBijection.forward_with_force`. The Jacobian is the identity plus rank one: closed form."""
        y, log_det = self.forward(x)
        fixed, there, force = jax.lax.stop_gradient((self, x, force))
        push, bent = fixed._push(), jnp.tanh(jnp.vdot(fixed.direction, there) + fixed.bias)
        slope = 1.0 - bent**2
        reach = jnp.vdot(fixed.direction, push)
        stretch = 1.0 + slope * reach
        force = force + 2.0 * bent * slope * reach / stretch * fixed.direction
        return y, jax.lax.stop_gradient(log_det), force - slope * jnp.vdot(push, force) / stretch * fixed.direction

    def _push(self) -> Vector:
        """The raw direction, moved along w until w.u > -1. At zero it is zero."""
        reach = jnp.vdot(self.direction, self.raw)
        size = jnp.vdot(self.direction, self.direction) + jnp.finfo(reach.dtype).tiny
        return self.raw + (jax.nn.softplus(reach + OFFSET) - 1.0 - reach) / size * self.direction


def _root(level: Scalar, reach: Scalar) -> Scalar:
    """The a with a + reach * tanh(a) = level, increasing in a because reach > -1."""

    def solve(function: Any, start: Scalar) -> Scalar:
        def halve(_: Any, ends: tuple[Scalar, Scalar]) -> tuple[Scalar, Scalar]:
            low, high = ends
            middle = 0.5 * (low + high)
            above = function(middle) > 0.0
            return jnp.where(above, low, middle), jnp.where(above, middle, high)

        width = jnp.abs(reach)
        low, high = jax.lax.fori_loop(0, _HALVINGS, halve, (start - width, start + width))
        return 0.5 * (low + high)

    def gap(a: Scalar) -> Scalar:
        return a + reach * jnp.tanh(a) - level

    return jax.lax.custom_root(gap, jax.lax.stop_gradient(level), solve, lambda g, y: y / g(jnp.ones_like(y)))


class Planar(AbstractFlow):
    """Planar flow: each layer folds space along one direction.

    Cheap (O(dim) per layer, no network) and weak: many layers for few dimensions. The density of a given point needs a
    bisection per layer; draws and `Path` do not.

    Args:
        target: binds the guide; None leaves it unbound.
        num_layers: layers.

    Raises:
        ValueError: if ``num_layers`` is below 1.

    Reference: Rezende and Mohamed, Variational inference with normalizing flows, arXiv:1505.05770, eq. 10 and
    appendix A.1.
    """

    learning_rate: ClassVar[float] = 5e-3
    num_layers: int = eqx.field(static=True)

    def __init__(self, target: Target | None = None, *, num_layers: int = 16) -> None:
        check_network(self, num_layers=num_layers)
        self.num_layers = num_layers
        self._place(target)

    def make(self, key: Key, dim: int, dtype: Any) -> AbstractBijection:
        """See `AbstractFlow.make`."""
        return Stack.of(key, lambda k: PlanarLayer.of(k, dim, dtype), self.num_layers)
