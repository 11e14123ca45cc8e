"""Variational inference as a kernel: one gradient step of several restarts, with its own stopping rule."""

from __future__ import annotations

from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, Int, PyTree

from ..estimators import AbstractGradient, AbstractObjective, Parameters
from ..estimators.gradients import join
from ..models import Target
from ..models._types import Batch, Key
from ..models.guides import AbstractGuide
from ._base import AbstractKernel

DEFAULT_LEARNING_RATE = 0.05
_DECAY = 0.2
_PHASES = 4
_WINDOW = 100
_PATIENCE = 3
_AVERAGED_STEPS = 1000
_TOLERANCE = 1e-5
"""Nats per window below which an improvement does not count, whatever its noise: a 1 % error in an sd costs 1e-4."""
_EXPLODED = 1e6


class Window(NamedTuple):
    """Loss statistics of the current window and the comparison with the previous one. Leaves: (restart,)."""

    count: Int[Array, " restart"]
    mean: Float[Array, " restart"]
    squares: Float[Array, " restart"]
    """Sum of squared deviations from the mean (Welford)."""
    previous_mean: Float[Array, " restart"]
    previous_error: Float[Array, " restart"]
    stalled: Int[Array, " restart"]
    """Windows in a row without an improvement beyond noise."""


class VariationalState(NamedTuple):
    """State of all restarts. Leaves have a leading restart axis."""

    parameters: Parameters
    frozen: Any
    """Constants of the guide that differ between restarts (centre and scale of its coordinates)."""
    optimizer: Any
    average: Parameters
    """Running mean of the parameters over the last phase."""
    averaged: Int[Array, " restart"]
    """Number of iterates in the average."""
    best: Parameters
    """Parameters at the end of the window with the lowest mean loss."""
    best_loss: Float[Array, " restart"]
    first_loss: Float[Array, " restart"]
    window: Window
    phase: Int[Array, " restart"]
    step: Int[Array, " restart"]
    failed_step: Int[Array, " restart"]
    """First step with a loss or gradient that is not finite, or that exploded; -1 while healthy."""


class VariationalInfo(NamedTuple):
    """One step."""

    loss: Float[Array, " restart"]
    """Minus the estimated objective, in nats. Lower is better."""
    alarm: Float[Array, ""]
    """Zero, or NaN once every restart has failed."""


