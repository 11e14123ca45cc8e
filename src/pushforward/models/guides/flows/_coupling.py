"""Coupling: half of the coordinates moves, one by one, in a way that the other half decides."""

from __future__ import annotations

import abc

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from ._bijection import AbstractBijection, Scalar, Vector
from ._network import Network


class AbstractCoupling(AbstractBijection):
    """One half x_c stays, the other half x_t moves coordinate by coordinate: y_t = b(x_t; network(x_c)).

    Cost: one evaluation of the network in either direction. The force is carried in closed form,

        f'_t = (f_t - d log b' / d x_t) / b',    f'_c = f_c - d/dx_c [f'_t . y_t + sum log b'] at fixed x_t and f'_t,

    with one vector-Jacobian product through the network and no inverse.

    Reference: Vaitl et al., Fast and unified path gradient estimators for normalizing flows, arXiv:2403.15881, sec. 3.
    """

    network: Network
    keeps_last: bool = eqx.field(static=True)
    """Whether the last coordinates decide and the first move, or the other way round."""

    @abc.abstractmethod
    def bend(self, x: Float[Array, " moved"], raw: Array) -> tuple[Float[Array, " moved"], Float[Array, " moved"]]:
        """Value b and log b' of every moving coordinate."""

    @abc.abstractmethod
    def unbend(self, y: Float[Array, " moved"], raw: Array) -> tuple[Float[Array, " moved"], Float[Array, " moved"]]:
        """The inverse of b, and log b' there."""

    def forward(self, x: Vector) -> tuple[Vector, Scalar]:
        """See `AbstractBijection.forward`."""
        kept, moved = self._split(x)
        moved, log_slope = self.bend(moved, self.network(kept))
        return self._join(kept, moved), jnp.sum(log_slope)

    def inverse(self, y: Vector) -> tuple[Vector, Scalar]:
        """See `AbstractBijection.inverse`."""
        kept, moved = self._split(y)
        moved, log_slope = self.unbend(moved, self.network(kept))
        return self._join(kept, moved), -jnp.sum(log_slope)

    def forward_with_force(self, x: Vector, force: Vector) -> tuple[Vector, Scalar, Vector]:
        """See `AbstractBijection.forward_with_force`."""
        y, _ = self.forward(x)
        fixed, (kept, moved), (force_kept, force_moved) = jax.lax.stop_gradient(
            (self, self._split(x), self._split(force))
        )
        raw, pull_network = jax.vjp(fixed.network, kept)
        (_, log_slope), (slope, bent) = jax.jvp(lambda m: fixed.bend(m, raw), (moved,), (jnp.ones_like(moved),))
        force_moved = (force_moved - bent) / slope
        _, pull = jax.vjp(lambda r: fixed.bend(moved, r), raw)
        (towards,) = pull_network(*pull((force_moved, jnp.ones_like(moved))))
        return y, jnp.sum(log_slope), self._join(force_kept - towards, force_moved)

    def _split(self, x: Vector) -> tuple[Array, Array]:
        """The half that decides and the half that moves."""
        half = x.size // 2
        return (x[half:], x[:half]) if self.keeps_last else (x[:half], x[half:])

    def _join(self, kept: Array, moved: Array) -> Vector:
        return jnp.concatenate([moved, kept] if self.keeps_last else [kept, moved])


def sides(dim: int) -> tuple[bool, ...]:
    """Values of ``keeps_last`` with which every coordinate moves once."""
    return (False, True) if dim > 1 else (False,)


def coupling_sizes(dim: int, *, keeps_last: bool) -> tuple[int, int]:
    """Numbers of coordinates that decide and that move."""
    half = dim // 2
    return (dim - half, half) if keeps_last else (half, dim - half)
