"""Stochastic gradient Langevin dynamics in cycles of exploration and sampling."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from ...models import Target
from ...models._layout import Layout
from ...models._types import Batch, Key
from ._base import (
    AbstractStochasticGradientSampler,
    Score,
    StochasticGradientInfo,
    StochasticGradientState,
    check_share,
    check_temperature,
)
from ._gradients import AbstractGradientEstimate, as_gradient
from ._schedule import AbstractSchedule, as_schedule


class CosineCycle(AbstractSchedule):
    """``largest / 2 (1 + cos(pi k / length))`` at gradient k of a cycle; the schedule is that of the draws alone."""

    largest: Array
    length: int = eqx.field(static=True)
    first: int = eqx.field(static=True)
    """The gradient of a cycle that makes its first draw."""

    @property
    def draws(self) -> int:
        """Draws per cycle."""
        return self.length - self.first

    def at(self, k: Int[Array, ""]) -> Float[Array, ""]:
        """The step size of gradient k of a cycle."""
        return 0.5 * self.largest * (1.0 + jnp.cos(jnp.pi * k.astype(self.largest.dtype) / self.length))

    def __call__(self, step: Int[Array, ""]) -> Float[Array, ""]:
        """See `AbstractSchedule`."""
        return self.at(self.first + step % self.draws)


class CyclicalSGLD(AbstractStochasticGradientSampler):
    """SGLD with a step size that falls by a cosine and jumps back: each cycle visits a mode, then draws around it.

    A cycle of L gradients first explores (large steps, no noise), then draws from the posterior (small steps). **Only
    the second phase makes draws**: a step of this sampler is one draw, and the step that opens a cycle runs the whole
    exploration before it. So ``num_steps`` counts draws, ``round(L (1 - exploration))`` per cycle, every one of them
    belongs to the posterior, and online figures, thinning and resuming need no exception.

    Args:
        step_size: the largest eps, at the start of a cycle; positive, in squared units of the position.
        cycle_length: L, gradients per cycle.
        exploration: share of a cycle that explores.
        temperature: T of the draws; 1 draws from the posterior.
        gradient: how the gradient is estimated; by default on the minibatch alone.

    Bias: of order eps within a mode, with the eps of the drawing phase, which must be long enough to leave the mode's
    centre, where exploration ends. A cycle forgets where it was only if exploration crosses barriers, and modes are
    visited in proportion to their basins, not to their mass. Steps shrink towards the end of a cycle, so its last draws
    are strongly correlated. Cost: ``1 / (1 - exploration)`` minibatch gradients per draw on average.

    Reference: Zhang, Li, Zhang, Chen and Wilson, Cyclical stochastic gradient MCMC for Bayesian deep learning,
    arXiv:1902.03932, eq. 1 and algorithm 1.
    """

    step_size: CosineCycle
    temperature: Array
    gradient: AbstractGradientEstimate
    target: Target | None
    layout: Layout | None

    def __init__(
        self,
        step_size: float,
        *,
        cycle_length: int = 1000,
        exploration: float = 0.5,
        temperature: float = 1.0,
        gradient: AbstractGradientEstimate | None = None,
    ) -> None:
        if isinstance(step_size, Callable | AbstractSchedule):  # type: ignore[arg-type]
            raise ValueError(
                "CyclicalSGLD(step_size=...) got a schedule: expected a positive number, the largest step size; the "
                "cycles are its schedule."
            )
        as_schedule("CyclicalSGLD", step_size)
        check_share("CyclicalSGLD", "exploration", exploration, advice="a half is usual")
        if isinstance(cycle_length, bool) or not isinstance(cycle_length, int) or cycle_length < 2:
            raise ValueError(f"CyclicalSGLD(cycle_length={cycle_length!r}): expected a whole number of at least 2.")
        first = min(max(math.floor(cycle_length * exploration + 0.5), 1), cycle_length - 1)
        self.step_size = CosineCycle(jnp.asarray(step_size, jnp.result_type(float)), cycle_length, first)
        self.temperature = check_temperature("CyclicalSGLD", temperature)
        self.gradient = as_gradient("CyclicalSGLD", gradient)
        self.target, self.layout = None, None

    def start(self, key: Key, x: Float[Array, " d"]) -> tuple[()]:
        """See `AbstractStochasticGradientSampler.start`."""
        return ()

    def step(
        self, key: Key, state: StochasticGradientState, batch: Batch | None = None
    ) -> tuple[StochasticGradientState, StochasticGradientInfo]:
        """One draw; at the start of a cycle after its exploration."""
        key_explore, key_draw = jax.random.split(key)
        density, schedule = self.density(), self.step_size
        opens = state.step % schedule.draws == 0

        def explore(carry: tuple[Array, Array, Any]) -> tuple[Array, Array, Any]:
            k, x, memory = carry
            memory = self.gradient.refresh(density, x, memory)
            seen = self.minibatch(jax.random.fold_in(key_explore, k))
            size = schedule.at(k).astype(x.dtype)
            return k + 1, x + size * self.gradient(density, x, seen, memory), memory

        # Zero trips but for the step that opens a cycle: a vmapped loop then costs nothing, a vmapped cond all of it.
        trips = jnp.where(opens, schedule.first, 0)
        begin = (jnp.zeros((), jnp.int32), state.position, state.gradient)
        _, position, memory = jax.lax.while_loop(lambda carry: carry[0] < trips, explore, begin)
        return super().step(key_draw, state._replace(position=position, gradient=memory), batch)

    def advance(
        self, key: Key, x: Float[Array, " d"], dynamics: tuple[()], score: Score, step_size: Float[Array, ""]
    ) -> tuple[Float[Array, " d"], tuple[()], Float[Array, " d"], dict[str, Array]]:
        """See `AbstractStochasticGradientSampler.advance`."""
        gradient = score(x)
        spread = jnp.sqrt(2.0 * step_size * self.temperature.astype(x.dtype))
        return x + step_size * gradient + spread * jax.random.normal(key, x.shape, x.dtype), (), gradient, {}
