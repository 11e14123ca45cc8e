"""The moves that SMC makes by default: Hamiltonian Monte Carlo of fixed step size, without adaptation."""

from __future__ import annotations

from typing import Any, NamedTuple, Self

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PyTree

from ...models import Target
from ...models._layout import Layout
from ...models._types import Batch, Key
from .._base import AbstractSampler
from .._ensemble import bound, require_bound


class LeapfrogState(NamedTuple):
    """A point with its density and gradient."""

    position: Float[Array, " d"]
    logdensity: Float[Array, ""]
    gradient: Float[Array, " d"]


class Leapfrog(AbstractSampler):
    """Momentum, ``num_leapfrog`` leapfrog steps, Metropolis. Exact; a tenth of the program of an adaptive `HMC`."""

    step_size: Array
    num_leapfrog: int = eqx.field(static=True)
    target: Target | None
    layout: Layout | None

    def __init__(self, step_size: float, num_leapfrog: int) -> None:
        self.step_size = jnp.asarray(step_size, jnp.result_type(float))
        self.num_leapfrog = num_leapfrog
        self.target, self.layout = None, None

    def bind(self, target: Target, num_warmup: int) -> Self:
        """See `AbstractSampler.bind`."""
        return bound(self, target)

    def init(self, key: Key, position: PyTree, batch: Batch | None = None) -> LeapfrogState:
        """See `AbstractKernel.init`."""
        return LeapfrogState(position, *self._look(position))

    def step(self, key: Key, state: LeapfrogState, batch: Batch | None = None) -> tuple[LeapfrogState, Array]:
        """See `AbstractKernel.step`; the information is the acceptance probability."""
        key_momentum, key_accept = jax.random.split(key)
        x, dtype = state.position, state.position.dtype
        step = self.step_size.astype(dtype)
        momentum = jax.random.normal(key_momentum, x.shape, dtype)

        def leap(carry: Any, _: None) -> tuple[Any, None]:
            here, push = carry
            push = push + 0.5 * step * here.gradient
            there = here.position + step * push
            new = LeapfrogState(there, *self._look(there))
            return (new, push + 0.5 * step * new.gradient), None

        (proposed, push), _ = jax.lax.scan(leap, (state, momentum), length=self.num_leapfrog)
        gain = proposed.logdensity - state.logdensity + 0.5 * (jnp.sum(momentum**2) - jnp.sum(push**2))
        rate = jnp.where(jnp.isnan(gain), 0.0, jnp.exp(jnp.minimum(gain, 0.0)))
        accept = jax.random.uniform(key_accept, (), dtype) < rate
        return jax.tree.map(lambda a, b: jnp.where(accept, a, b), proposed, state), rate

    def position(self, state: LeapfrogState) -> Array:
        """See `AbstractSampler.position`."""
        return state.position

    def statistics(self, state: LeapfrogState, info: Array) -> dict[str, Array]:
        """See `AbstractSampler.statistics`."""
        return {"lp": state.logdensity, "acceptance_rate": info}

    def _look(self, x: Float[Array, " d"]) -> tuple[Float[Array, ""], Float[Array, " d"]]:
        target, layout = require_bound(self)
        value, gradient = jax.value_and_grad(lambda z: target.logdensity(layout.unravel(z)))(x)
        return value.astype(x.dtype), gradient
