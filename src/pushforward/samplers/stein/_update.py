"""How far particles move along a direction."""

from __future__ import annotations

import abc
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float


class AbstractUpdate(eqx.Module):
    """Turns directions into moves; each particle and coordinate for itself, so that particles can be sharded."""

    @abc.abstractmethod
    def init(self, particles: Float[Array, "n d"]) -> Any:
        """Its state at the start."""

    @abc.abstractmethod
    def __call__(
        self, particles: Float[Array, "n d"], direction: Float[Array, "n d"], state: Any
    ) -> tuple[Float[Array, "n d"], Any]:
        """New particles and state."""


class Optax(AbstractUpdate):
    """An optax transformation, fed the direction as an ascent direction.

    Args:
        optimizer: for example ``optax.adagrad(0.1)``; elementwise, as almost all are.
    """

    optimizer: optax.GradientTransformationExtraArgs = eqx.field(static=True)

    def __init__(self, optimizer: optax.GradientTransformation) -> None:
        if not isinstance(optimizer, optax.GradientTransformation):
            raise ValueError(
                f"optimizer={optimizer!r}: expected an optax transformation such as optax.adagrad(0.1), whose "
                "argument is the learning rate; CoinSVGD needs none."
            )
        self.optimizer = optax.with_extra_args_support(optimizer)

    def init(self, particles: Float[Array, "n d"]) -> Any:
        """See `AbstractUpdate.init`."""
        return self.optimizer.init(particles)

    def __call__(
        self, particles: Float[Array, "n d"], direction: Float[Array, "n d"], state: Any
    ) -> tuple[Float[Array, "n d"], Any]:
        """See `AbstractUpdate`."""
        change, state = self.optimizer.update(jax.tree.map(jnp.negative, direction), state, particles)
        return particles + change, state


class CoinState(NamedTuple):
    """The gambler's books, per particle and coordinate."""

    start: Float[Array, "n d"]
    bound: Float[Array, "n d"]
    """Largest direction seen."""
    total: Float[Array, "n d"]
    """Sum of the directions."""
    absolute: Float[Array, "n d"]
    """Sum of their magnitudes."""
    reward: Float[Array, "n d"]


class Coin(AbstractUpdate):
    """Coin betting: no learning rate. Multiplying all directions by a constant changes nothing.

    With c_t the direction at x_t: L = max(L, |c|), G += c, S += |c|, R = max(R + (x - x_0) c, 0), and
    ``x = x_0 + G / (L max(S + L, alpha L)) (L + R)``. A coordinate that has met no direction yet stays.

    Args:
        initial_bound: first value of L, non-negative; it breaks the scale invariance unless it is tiny.
        alpha: keeps early bets small, for neural networks (100 is usual there); zero bets at once.

    Memory: five numbers per coordinate.

    Reference: Sharrock and Nemeth, Coin sampling: gradient-based Bayesian inference without learning rates,
    arXiv:2301.11294, algorithm 1 and appendix; Orabona and Tommasi, arXiv:1705.07795 (alpha).
    """

    initial_bound: float = eqx.field(static=True)
    alpha: float = eqx.field(static=True)

    def __init__(self, *, initial_bound: float = 0.0, alpha: float = 0.0) -> None:
        if not (initial_bound >= 0 and alpha >= 0):
            raise ValueError(
                f"Coin(initial_bound={initial_bound}, alpha={alpha}): expected two non-negative numbers; zero is usual."
            )
        self.initial_bound, self.alpha = initial_bound, alpha

    def init(self, particles: Float[Array, "n d"]) -> CoinState:
        """See `AbstractUpdate.init`."""
        zero = jnp.zeros_like(particles)
        return CoinState(particles, jnp.full_like(particles, self.initial_bound), zero, zero, zero)

    def __call__(
        self, particles: Float[Array, "n d"], direction: Float[Array, "n d"], state: CoinState
    ) -> tuple[Float[Array, "n d"], CoinState]:
        """See `AbstractUpdate`."""
        bound = jnp.maximum(state.bound, jnp.abs(direction))
        total = state.total + direction
        absolute = state.absolute + jnp.abs(direction)
        reward = jnp.maximum(state.reward + (particles - state.start) * direction, 0.0)
        # Ratios first: products of bounds would leave the range of the floats at extreme scales.
        safe = jnp.where(bound > 0, bound, 1.0)
        share = (total / safe) / jnp.maximum(absolute / safe + 1.0, self.alpha)
        moved = state.start + jnp.where(bound > 0, share * (1.0 + reward / safe), 0.0)
        return moved, CoinState(state.start, bound, total, absolute, reward)
