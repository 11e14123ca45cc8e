"""What stochastic-gradient samplers share.

One convention for all of them. With U(x) = -log p(x, data) over all N data, priors included, the target is
``exp(-U(x) / temperature)``; gradients are unbiased estimates of grad U (the minibatch's likelihood times N/B); a step
size is a time step of the dynamics of U, so a Langevin step is ``x - step_size grad U + sqrt(2 step_size temperature)
noise``. Libraries that divide U by N have a step size N times ours and a temperature 1/N as large.
"""

from __future__ import annotations

import abc
from collections.abc import Callable
from typing import Any, ClassVar, NamedTuple, TypeAlias

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, PyTree

from ...models import Target
from ...models._layout import Layout
from ...models._types import Batch, Key
from .._base import AbstractSampler
from .._ensemble import bound, require_bound
from ._density import LogDensity
from ._gradients import AbstractGradientEstimate
from ._schedule import AbstractSchedule, is_number

Score: TypeAlias = Callable[[Array], Array]
"""An unbiased estimate of grad log p at any position, on one and the same minibatch."""


class StochasticGradientState(NamedTuple):
    """One chain."""

    position: Float[Array, " d"]
    dynamics: Any
    """Momenta, preconditioners, thermostats."""
    gradient: Any
    """What the gradient estimate remembers."""
    step: Int[Array, ""]


class StochasticGradientInfo(NamedTuple):
    """One step."""

    step_size: Float[Array, ""]
    gradient_norm: Float[Array, ""]
    """Euclidean norm of the estimated gradient."""
    statistics: dict[str, Array]


class AbstractStochasticGradientSampler(AbstractSampler):
    """A sampler that sees the density through estimates of its gradient only, and never rejects."""

    isolates: ClassVar[bool] = True
    step_size: eqx.AbstractVar[AbstractSchedule]
    temperature: eqx.AbstractVar[Array]
    gradient: eqx.AbstractVar[AbstractGradientEstimate]
    target: eqx.AbstractVar[Target | None]
    layout: eqx.AbstractVar[Layout | None]

    @abc.abstractmethod
    def start(self, key: Key, x: Float[Array, " d"]) -> Any:
        """The dynamics' own variables at the start."""

    @abc.abstractmethod
    def advance(
        self, key: Key, x: Float[Array, " d"], dynamics: Any, score: Score, step_size: Float[Array, ""]
    ) -> tuple[Float[Array, " d"], Any, Float[Array, " d"], dict[str, Array]]:
        """Move: new position, new dynamics, the gradient that was used, and statistics."""

    def bind(self, target: Target, num_warmup: int) -> Any:
        """See `AbstractSampler.bind`."""
        sampler = bound(self, target)
        gradient = self.gradient.bind(sampler.density())
        if gradient is self.gradient:
            return sampler
        return eqx.tree_at(lambda s: s.gradient, sampler, gradient)

    def density(self) -> LogDensity:
        """The density of the target that the sampler is bound to."""
        return LogDensity(*require_bound(self))

    def init(self, key: Key, position: PyTree, batch: Batch | None = None) -> StochasticGradientState:
        """See `AbstractKernel.init`."""
        memory = self.gradient.init(self.density(), position)
        return StochasticGradientState(position, self.start(key, position), memory, jnp.zeros((), jnp.int32))

    def step(
        self, key: Key, state: StochasticGradientState, batch: Batch | None = None
    ) -> tuple[StochasticGradientState, StochasticGradientInfo]:
        """See `AbstractKernel.step`."""
        density = self.density()
        memory = self.gradient.refresh(density, state.position, state.gradient)
        size = self.step_size(state.step).astype(state.position.dtype)
        position, dynamics, gradient, statistics = self.advance(
            key, state.position, state.dynamics, lambda x: self.gradient(density, x, batch, memory), size
        )
        info = StochasticGradientInfo(size, jnp.sqrt(jnp.sum(gradient**2)), statistics)
        return StochasticGradientState(position, dynamics, memory, state.step + 1), info

    def minibatch(self, key: Key) -> Batch | None:
        """See `AbstractKernel.minibatch`."""
        target, _ = require_bound(self)
        return target.minibatch(key) if target.subsampled else None

    def position(self, state: StochasticGradientState) -> Array:
        """See `AbstractSampler.position`."""
        return state.position

    def statistics(self, state: StochasticGradientState, info: StochasticGradientInfo) -> dict[str, Array]:
        """See `AbstractSampler.statistics`."""
        return {"step_size": info.step_size, "gradient_norm": info.gradient_norm, **info.statistics}

    def summary(self, records: PyTree) -> dict[str, str]:
        """Step size and gradient norm."""
        if records["step_size"].shape[0] == 0:
            return {}
        last = {name: float(np.mean(records[name][-1])) for name in ("step_size", "gradient_norm")}
        return {"step size": f"{last['step_size']:.3g}", "gradient": f"{last['gradient_norm']:.3g}"}


def check_temperature(name: str, temperature: float) -> Array:
    """A non-negative number as an array.

    Raises:
        ValueError: if it is negative or no number.
    """
    if not is_number(temperature) or not float(temperature) >= 0:
        raise ValueError(
            f"{name}(temperature={temperature!r}): expected a non-negative number; 1 draws from the posterior."
        )
    return jnp.asarray(temperature, jnp.result_type(float))


def check_share(name: str, argument: str, value: float, *, advice: str) -> Array:
    """A number strictly between 0 and 1 as an array.

    Raises:
        ValueError: if it is not.
    """
    if not is_number(value) or not 0 < float(value) < 1:
        raise ValueError(f"{name}({argument}={value!r}): expected a number between 0 and 1, both excluded; {advice}.")
    return jnp.asarray(value, jnp.result_type(float))


def check_positive(name: str, argument: str, value: float, *, advice: str, zero: bool = False) -> Array:
    """A positive number as an array; with ``zero`` 0 is allowed.

    Raises:
        ValueError: if it is not.
    """
    if not is_number(value) or not (float(value) > 0 or (zero and float(value) == 0)):
        kind = "a number of at least 0" if zero else "a positive number"
        raise ValueError(f"{name}({argument}={value!r}): expected {kind}; {advice}.")
    return jnp.asarray(value, jnp.result_type(float))


def temperature_of(momentum: Float[Array, " d"]) -> Float[Array, ""]:
    """Mean squared momentum: the temperature at which the momenta are."""
    return jnp.mean(momentum**2)
