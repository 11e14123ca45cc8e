"""Variational inference as a kernel: one gradient step of several restarts, with its own stopping rule."""

from __future__ import annotations

import functools
from typing import Any, ClassVar, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, Int, PyTree

from ..estimators import AbstractGradient, AbstractObjective, Parameters
from ..estimators.gradients import join, over_particles
from ..models import Target
from ..models._types import Batch, Key
from ..models.guides import AbstractGuide
from ._base import AbstractKernel

DEFAULT_LEARNING_RATE = 0.05
_DECAY = 0.2
_PHASES = 4
_WINDOW = 100
_NOISY_PATIENCE = 6
"""Least patience with minibatches, whose noise hides small improvements."""
_AVERAGED_STEPS = 1000
_TOLERANCE = 1e-5
"""Nats per window below which an improvement does not count, whatever its noise: a 1 % error in an sd costs 1e-4."""
_EXPLODED = 1e6
_PREPARED_NUMBERS = 4096
"""Most noise numbers per step that are drawn a window ahead."""


class Ledger(NamedTuple):
    """What is decided once per window. Leaves have a leading restart axis."""

    best: Parameters
    """Parameters at the end of the window with the lowest mean loss."""
    best_loss: Float[Array, " restart"]
    average: Parameters
    """Mean of the parameters over the windows of the last phase."""
    averaged: Float[Array, " restart"]
    """Number of iterates in the average."""
    previous_mean: Float[Array, " restart"]
    """Mean loss of the last complete window."""
    standard: Float[Array, " restart"]
    """Mean loss of the last window that counted as an improvement: what later windows are measured against."""
    standard_error: Float[Array, " restart"]
    """Its standard error."""
    stalled: Int[Array, " restart"]
    """Windows since then."""
    phase: Int[Array, " restart"]
    steps: Int[Array, " restart"]
    """Steps taken, in whole windows."""


class VariationalState(NamedTuple):
    """State of all restarts. Leaves have a leading restart axis, except ``step``."""

    step: Int[Array, ""]
    parameters: Parameters
    frozen: Any
    """Constants of the guide that differ between restarts (centre and scale of its coordinates)."""
    optimizer: Any
    total: Parameters
    """Sum of the parameters over the current window."""
    first_loss: Float[Array, " restart"]
    deviation: Float[Array, " restart"]
    """Sum over the current window of loss minus the reference (the last window's mean, at first the first loss)."""
    squares: Float[Array, " restart"]
    """Sum of squares of the same."""
    failed_step: Int[Array, " restart"]
    """First step with a loss or gradient that is not finite, or that exploded; -1 while healthy."""
    ledger: Ledger


class VariationalInfo(NamedTuple):
    """One step."""

    loss: Float[Array, " restart"]
    """What the guide minimises (for bounds, in nats)."""
    alarm: Float[Array, ""]
    """Zero, or NaN once every restart has failed."""