class Variational(AbstractKernel):
    """Stochastic gradient descent on -E_q[F] over guide and model parameters, several restarts at once.

    The learning-rate phase of each restart advances when the mean loss of ``_PATIENCE`` windows in a row has not improved by
    more than its Monte Carlo standard error; the default optimiser's step is multiplied by 0.2 per phase. Over the last phase
    iterates are averaged; the restart is done when that phase has stalled too. The rule looks at the past only, so the number
    of steps asked for never changes the trajectory. A restart that fails is frozen at its last good parameters.

    Args:
        target: density to approximate.
        static: what the guides of all restarts share.
        objective: what is maximised.
        gradient: how it is differentiated.
        optimizer: an optax transformation of the loss gradient.
        num_particles: draws of the guide per step and restart.
        decay: multiply updates by 0.2 per phase (the default optimiser); False leaves the optimiser's own schedule alone.
    """

    target: Target
    static: AbstractGuide
    objective: AbstractObjective
    gradient: AbstractGradient
    optimizer: optax.GradientTransformationExtraArgs = eqx.field(static=True)
    num_particles: int = eqx.field(static=True)
    decay: bool = eqx.field(static=True)

    def init(self, key: Key, position: tuple[Parameters, Any], batch: Batch | None = None) -> VariationalState:
        """Start from stacked parameters and constants (leading restart axis)."""
        position, frozen = position
        count = jax.tree.leaves(position)[0].shape[0]
        dtype = jnp.result_type(*[x.dtype for x in jax.tree.leaves(position)])
        zeros, ints = jnp.zeros((count,), dtype), jnp.zeros((count,), jnp.int32)
        infinite = jnp.full((count,), jnp.inf, dtype)
        return VariationalState(
            parameters=position,
            frozen=frozen,
            optimizer=jax.vmap(self.optimizer.init)(position),
            average=position,
            averaged=ints,
            best=position,
            best_loss=infinite,
            first_loss=infinite,
            window=Window(ints, zeros, zeros, infinite, zeros, ints),
            phase=ints,
            step=ints,
            failed_step=jnp.full((count,), -1, jnp.int32),
        )

    def step(self, key: Key, state: VariationalState, batch: Batch | None = None) -> tuple[VariationalState, VariationalInfo]:
        """One gradient step of every restart that is neither finished nor failed."""
        count = state.step.shape[0]
        keys = jax.vmap(lambda i: jax.random.fold_in(key, i))(jnp.arange(count))
        new, loss = jax.vmap(self._step_one, in_axes=(0, 0, None))(keys, state, batch)
        alive = jnp.any(new.failed_step < 0)
        return new, VariationalInfo(loss, jnp.where(alive, 0.0, jnp.nan))

    def _step_one(self, key: Key, state: VariationalState, batch: Batch | None) -> tuple[VariationalState, Array]:
        target, guide = self.joined(state.parameters, state.frozen)
        estimate, gradient = self.gradient.value_and_grad(key, self.objective, target, guide, self.num_particles, batch)
        loss = -estimate.value
        first = jnp.where(state.step == 0, loss, state.first_loss)
        exploded = loss > first + _EXPLODED * (1.0 + jnp.abs(first))
        good = jnp.isfinite(loss) & jnp.isfinite(optax.tree.norm(gradient)) & ~exploded
        active = good & (state.failed_step < 0) & ~self._done_one(state)

        updates, optimizer = self.optimizer.update(gradient, state.optimizer, state.parameters, value=loss)
        if self.decay:
            factor = jnp.asarray(_DECAY, loss.dtype) ** state.phase
            updates = jax.tree.map(lambda u: u * factor.astype(u.dtype), updates)
        parameters = optax.apply_updates(state.parameters, updates)
        averaging = state.phase == _PHASES - 1
        averaged = jnp.where(averaging, state.averaged + 1, 0)
        weight = 1.0 / jnp.maximum(averaged, 1)
        average = jax.tree.map(lambda a, p: a + (p - a) * weight.astype(p.dtype), state.average, parameters)
        window, phase, closed = _advance(state.window, state.phase, loss, averaged)
        better = closed & (window.previous_mean < state.best_loss)
        new = VariationalState(
            parameters,
            state.frozen,
            optimizer,
            average,
            averaged,
            _select(better, parameters, state.best),
            jnp.where(better, window.previous_mean, state.best_loss),
            first,
            window,
            phase,
            state.step + 1,
            state.failed_step,
        )
        kept = _select(active, new, state)
        failing = ~good & (state.failed_step < 0) & ~self._done_one(state)
        return kept._replace(failed_step=jnp.where(failing, state.step, state.failed_step)), loss

    def joined(self, parameters: Parameters, frozen: Any) -> tuple[Target, AbstractGuide]:
        """Target and guide of one restart."""
        return join(parameters, self.target, eqx.combine(frozen, self.static))

    def _done_one(self, state: VariationalState) -> Array:
        return state.phase >= _PHASES

    def minibatch(self, key: Key) -> Batch | None:
        """Indices for the plates that declare a ``subsample_size``."""
        return self.target.minibatch(key) if self.target.subsampled else None

    def done(self, state: VariationalState) -> Array:
        """Every restart has converged or failed, and one has converged."""
        return jnp.all(self._done_one(state) | (state.failed_step >= 0)) & jnp.any(self._done_one(state))

    def health(self, state: VariationalState, info: VariationalInfo) -> PyTree:
        """Finite until the last restart fails."""
        return info.alarm

    def record(self, state: VariationalState, info: VariationalInfo) -> PyTree:
        """The loss of every restart."""
        return info.loss

    def summary(self, records: PyTree) -> dict[str, str]:
        """Best mean loss of the last steps, with its standard error."""
        last = np.asarray(records[-_WINDOW:], dtype=float)
        if last.size == 0:
            return {}
        means = last.mean(0)
        best = int(np.nanargmin(means)) if np.isfinite(means).any() else 0
        return {"loss": f"{means[best]:.4g} +- {last[:, best].std() / np.sqrt(len(last)):.2g}"}


def converged(state: VariationalState) -> Array:
    """Which restarts ended because their loss stopped improving."""
    return (state.phase >= _PHASES) & (state.failed_step < 0)


def default_optimizer() -> optax.GradientTransformationExtraArgs:
    """Adam at the rate that suits whitened coordinates."""
    return optax.with_extra_args_support(optax.adam(DEFAULT_LEARNING_RATE))


def _advance(window: Window, phase: Array, loss: Array, averaged: Array) -> tuple[Window, Array, Array]:
    """Add a loss to the window; at its end compare with the previous window and move the phase on if it has stalled."""
    count = window.count + 1
    delta = loss - window.mean
    mean = window.mean + delta / count
    squares = window.squares + delta * (loss - mean)
    closed = count >= _WINDOW
    error = jnp.sqrt(squares / (_WINDOW * (_WINDOW - 1.0)))
    noise = jnp.sqrt(error**2 + window.previous_error**2)
    improved = window.previous_mean - mean > jnp.maximum(noise, _TOLERANCE)
    stalled = jnp.where(improved, 0, window.stalled + 1)
    long_enough = (phase < _PHASES - 1) | (averaged >= _AVERAGED_STEPS)
    move_on = closed & (stalled >= _PATIENCE) & long_enough
    fresh = Window(
        jnp.where(closed, 0, count),
        jnp.where(closed, 0.0, mean),
        jnp.where(closed, 0.0, squares),
        jnp.where(closed, mean, window.previous_mean),
        jnp.where(closed, error, window.previous_error),
        jnp.where(closed, jnp.where(move_on, 0, stalled), window.stalled),
    )
    return fresh, phase + move_on.astype(phase.dtype), closed


def _select(condition: Array, new: Any, old: Any) -> Any:
    return jax.tree.map(lambda a, b: jnp.where(condition, a, b), new, old)
