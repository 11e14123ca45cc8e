"""Langevin dynamics of a position and a smoothed companion that is drawn to flat regions."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from ...models import Target
from ...models._layout import Layout
from ...models._types import Key
from ._base import AbstractStochasticGradientSampler, Score, StochasticGradientState, check_positive, check_temperature
from ._gradients import AbstractGradientEstimate, as_gradient
from ._schedule import AbstractSchedule, as_schedule


class EntropyMCMC(AbstractStochasticGradientSampler):
    """Entropy-MCMC: draws of ``exp(-U(x) / T - |x - a|^2 / (2 eta T))`` jointly in the position x and its guide a.

    With a integrated out x follows the posterior; with x integrated out a follows the posterior smoothed by
    ``N(0, eta T)``, in which sharp modes weigh less than flat ones. For a Gaussian posterior a is
    ``N(mean, Sigma + eta I)``.

    Args:
        step_size: eps, positive, or a schedule; in squared units of the position.
        eta: variance of the smoothing, in squared units of the position.
        draws: ``"smoothed"`` returns a, ``"posterior"`` returns x.
        temperature: T.
        gradient: how the gradient is estimated; by default on the minibatch alone.

    The coupling and the noise of both are Gaussian and solved exactly, so that a small eta does not limit eps:
    ``x += eps g(x)``; then x - a contracts by ``exp(-2 eps / eta)`` to its stationary law while x + a diffuses freely.
    For eta far above eps, x moves as in `SGLD`; far below, x and a move as one at half that speed.

    Bias: of order eps, as `SGLD`; draws of a follow the smoothed density by design. Cost: one minibatch gradient per
    step.

    Reference: Li and Zhang, Entropy-MCMC: sampling from flat basins with ease, arXiv:2310.05401, lemma 1 and
    algorithm 1 (which take an Euler step for the coupling).
    """

    step_size: AbstractSchedule
    eta: Array
    draws: str = eqx.field(static=True)
    temperature: Array
    gradient: AbstractGradientEstimate
    target: Target | None
    layout: Layout | None

    def __init__(
        self,
        step_size: float | Callable[[Array], Any] | AbstractSchedule,
        *,
        eta: float = 0.01,
        draws: Literal["smoothed", "posterior"] = "smoothed",
        temperature: float = 1.0,
        gradient: AbstractGradientEstimate | None = None,
    ) -> None:
        if draws not in ("smoothed", "posterior"):
            raise ValueError(f"EntropyMCMC(draws={draws!r}): expected 'smoothed' (the guide) or 'posterior'.")
        self.step_size = as_schedule("EntropyMCMC", step_size)
        self.eta = check_positive("EntropyMCMC", "eta", eta, advice="it is the variance of the smoothing")
        self.draws = draws
        self.temperature = check_temperature("EntropyMCMC", temperature)
        self.gradient = as_gradient("EntropyMCMC", gradient)
        self.target, self.layout = None, None

    def start(self, key: Key, x: Float[Array, " d"]) -> Float[Array, " d"]:
        """The guide starts at the position."""
        return x

    def advance(
        self, key: Key, x: Float[Array, " d"], dynamics: Float[Array, " d"], score: Score, step_size: Float[Array, ""]
    ) -> tuple[Float[Array, " d"], Float[Array, " d"], Float[Array, " d"], dict[str, Array]]:
        """See `AbstractStochasticGradientSampler.advance`."""
        temperature, eta = self.temperature.astype(x.dtype), self.eta.astype(x.dtype)
        gradient = score(x)
        x = x + step_size * gradient
        of_gap, of_sum = jax.random.normal(key, (2, *x.shape), x.dtype)
        rate = 2.0 * step_size / eta
        spread = jnp.sqrt(-eta * temperature * jnp.expm1(-2.0 * rate))
        gap = jnp.exp(-rate) * (x - dynamics) + spread * of_gap
        total = x + dynamics + 2.0 * jnp.sqrt(step_size * temperature) * of_sum
        return 0.5 * (total + gap), 0.5 * (total - gap), gradient, {"gap": jnp.sqrt(jnp.mean(gap**2))}

    def position(self, state: StochasticGradientState) -> Array:
        """The guide or the position, as ``draws`` says."""
        return state.dynamics if self.draws == "smoothed" else state.position