class Variational(AbstractKernel):
    """Stochastic gradient descent on -E_q[F] over guide and model parameters, several restarts at once.

    The learning-rate phase of each restart advances when `patience` windows in a row have not brought the mean loss
    below its standard, the last window that did, by more than the Monte Carlo error of the difference; slow progress
    thus adds up over windows. The default optimiser's step is multiplied by 0.2 per phase.
    Over the last phase iterates are averaged; the restart is done when that phase has stalled too. The rule looks at
    the past only, so the number of steps asked for never changes the trajectory. A restart that fails is frozen at its
    last good parameters.

    Args:
        target: density to approximate.
        static: what the guides of all restarts share.
        objective: what is maximised.
        gradient: how it is differentiated.
        optimizer: an optax transformation of the loss gradient.
        num_particles: draws of the guide per step and restart.
        num_restarts: starting points optimised side by side.
        stop_early: finish a restart when its last phase has stalled; False runs every step asked for.
        decay: multiply updates by 0.2 per phase (the default optimiser); False leaves the optimiser's own schedule
            alone.
    """

    target: Target
    static: AbstractGuide
    objective: AbstractObjective
    gradient: AbstractGradient
    period: ClassVar[int] = _WINDOW
    optimizer: optax.GradientTransformationExtraArgs = eqx.field(static=True)
    num_particles: int = eqx.field(static=True)
    num_restarts: int = eqx.field(static=True)
    decay: bool = eqx.field(static=True)
    stop_early: bool = eqx.field(static=True)

    def init(self, key: Key, position: tuple[Parameters, Any], batch: Batch | None = None) -> VariationalState:
        """Start from stacked parameters and constants (leading restart axis)."""
        parameters, frozen = position
        count = jax.tree.leaves(parameters)[0].shape[0]
        dtype = jnp.result_type(*[x.dtype for x in jax.tree.leaves(parameters)])
        zeros, ints = jnp.zeros((count,), dtype), jnp.zeros((count,), jnp.int32)
        infinite = jnp.full((count,), jnp.inf, dtype)
        return VariationalState(
            step=jnp.zeros((), jnp.int32),
            parameters=parameters,
            frozen=frozen,
            optimizer=jax.vmap(self.optimizer.init)(parameters._replace(estimator=None)),
            total=jax.tree.map(jnp.zeros_like, parameters),
            first_loss=zeros,
            deviation=zeros,
            squares=zeros,
            failed_step=jnp.full((count,), -1, jnp.int32),
            ledger=Ledger(parameters, infinite, parameters, zeros, infinite, infinite, zeros, ints, ints, ints),
        )

    def step(
        self, key: Key, state: VariationalState, batch: Batch | None = None
    ) -> tuple[VariationalState, VariationalInfo]:
        """One gradient step of every restart that is neither finished nor failed."""
        ledger = state.ledger
        loss, gradient = self._gradients(key, state, batch)
        # Parameters of single precision may meet a density of double precision.
        loss = loss.astype(state.first_loss.dtype)
        first = jnp.where(state.step == 0, loss, state.first_loss)
        # One sum per leaf is finite exactly if all entries are (up to overflow, which is as bad).
        size = sum(jnp.sum(g, axis=tuple(range(1, g.ndim))).astype(loss.dtype) for g in jax.tree.leaves(gradient))
        good = jnp.isfinite(loss) & jnp.isfinite(size) & (loss - first <= _EXPLODED * (1.0 + jnp.abs(first)))
        running = (state.failed_step < 0) & ~self._finished(state)
        active = running & good
        learned = gradient._replace(estimator=None)
        updates, optimizer = jax.vmap(lambda g, s, p, v: self.optimizer.update(g, s, p, value=v))(
            learned, state.optimizer, state.parameters._replace(estimator=None), loss
        )
        rate = jnp.asarray(_DECAY, loss.dtype) ** ledger.phase if self.decay else jnp.ones_like(loss)
        moved = jax.tree.map(lambda u: _along(rate, u).astype(u.dtype) * u, updates)
        # The estimator's own numbers come as finished steps; they are no part of the user's optimisation problem.
        moved = moved._replace(estimator=jax.tree.map(jnp.negative, gradient.estimator))
        parameters = jax.tree.map(
            lambda p, u: jnp.where(_along(active, p), p + u.astype(p.dtype), p), state.parameters, moved
        )
        # Deviations from a recent mean: the variance of losses of size 1e5 survives 32-bit floats.
        deviation = jnp.where(
            active, loss - jnp.where(jnp.isfinite(ledger.previous_mean), ledger.previous_mean, first), 0.0
        )
        new = VariationalState(
            state.step + 1,
            parameters,
            state.frozen,
            optimizer,
            jax.tree.map(jnp.add, state.total, parameters),
            first,
            state.deviation + deviation,
            state.squares + deviation**2,
            jnp.where(running & ~good, state.step, state.failed_step),
            ledger,
        )
        return new, VariationalInfo(loss, jnp.where(jnp.any(new.failed_step < 0), 0.0, jnp.nan))

    def _gradients(self, key: Key, state: VariationalState, batch: Batch | None) -> tuple[Array, Parameters]:
        def one(key: Key, parameters: Parameters, frozen: Any) -> tuple[Array, Parameters]:
            target, guide = self.joined(parameters, frozen)
            estimator = eqx.combine(parameters.estimator, self.gradient)
            estimate, gradient = estimator.value_and_grad(key, self.objective, target, guide, self.num_particles, batch)
            if gradient.estimator is None:
                gradient = gradient._replace(estimator=jax.tree.map(jnp.zeros_like, parameters.estimator))
            return estimate.loss, gradient

        keys = self.spread(key) if key.ndim == 0 else key
        return over_particles(one, keys, state.parameters, state.frozen)

    def settle(self, state: VariationalState) -> VariationalState:
        """Compare the window's mean loss with the last one's; move the phase on where it has stalled."""
        ledger = state.ledger
        running = (state.failed_step < 0) & ~self._finished(state)
        reference = jnp.where(jnp.isfinite(ledger.previous_mean), ledger.previous_mean, state.first_loss)
        shift = state.deviation / _WINDOW
        mean = reference + shift
        variance = jnp.maximum(state.squares - _WINDOW * shift**2, 0.0) / (_WINDOW - 1.0)
        error = jnp.sqrt(variance / _WINDOW)
        noise = jnp.sqrt(error**2 + ledger.standard_error**2)
        improved = ledger.standard - mean > jnp.maximum(noise, _TOLERANCE)
        stalled = jnp.where(improved, 0, ledger.stalled + 1)
        last = ledger.phase == _PHASES - 1
        averaging = last & running
        averaged = jnp.where(averaging, ledger.averaged + _WINDOW, ledger.averaged)
        weight = jnp.where(averaging, _WINDOW / jnp.maximum(averaged, 1.0), 0.0)
        average = jax.tree.map(
            lambda a, t: a + (t / _WINDOW - a) * _along(weight, t).astype(t.dtype), ledger.average, state.total
        )
        ready = (stalled >= self.patience) & (~last | (averaged >= _AVERAGED_STEPS))
        move_on = ready & running if self.stop_early else ready & running & ~last
        better = running & (mean < ledger.best_loss)
        best = jax.tree.map(lambda p, b: jnp.where(_along(better, p), p, b), state.parameters, ledger.best)
        new = Ledger(
            best,
            jnp.where(better, mean, ledger.best_loss),
            average,
            averaged,
            jnp.where(running, mean, ledger.previous_mean),
            jnp.where(running & improved, mean, ledger.standard),
            jnp.where(running & improved, error, ledger.standard_error),
            jnp.where(running, jnp.where(move_on & ~last, 0, stalled), ledger.stalled),
            ledger.phase + move_on.astype(ledger.phase.dtype),
            ledger.steps + _WINDOW * running.astype(ledger.steps.dtype),
        )
        zeros = jnp.zeros_like(shift)
        total = jax.tree.map(jnp.zeros_like, state.total)
        return state._replace(ledger=new, total=total, deviation=zeros, squares=zeros)

    def joined(self, parameters: Parameters, frozen: Any) -> tuple[Target, AbstractGuide]:
        """Target and guide of one restart."""
        return join(parameters, self.target, eqx.combine(frozen, self.static))

    @property
    def patience(self) -> int:
        """Windows without improvement after which a phase of the learning rate ends."""
        return max(self.static.patience, _NOISY_PATIENCE if self.target.subsampled else 0)

    def converged(self, state: VariationalState) -> Array:
        """Which restarts ended because their loss stopped improving."""
        ledger = state.ledger
        stalled = (
            (ledger.phase == _PHASES - 1) & (ledger.stalled >= self.patience) & (ledger.averaged >= _AVERAGED_STEPS)
        )
        return (self._finished(state) | stalled) & (state.failed_step < 0)

    def _finished(self, state: VariationalState) -> Array:
        return state.ledger.phase >= _PHASES

    def spread(self, key: Key) -> Key:
        """What each particle of each restart consumes, from ``fold_in(fold_in(key, restart), particle)``.

        Small noise is drawn here, for a whole window at once; otherwise these are keys. `step` takes either or ``key``.

        Args:
            key: the key of a step, or those of several.

        Returns:
            An array of shape (..., restart, particle, ...).
        """
        shape = (*key.shape, self.num_restarts, self.num_particles)
        keys = _children(_children(jnp.ravel(key), self.num_restarts), self.num_particles)
        noise = jax.eval_shape(self.static.noise, keys[0])
        # Given draws of the posterior are chosen among by key.
        if noise.size * shape[-1] * shape[-2] > _PREPARED_NUMBERS or self.objective.draws is not None:
            return jnp.reshape(keys, shape)
        drawn = jax.vmap(self.static.noise)(keys)
        return jnp.reshape(drawn, shape + drawn.shape[1:])

    def minibatch(self, key: Key) -> Batch | None:
        """Indices for the plates that declare a ``subsample_size``."""
        return self.target.minibatch(key) if self.target.subsampled else None

    def done(self, state: VariationalState) -> Array:
        """Every restart has converged or failed, and one has converged."""
        return jnp.all(self._finished(state) | (state.failed_step >= 0)) & jnp.any(self._finished(state))

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


@functools.cache
def default_optimizer(learning_rate: float = DEFAULT_LEARNING_RATE) -> optax.GradientTransformationExtraArgs:
    """Adam at the guide's own rate; one object per rate for all fits, so that none recompiles its steps."""
    return optax.with_extra_args_support(optax.adam(learning_rate))


def _children(keys: Key, count: int) -> Key:
    """``fold_in(key, i)`` for i < count, of keys in a row.

    One long loop: a hash in nested short ones is unrolled by the compiler, which takes it ten seconds and more.
    """
    parents, index = jnp.repeat(keys, count), jnp.tile(jnp.arange(count), keys.shape[0])
    return jax.vmap(jax.random.fold_in)(parents, index)


def _along(values: Array, like: Array) -> Array:
    """Per-restart values, shaped to broadcast against a leaf."""
    return jnp.reshape(values, values.shape + (1,) * (like.ndim - 1))
