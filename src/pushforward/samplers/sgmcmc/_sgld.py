"""Stochastic gradient Langevin dynamics."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from ...models import Target
from ...models._layout import Layout
from ...models._types import Key
from ._base import AbstractStochasticGradientSampler, Score, check_temperature
from ._gradients import AbstractGradientEstimate, as_gradient
from ._schedule import AbstractSchedule, as_schedule


class SGLD(AbstractStochasticGradientSampler):
    """Stochastic gradient Langevin dynamics: ``x += eps g + sqrt(2 eps T) xi`` with g an estimate of grad log p.

    Args:
        step_size: eps, positive, or a schedule; in squared units of the position.
        temperature: T; 1 draws from the posterior, 0 is stochastic gradient ascent.
        gradient: how the gradient is estimated; by default on the minibatch alone.

    Bias: of order eps. On a quadratic U = x^2 / (2 s^2) with gradient noise of variance v the stationary variance is
    ``(2 T + eps v) / (2 / s^2 - eps / s^4)``. Cost: one minibatch gradient per step.

    Reference: Welling and Teh, Bayesian learning via stochastic gradient Langevin dynamics, ICML 2011, eq. 4 (their
    eps is twice ours); Teh, Thiery and Vollmer, arXiv:1409.0578.
    """

    step_size: AbstractSchedule
    temperature: Array
    gradient: AbstractGradientEstimate
    target: Target | None
    layout: Layout | None

    def __init__(
        self,
        step_size: float | Callable[[Array], Any] | AbstractSchedule,
        *,
        temperature: float = 1.0,
        gradient: AbstractGradientEstimate | None = None,
    ) -> None:
        self.step_size = as_schedule("SGLD", step_size)
        self.temperature = check_temperature("SGLD", temperature)
        self.gradient = as_gradient("SGLD", gradient)
        self.target, self.layout = None, None

    def start(self, key: Key, x: Float[Array, " d"]) -> tuple[()]:
        """See `AbstractStochasticGradientSampler.start`."""
        return ()

    def advance(
        self, key: Key, x: Float[Array, " d"], dynamics: tuple[()], score: Score, step_size: Float[Array, ""]
    ) -> tuple[Float[Array, " d"], tuple[()], Float[Array, " d"], dict[str, Array]]:
        """See `AbstractStochasticGradientSampler.advance`."""
        gradient = score(x)
        noise = jax.random.normal(key, x.shape, x.dtype)
        spread = jnp.sqrt(2.0 * step_size * self.temperature.astype(x.dtype))
        return x + step_size * gradient + spread * noise, (), gradient, {}
