"""Stochastic gradient Hamiltonian Monte Carlo."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from ...models import Target
from ...models._layout import Layout
from ...models._types import Key
from ._base import (
    AbstractStochasticGradientSampler,
    Score,
    check_positive,
    check_share,
    check_temperature,
    temperature_of,
)
from ._gradients import AbstractGradientEstimate, as_gradient
from ._schedule import MOMENTUM_ADVICE, AbstractSchedule, Constant, as_schedule

FRICTION_ADVICE = "the share of the momentum lost per step, 0.1 is usual"


class SGHMC(AbstractStochasticGradientSampler):
    """Langevin dynamics with momentum: ``m += eps g - a m + sqrt(2 a T - eps^2 V) xi``, then ``x += eps m``.

    g estimates grad log p; masses are one.

    Args:
        step_size: eps, positive, or a schedule; in units of the position.
        friction: a, the friction per unit of time times eps: the share of the momentum that a step loses.
        noise: V, a guess of the variance per coordinate of the gradient estimate (full-data scale); that much less
            noise is added, none where a schedule makes ``eps^2 V`` exceed ``2 a T``. 0 adds all of it.
        temperature: T; 1 draws from the posterior.
        gradient: how the gradient is estimated; by default on the minibatch alone.

    Bias: that of gradient noise is of first order in eps at a given friction per unit of time; the rest is of second
    order for quadratics. With U = x^2 / (2 s^2) and gradient noise of variance v the stationary variance is
    ``(T + eps^2 (v - V) / (2 a)) s^2 / (1 - eps^2 / (2 s^2 (2 - a)))``. Cost: one minibatch gradient per step.

    Reference: Chen, Fox and Guestrin, Stochastic gradient Hamiltonian Monte Carlo, arXiv:1402.4102, eq. 15 with
    unit mass, momentum before position.
    """

    step_size: AbstractSchedule
    friction: Array
    noise: Array
    temperature: Array
    gradient: AbstractGradientEstimate
    target: Target | None
    layout: Layout | None

    def __init__(
        self,
        step_size: float | Callable[[Array], Any] | AbstractSchedule,
        *,
        friction: float = 0.1,
        noise: float = 0.0,
        temperature: float = 1.0,
        gradient: AbstractGradientEstimate | None = None,
    ) -> None:
        self.step_size = as_schedule("SGHMC", step_size, MOMENTUM_ADVICE)
        self.friction = check_share("SGHMC", "friction", friction, advice=FRICTION_ADVICE)
        self.noise = check_positive("SGHMC", "noise", noise, zero=True, advice="0 where it is not known")
        self.temperature = check_temperature("SGHMC", temperature)
        self.gradient = as_gradient("SGHMC", gradient)
        if isinstance(self.step_size, Constant):
            taken, room = float(self.step_size.value) ** 2 * noise, 2.0 * friction * temperature
            if taken > room > 0:
                raise ValueError(
                    f"SGHMC(step_size={step_size}, friction={friction}, noise={noise}): the gradient noise alone heats "
                    f"the momenta beyond the temperature. Expected step_size^2 noise = {taken:.3g} at most 2 friction "
                    f"temperature = {room:.3g}: a smaller step size, more friction, or larger minibatches."
                )
        self.target, self.layout = None, None

    def start(self, key: Key, x: Float[Array, " d"]) -> Float[Array, " d"]:
        """Momenta at the temperature."""
        return thermal(key, x, self.temperature)

    def advance(
        self, key: Key, x: Float[Array, " d"], dynamics: Float[Array, " d"], score: Score, step_size: Float[Array, ""]
    ) -> tuple[Float[Array, " d"], Float[Array, " d"], Float[Array, " d"], dict[str, Array]]:
        """See `AbstractStochasticGradientSampler.advance`."""
        temperature, lost, known = (v.astype(x.dtype) for v in (self.temperature, self.friction, self.noise))
        gradient = score(x)
        added = jnp.maximum(2.0 * lost * temperature - step_size**2 * known, 0.0)
        kick = step_size * gradient + jnp.sqrt(added) * jax.random.normal(key, x.shape, x.dtype)
        momentum = (1.0 - lost) * dynamics + kick
        return x + step_size * momentum, momentum, gradient, {"kinetic_temperature": temperature_of(momentum)}


def thermal(key: Key, x: Float[Array, " d"], temperature: Float[Array, ""]) -> Float[Array, " d"]:
    """Momenta drawn at a temperature."""
    return jnp.sqrt(temperature.astype(x.dtype)) * jax.random.normal(key, x.shape, x.dtype)
