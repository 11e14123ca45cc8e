"""Stochastic gradient Nose-Hoover thermostat."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

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


class SGNHTMemory(NamedTuple):
    """What moves besides the position."""

    momentum: Float[Array, " d"]
    friction: Float[Array, ""]
    """Per step; may be negative for a while."""


class SGNHT(AbstractStochasticGradientSampler):
    """Langevin dynamics with momentum whose friction adapts until the kinetic temperature is T.

    ``dx = m dt, dm = (g - xi m) dt + sqrt(2 A T) dW, d xi = (m'm / d - T) / Q dt``: gradient noise of any variance, the
    same in every coordinate, heats the momenta, the friction xi grows until that heat is carried off, and positions
    follow the posterior although the noise was never measured.

    Args:
        step_size: eps, positive, or a schedule; in units of the position.
        friction: A eps, where the friction starts and would stay without gradient noise.
        adaptation: eps^2 / Q: how much the friction per step grows in a step with kinetic temperature T + 1.
        temperature: T; 1 draws from the posterior.
        gradient: how the gradient is estimated; by default on the minibatch alone.

    The statistic ``friction`` recovers the noise: with variance v per coordinate its mean is, to leading order,
    ``A eps + eps^2 v / (2 T)``. Noise that differs between coordinates leaves a bias, since they share one friction.

    Bias: of order eps^2; see above for the noise. Cost: one minibatch gradient per step. The splitting is kick, drift,
    thermostat, exact friction and noise, thermostat, drift (half steps but for kick and friction).

    Reference: Ding, Fang, Babbush, Chen, Skeel and Neven, Bayesian sampling using stochastic gradient thermostats,
    NIPS 2014, eq. 5; the splitting is BADODAB of Leimkuhler and Shang, arXiv:1505.06889.
    """

    step_size: AbstractSchedule
    friction: Array
    adaptation: Array
    temperature: Array
    gradient: AbstractGradientEstimate
    target: Target | None
    layout: Layout | None

    def __init__(
        self,
        step_size: float | Callable[[Array], Any] | AbstractSchedule,
        *,
        friction: float = 0.1,
        adaptation: float = 0.01,
        temperature: float = 1.0,
        gradient: AbstractGradientEstimate | None = None,
    ) -> None:
        self.step_size = as_schedule("SGNHT", step_size, MOMENTUM_ADVICE)
        self.friction = check_positive("SGNHT", "friction", friction, advice="0.1 per step is usual")
        self.adaptation = check_positive("SGNHT", "adaptation", adaptation, advice="0.01 per step is usual")
        self.temperature = check_temperature("SGNHT", temperature)
        self.gradient = as_gradient("SGNHT", gradient)
        self.target, self.layout = None, None

    def start(self, key: Key, x: Float[Array, " d"]) -> SGNHTMemory:
        """Momenta at the temperature."""
        return SGNHTMemory(thermal(key, x, self.temperature), self.friction.astype(x.dtype))

    def advance(
        self, key: Key, x: Float[Array, " d"], dynamics: SGNHTMemory, score: Score, step_size: Float[Array, ""]
    ) -> tuple[Float[Array, " d"], SGNHTMemory, Float[Array, " d"], dict[str, Array]]:
        """See `AbstractStochasticGradientSampler.advance`."""
        temperature, base, rate = (v.astype(x.dtype) for v in (self.temperature, self.friction, self.adaptation))
        gradient = score(x)
        kicked = dynamics.momentum + step_size * gradient
        friction = dynamics.friction + 0.5 * rate * (temperature_of(kicked) - temperature)
        noise = jnp.sqrt(temperature * base * _spread(friction)) * jax.random.normal(key, x.shape, x.dtype)
        momentum = jnp.exp(-friction) * kicked + noise
        moved = x + 0.5 * step_size * (kicked + momentum)
        kinetic = temperature_of(momentum)
        friction = friction + 0.5 * rate * (kinetic - temperature)
        statistics = {"friction": friction, "kinetic_temperature": kinetic}
        return moved, SGNHTMemory(momentum, friction), gradient, statistics


def _spread(friction: Float[Array, ""]) -> Float[Array, ""]:
    """``(1 - exp(-2 a)) / a``, which is positive for either sign of a and 2 at 0."""
    small = jnp.abs(friction) < 1e-4
    safe = jnp.where(small, 1.0, friction)
    return jnp.where(small, 2.0 - 2.0 * friction, -jnp.expm1(-2.0 * safe) / safe)
