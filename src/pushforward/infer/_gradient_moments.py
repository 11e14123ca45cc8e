"""Moments and cost of one gradient estimator at one point: a compiled loop in memory that does not grow."""

from __future__ import annotations

import statistics
import time
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from ..estimators import AbstractGradient, AbstractObjective
from ..estimators.gradients import split
from ..models import Target
from ..models._types import Key
from ..models.guides import AbstractGuide
from ._evaluations import count_evaluations

_CHUNKS = 8
_WARM_UP, _ADAPTATION = 10, 300
"""Unmeasured gradients first: a few for the clock, more where the estimator has numbers to learn."""


class Running(NamedTuple):
    """Welford's running moments."""

    seen: Float[Array, ""]
    mean: Float[Array, " parameter"]
    squares: Float[Array, " parameter"]
    """Sum of squared deviations from the mean."""
    value: Float[Array, " 2"]
    """Of the objective and of the loss."""
    value_squares: Float[Array, " 2"]


class Moments(NamedTuple):
    """What many independent gradients say."""

    num: int
    """Gradients drawn."""
    mean: Float[np.ndarray, " parameter"]
    variance: Float[np.ndarray, " parameter"]
    """Per coordinate, of one gradient."""
    value: float
    """Mean of the objective, in nats."""
    value_error: float
    loss: float
    """Mean of what the guide minimises."""
    trace_error: float
    """Standard error of the summed variance, from disjoint batches."""
    seconds: float
    """Median wall-clock time of one gradient."""

    @property
    def trace(self) -> float:
        """Total variance of one gradient."""
        return float(self.variance.sum())


class Probe:
    """One estimator with one number of particles, compiled once and run wherever it is asked to."""

    def __init__(
        self,
        gradient: AbstractGradient,
        objective: AbstractObjective,
        target: Target,
        guide: AbstractGuide,
        num_particles: int,
    ) -> None:
        """Compile.

        Args:
            gradient: the estimator.
            objective: what it differentiates.
            target: the target.
            guide: any guide of the family to be measured.
            num_particles: draws per gradient.
        """
        gradient = gradient.bind(target, guide)
        self.evaluations = count_evaluations(gradient, objective, target, guide, num_particles)
        own, fixed = eqx.partition(gradient, eqx.is_inexact_array)
        self._own, self._target = own, target
        self.learns = bool(jax.tree.leaves(own))
        arrays, rest = eqx.partition((target, guide), eqx.is_array)
        self._structure = jax.tree.structure(arrays)
        loop = _build_loop(fixed, objective, rest, self._structure, num_particles)
        began = time.perf_counter()
        arguments = (jax.random.key(0), 0, 1, own, jax.tree.leaves(arrays))
        self._run = jax.jit(loop).lower(*arguments).compile()
        self.compile_seconds = time.perf_counter() - began

    def measure(self, key: Key, guide: AbstractGuide, params: dict[str, Any], num_repeats: int) -> Moments:
        """Moments of ``num_repeats`` gradients at a guide and model parameters, gradient i from ``fold_in(key, i)``."""
        target = self._target.with_params(params, fitted=self._target.fitted) if params else self._target
        # Leaves only: settings of a guide that its numbers have overtaken (its first scale) may differ between places.
        arrays = jax.tree.leaves(eqx.filter((target, guide), eqx.is_array))
        warm = _ADAPTATION if self.learns else _WARM_UP
        own, _ = self._run(key, 0, warm, self._own, arrays)
        edges = np.linspace(0, num_repeats, min(_CHUNKS, num_repeats) + 1).astype(int)
        parts, seconds = [], []
        for begin, end in zip(edges[:-1], edges[1:], strict=True):
            began = time.perf_counter()
            own, part = jax.block_until_ready(self._run(key, warm + int(begin), int(end - begin), own, arrays))
            seconds.append((time.perf_counter() - began) / (end - begin))
            parts.append(jax.tree.map(lambda x: np.asarray(x, np.float64), part))
        return _pooled(parts, statistics.median(seconds))


def _build_loop(gradient: Any, objective: AbstractObjective, rest: Any, structure: Any, num_particles: int) -> Any:
    def loop(key: Key, start: int, count: int, own: Any, arrays: list[Array]) -> tuple[Any, Running]:
        whole_target, whole_guide = eqx.combine(jax.tree.unflatten(structure, arrays), rest)
        parameters, _ = split(whole_target, whole_guide)
        example = flat(parameters)
        zero, pair = jnp.zeros((), example.dtype), jnp.zeros((2,), example.dtype)

        def advance(i: Array, carry: tuple[Any, Running]) -> tuple[Any, Running]:
            own, past = carry
            key_draw, key_batch = jax.random.split(jax.random.fold_in(key, start + i))
            batch = whole_target.minibatch(key_batch) if whole_target.subsampled else None
            estimator = eqx.combine(own, gradient)
            estimate, steps = estimator.value_and_grad(
                key_draw, objective, whole_target, whole_guide, num_particles, batch
            )
            if steps.estimator is not None:
                own = jax.tree.map(jnp.subtract, own, steps.estimator)
            return own, _add(past, flat(steps), jnp.stack([estimate.value, estimate.loss]))

        return jax.lax.fori_loop(
            0, count, advance, (own, Running(zero, jnp.zeros_like(example), jnp.zeros_like(example), pair, pair))
        )

    return loop


def flat(parameters: Any) -> Float[Array, " parameter"]:
    """Guide and model parameters (or their gradients) as one vector; the estimator's own numbers are no part of it."""
    leaves = jax.tree.leaves((parameters.guide, parameters.model))
    return jnp.concatenate([jnp.ravel(x) for x in leaves])


def _add(past: Running, gradient: Array, value: Array) -> Running:
    count = past.seen + 1
    step = gradient - past.mean
    mean = past.mean + step / count
    value = value.astype(past.value.dtype)
    value_step = value - past.value
    value_mean = past.value + value_step / count
    return Running(
        count,
        mean,
        past.squares + step * (gradient - mean),
        value_mean,
        past.value_squares + value_step * (value - value_mean),
    )


def _pooled(parts: list[Running], seconds: float) -> Moments:
    counts = np.array([p.seen for p in parts])
    count = int(counts.sum())
    means, values = np.stack([p.mean for p in parts]), np.stack([p.value for p in parts])
    mean, value = np.average(means, axis=0, weights=counts), np.average(values, axis=0, weights=counts)
    squares = sum(p.squares for p in parts) + (counts[:, None] * (means - mean) ** 2).sum(0)
    value_squares = sum(p.value_squares for p in parts) + (counts[:, None] * (values - value) ** 2).sum(0)
    inside = np.array([p.squares.sum() / max(float(p.seen) - 1.0, 1.0) for p in parts])
    dof = float(max(count - 1, 1))
    return Moments(
        count,
        mean,
        squares / dof,
        float(value[0]),
        float(np.sqrt(value_squares[0] / dof / count)),
        float(value[1]),
        float(inside.std(ddof=1) / np.sqrt(len(inside))) if len(inside) > 1 else float("nan"),
        seconds,
    )
