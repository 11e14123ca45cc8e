"""Langevin dynamics with momentum by a symmetric splitting."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from ...models import Target
from ...models._layout import Layout
from ...models._types import Key
from ._base import AbstractStochasticGradientSampler, Score, check_positive, check_temperature, temperature_of
from ._gradients import AbstractGradientEstimate, as_gradient
from ._schedule import MOMENTUM_ADVICE, AbstractSchedule, as_schedule
from ._sghmc import thermal


class BAOAB(AbstractStochasticGradientSampler):
    """Kick (B), drift (A), exact friction and noise (O), drift, kick: ``m += eps g; x += eps/2 m; O; x += eps/2 m``.

    O is ``m = c m + sqrt(T (1 - c^2)) xi`` with ``c = exp(-a)``. The two half kicks that meet at the end of a step and
    the start of the next are one, on one minibatch: positions are those of BAOAB, at one gradient per step.

    Args:
        step_size: eps, positive, or a schedule; in units of the position.
        friction: a, the friction per unit of time times eps; any positive number.
        temperature: T; 1 draws from the posterior.
        gradient: how the gradient is estimated; by default on the minibatch alone.

    Bias: of order eps^2 without gradient noise, and none at all for quadratics. With U = x^2 / (2 s^2) and gradient
    noise of variance v the stationary variance is ``T s^2 + eps^2 v s^2 (1 + c) / ((1 - c) (4 - eps^2 / s^2))``: noise
    acts at first order in eps at a given friction per unit of time. Cost: one minibatch gradient per step.

    Reference: Leimkuhler and Matthews, Rational construction of stochastic numerical methods for molecular sampling,
    arXiv:1203.5428, section 2.
    """

    step_size: AbstractSchedule
    friction: Array
    temperature: Array
    gradient: AbstractGradientEstimate
    target: Target | None
    layout: Layout | None

    def __init__(
        self,
        step_size: float | Callable[[Array], Any] | AbstractSchedule,
        *,
        friction: float = 0.1,
        temperature: float = 1.0,
        gradient: AbstractGradientEstimate | None = None,
    ) -> None:
        self.step_size = as_schedule("BAOAB", step_size, MOMENTUM_ADVICE)
        self.friction = check_positive("BAOAB", "friction", friction, advice="0.1 per step is usual")
        self.temperature = check_temperature("BAOAB", temperature)
        self.gradient = as_gradient("BAOAB", gradient)
        self.target, self.layout = None, None

    def start(self, key: Key, x: Float[Array, " d"]) -> Float[Array, " d"]:
        """Momenta at the temperature."""
        return thermal(key, x, self.temperature)

    def advance(
        self, key: Key, x: Float[Array, " d"], dynamics: Float[Array, " d"], score: Score, step_size: Float[Array, ""]
    ) -> tuple[Float[Array, " d"], Float[Array, " d"], Float[Array, " d"], dict[str, Array]]:
        """See `AbstractStochasticGradientSampler.advance`."""
        temperature, friction = self.temperature.astype(x.dtype), self.friction.astype(x.dtype)
        gradient = score(x)
        kicked = dynamics + step_size * gradient
        spread = jnp.sqrt(-temperature * jnp.expm1(-2.0 * friction))
        momentum = jnp.exp(-friction) * kicked + spread * jax.random.normal(key, x.shape, x.dtype)
        moved = x + 0.5 * step_size * (kicked + momentum)
        return moved, momentum, gradient, {"kinetic_temperature": temperature_of(momentum)}
