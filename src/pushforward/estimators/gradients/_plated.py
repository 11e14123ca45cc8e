"""An objective applied to every plate element and summed."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from ...models._types import Batch
from ..objectives import AbstractObjective
from ._base import Estimate, Gain, derivatives
from ._baselines import AbstractBaseline, Constant, LeaveOneOut, NoBaseline, UserBaseline

_STATELESS = (Constant, LeaveOneOut, NoBaseline, UserBaseline)
"""Baselines that may be asked once per plate element."""


@dataclasses.dataclass(frozen=True)
class Plated:
    """Log-weights of K particles per plate element, and the objective's values and derivatives at them."""

    objective: AbstractObjective
    weights: Float[Array, "k *plates"]
    """Without the scale of the plates."""
    scale: float
    """Full size over minibatch size."""
    plain: bool
    """Whether log q is differentiated in its own parameters, so that outcomes are F and not F - F_k."""

    @property
    def columns(self) -> Float[Array, "k m"]:
        """Plate elements in a row."""
        return jnp.reshape(self.weights, (self.weights.shape[0], -1))

    def each(self, rule: Callable[[Gain, Array], Array], gain: Gain | None = None) -> Float[Array, "k *plates"]:
        """A rule such as `derivatives`, per plate element; in terms of scaled log-weights the plates' scale cancels."""
        chosen = self.objective.guide_gain if gain is None else gain
        out = jax.vmap(lambda w: rule(chosen, w), in_axes=1, out_axes=1)(self.columns)
        return jnp.reshape(out, self.weights.shape)

    def estimate(self) -> Estimate:
        """Value and loss, summed over the plates."""
        value = self.scale * jnp.sum(jax.vmap(self.objective, in_axes=1)(self.columns))
        loss = self.scale * jnp.sum(jax.vmap(self.objective.guide_loss, in_axes=1)(self.columns))
        return Estimate(value, self.scale * jnp.sum(self.columns, axis=1), loss)

    def shares(self) -> Float[Array, " k"]:
        """F_k of an objective that is linear in the log-weights."""
        return derivatives(self.objective.guide_gain, self.columns[:, 0])

    def outcome(self, index: Array, changed: Float[Array, "*plates"]) -> Float[Array, "*plates"]:
        """The objective with particle ``index``'s log-weights (scaled) replaced, per plate element."""
        replaced = self.columns.at[index].set(jnp.ravel(changed / self.scale))
        values = jax.vmap(lambda w: self._gain(w)[index], in_axes=1)(replaced)
        return jnp.reshape(self.scale * values, self.weights.shape[1:])

    def current(
        self, baseline: AbstractBaseline | None, batch: Batch | None
    ) -> tuple[Float[Array, "k *plates"], AbstractBaseline | None]:
        """The outcomes as they are, minus a baseline."""
        values = jax.vmap(self._gain, in_axes=1, out_axes=1)(self.columns)
        control, step = _controls(baseline, self.objective.guide_gain, self.columns, batch)
        if self.objective.fixed_draws:
            control = jnp.zeros_like(control)
        return jnp.reshape(self.scale * (values - control), self.weights.shape), step

    def linear_current(
        self, signal: Float[Array, "k *plates"], baseline: AbstractBaseline | None, batch: Batch | None
    ) -> tuple[Float[Array, "k *plates"], AbstractBaseline | None]:
        """The share of a linear objective that depends on a site, minus a baseline."""
        columns = jnp.reshape(signal, (signal.shape[0], -1))
        control, step = _controls(baseline, self.objective.guide_gain, columns, batch)
        return jnp.reshape(self.shares()[:, None] * (columns - control), signal.shape), step

    def _gain(self, weights: Float[Array, " k"]) -> Float[Array, " k"]:
        """Per particle: F, or F - F_k in the path form, or -F_k where the draws are fixed."""
        gain = self.objective.guide_gain
        value = jnp.broadcast_to(gain(weights), weights.shape)
        if self.plain:
            return value
        slope = derivatives(gain, weights)
        return -slope if self.objective.fixed_draws else value - slope


def _controls(
    baseline: AbstractBaseline | None, gain: Gain, columns: Float[Array, "k m"], batch: Batch | None
) -> tuple[Float[Array, "#k #m"], AbstractBaseline | None]:
    """Baselines of F, per particle and plate element; those that learn are asked once, for the mean of F."""
    if baseline is None:
        return jnp.zeros((1, 1), columns.dtype), None
    if isinstance(baseline, _STATELESS):

        def ask(weights: Array) -> Array:
            return jnp.broadcast_to(baseline(gain, weights, batch)[0], weights.shape)

        return jax.vmap(ask, in_axes=1, out_axes=1)(columns), None
    control, step = baseline(lambda w: jnp.mean(jax.vmap(gain, in_axes=1)(w)), columns, batch)
    return jnp.reshape(control, (1, 1)), step
