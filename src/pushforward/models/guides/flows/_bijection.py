"""Invertible maps, alone and in stacks, with log-determinants and forces."""

from __future__ import annotations

import abc
from collections.abc import Callable

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from ..._types import Key

Vector = Float[Array, " dim"]
Scalar = Float[Array, ""]


class AbstractBijection(eqx.Module):
    """A smooth one-to-one map y = T(x) of vectors of one length. Its inexact leaves are its parameters.

    A force is the gradient of a log-density. The force of x becomes that of y as the density is pushed forward,
    ``(dx/dy)' force + d/dy log|det dx/dy|``, and back by the same rule for the inverse: no density is evaluated, and a
    stack of maps needs no second pass.
    """

    @abc.abstractmethod
    def forward(self, x: Vector) -> tuple[Vector, Scalar]:
        """The image y and log|det dy/dx|."""

    @abc.abstractmethod
    def inverse(self, y: Vector) -> tuple[Vector, Scalar]:
        """The origin x and log|det dx/dy|."""

    def forward_with_force(self, x: Vector, force: Vector) -> tuple[Vector, Scalar, Vector]:
        """y, log|det dy/dx| and the force of the pushed density at y.

        y is differentiable, the other two are constants. By default one vector-Jacobian product through the inverse of
        this map alone.
        """
        y, log_det = self.forward(x)
        fixed, there, force = jax.lax.stop_gradient((self, y, force))
        _, pull = jax.vjp(fixed.inverse, there)
        return y, jax.lax.stop_gradient(log_det), pull((force, jnp.ones_like(log_det)))[0]

    def inverse_with_force(self, y: Vector, force: Vector) -> tuple[Vector, Scalar, Vector]:
        """x, log|det dx/dy| and the force of the pulled-back density at x.

        x is differentiable, the other two are constants. One vector-Jacobian product through this map.
        """
        x, log_det = self.inverse(y)
        fixed, there, force = jax.lax.stop_gradient((self, x, force))
        _, pull = jax.vjp(fixed.forward, there)
        return x, jax.lax.stop_gradient(log_det), pull((force, jnp.ones_like(log_det)))[0]


class Chain(AbstractBijection):
    """Maps of different structure, applied from first to last."""

    maps: tuple[AbstractBijection, ...]

    def forward(self, x: Vector) -> tuple[Vector, Scalar]:
        """See `AbstractBijection.forward`."""
        total = jnp.zeros((), x.dtype)
        for each in self.maps:
            x, log_det = each.forward(x)
            total = total + log_det
        return x, total

    def inverse(self, y: Vector) -> tuple[Vector, Scalar]:
        """See `AbstractBijection.inverse`."""
        total = jnp.zeros((), y.dtype)
        for each in reversed(self.maps):
            y, log_det = each.inverse(y)
            total = total + log_det
        return y, total

    def forward_with_force(self, x: Vector, force: Vector) -> tuple[Vector, Scalar, Vector]:
        """See `AbstractBijection.forward_with_force`."""
        total = jnp.zeros((), x.dtype)
        for each in self.maps:
            x, log_det, force = each.forward_with_force(x, force)
            total = total + log_det
        return x, total, force

    def inverse_with_force(self, y: Vector, force: Vector) -> tuple[Vector, Scalar, Vector]:
        """See `AbstractBijection.inverse_with_force`."""
        total = jnp.zeros((), y.dtype)
        for each in reversed(self.maps):
            y, log_det, force = each.inverse_with_force(y, force)
            total = total + log_det
        return y, total, force


class Stack(AbstractBijection):
    """Layers of equal structure, their leaves stacked along a leading axis, applied from first to last.

    One ``lax.scan``: compile time does not grow with depth. With ``checkpoint`` the reverse pass recomputes each
    layer's networks from the layer's input, so that memory per layer is one vector per draw; the price is one more
    evaluation of the networks.
    """

    layers: AbstractBijection
    checkpoint: bool = eqx.field(static=True, default=False)

    @classmethod
    def of(
        cls, key: Key, make: Callable[[Key], AbstractBijection], num_layers: int, *, checkpoint: bool = False
    ) -> Stack:
        """A stack of ``num_layers`` layers, layer i made from ``fold_in(key, i)``."""
        keys = jax.vmap(lambda i: jax.random.fold_in(key, i))(jnp.arange(num_layers))
        return cls(jax.vmap(make)(keys), checkpoint)

    def forward(self, x: Vector) -> tuple[Vector, Scalar]:
        """See `AbstractBijection.forward`."""
        return self._through(lambda layer, x: layer.forward(x), (x,))

    def inverse(self, y: Vector) -> tuple[Vector, Scalar]:
        """See `AbstractBijection.inverse`."""
        return self._through(lambda layer, y: layer.inverse(y), (y,), reverse=True)

    def forward_with_force(self, x: Vector, force: Vector) -> tuple[Vector, Scalar, Vector]:
        """See `AbstractBijection.forward_with_force`."""
        return self._through(lambda layer, x, f: layer.forward_with_force(x, f), (x, jax.lax.stop_gradient(force)))

    def inverse_with_force(self, y: Vector, force: Vector) -> tuple[Vector, Scalar, Vector]:
        """See `AbstractBijection.inverse_with_force`."""
        return self._through(
            lambda layer, y, f: layer.inverse_with_force(y, f), (y, jax.lax.stop_gradient(force)), reverse=True
        )

    def _through(self, apply: Callable, start: tuple[Vector, ...], *, reverse: bool = False) -> tuple:
        def step(carry: tuple, layer: AbstractBijection) -> tuple[tuple, None]:
            point, total, *force = carry
            point, log_det, *force = apply(layer, point, *force)
            return (point, total + log_det, *force), None

        carry = (start[0], jnp.zeros((), start[0].dtype), *start[1:])
        step = jax.checkpoint(step) if self.checkpoint else step
        return jax.lax.scan(step, carry, self.layers, reverse=reverse)[0]


class Shuffle(AbstractBijection):
    """A fixed permutation that mixes the two halves: odd places reversed, then even places.

    Repeated, it brings every pair of coordinates into different halves (for more than two coordinates), which an
    alternation of the halves never does.
    """

    def forward(self, x: Vector) -> tuple[Vector, Scalar]:
        """See `AbstractBijection.forward`."""
        return jnp.concatenate([x[::2][::-1], x[1::2]]), jnp.zeros((), x.dtype)

    def inverse(self, y: Vector) -> tuple[Vector, Scalar]:
        """See `AbstractBijection.inverse`."""
        half = (y.size + 1) // 2
        even, odd = y[:half][::-1], y[half:]
        paired = jnp.stack([even[: odd.size], odd], axis=1).reshape(-1)
        return jnp.concatenate([paired, even[odd.size :]]), jnp.zeros((), y.dtype)


class Reverse(AbstractBijection):
    """The coordinates in reverse order."""

    def forward(self, x: Vector) -> tuple[Vector, Scalar]:
        """See `AbstractBijection.forward`."""
        return x[::-1], jnp.zeros((), x.dtype)

    def inverse(self, y: Vector) -> tuple[Vector, Scalar]:
        """See `AbstractBijection.inverse`."""
        return y[::-1], jnp.zeros((), y.dtype)
