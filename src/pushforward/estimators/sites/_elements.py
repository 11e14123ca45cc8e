"""The independent random variables that a distribution is made of, and a function of them varied one at a time."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpyro.distributions as dist
from jaxtyping import Array

from ._base import Outcome

_BLOCK = 64
"""Most outcomes evaluated side by side."""


class Elements(NamedTuple):
    """A distribution seen as an array of independent variables of one family."""

    base: Any
    """The family, without layers that expand, mask or reinterpret; its parameters broadcast against ``shape``."""
    shape: tuple[int, ...]
    """One independent variable per entry."""
    batch_dim: int
    """Leading axes of ``shape`` that are batch axes of the distribution; the others belong to one event."""

    @property
    def event_dim(self) -> int:
        """Axes of one variable's own value."""
        return int(self.base.event_dim)

    def spread(self, parameter: Any, dtype: Any = None) -> Array:
        """A parameter, one entry per variable. Differentiable."""
        return jnp.broadcast_to(jnp.asarray(parameter, dtype), self.shape)


def elements(fn: Any) -> Elements:
    """Take a distribution apart."""
    batch_dim = len(fn.batch_shape)
    whole = tuple(fn.batch_shape) + tuple(fn.event_shape)
    while isinstance(fn, dist.Independent | dist.ExpandedDistribution | dist.MaskedDistribution):
        fn = fn.base_dist
    return Elements(fn, whole[: len(whole) - fn.event_dim], batch_dim)


def law(fn: Any) -> Any:
    """The distribution that values are drawn from: a mask takes terms out of the density, not out of the draw."""
    if isinstance(fn, dist.MaskedDistribution):
        return law(fn.base_dist).expand(fn.batch_shape)
    if isinstance(fn, dist.Independent):
        return dist.Independent(law(fn.base_dist), fn.reinterpreted_batch_ndims)
    if isinstance(fn, dist.ExpandedDistribution):
        return law(fn.base_dist).expand(fn.batch_shape)
    if type(fn) is dist.BernoulliLogits:
        return _SmoothBernoulli(fn.logits)
    return fn


class _SmoothBernoulli(dist.BernoulliLogits):
    """NumPyro's log-probability has a kink at even odds, where guides like to start: its derivative is wrong there."""

    def log_prob(self, value: Any) -> Any:
        """X logit - log(1 + exp(logit))."""
        return value * self.logits - jnp.logaddexp(self.logits, jnp.zeros_like(self.logits))


def align(outcome: Array, parts: Elements) -> Array:
    """An outcome (a scalar, or one value per plate element) with one axis per axis of the elements."""
    lead = parts.batch_dim - outcome.ndim
    trail = len(parts.shape) - parts.batch_dim
    return jnp.reshape(outcome, (1,) * lead + outcome.shape + (1,) * trail)


def vary(outcome: Outcome, value: Array, candidates: Array, current: Array, parts: Elements) -> Array:
    """Outcomes with one element replaced, the others as drawn.

    Elements that reach different entries of the outcome are replaced at the same time.

    Args:
        outcome: see `Outcome`.
        value: the draw, shaped ``parts.shape`` and event axes.
        candidates: replacements, with a leading axis.
        current: an array of the outcome's shape.
        parts: what the value is made of.

    Returns:
        Entry ``(c, e)`` is the outcome that element e reaches when it takes the value ``candidates[c, e]``.
    """
    reached = align(current, parts).shape
    shape = parts.shape
    looped = [i for i, (n, size) in enumerate(zip(shape, reached, strict=True)) if size == 1 and n > 1]
    kept = [i for i in range(len(shape)) if i not in looped]
    count = math.prod(shape[i] for i in looped)
    one_hot = jnp.eye(count, dtype=bool).reshape(
        (count, *(n if i in looped else 1 for i, n in enumerate(shape)), *(1,) * parts.event_dim)
    )

    def at(index: Array) -> Array:
        replaced = jnp.where(one_hot[index % count], candidates[index // count].astype(value.dtype), value)
        return outcome(replaced)

    indices = jnp.arange(candidates.shape[0] * count)
    if indices.size <= _BLOCK:
        results = jax.vmap(at)(indices)
    else:
        results = jax.lax.map(at, indices, batch_size=_BLOCK)
    order = looped + kept
    results = results.reshape((candidates.shape[0], *(shape[i] for i in looped), *(reached[i] for i in kept)))
    return jnp.transpose(results, (0, *(1 + order.index(i) for i in range(len(shape)))))
