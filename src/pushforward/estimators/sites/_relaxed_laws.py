"""Discrete distributions as hardened continuous ones: noise, its law given the value, and softened values."""

from __future__ import annotations

import abc
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from ...models._types import Key
from ._family import base_of, is_family, sum_event

BERNOULLI = ("BernoulliProbs", "BernoulliLogits")
CATEGORICAL = ("CategoricalProbs", "CategoricalLogits")
ONE_HOT = ("MultinomialProbs", "MultinomialLogits")


class Relaxed(eqx.Module):
    """A discrete distribution with z = logits + noise behind its value."""

    fn: Any
    logits: Array

    @abc.abstractmethod
    def noisy(self, key: Key, logits: Array) -> Array:
        """A draw of z."""

    @abc.abstractmethod
    def conditional(self, key: Key, logits: Array, value: Array) -> Array:
        """A draw of z given the value, differentiable in the logits."""

    @abc.abstractmethod
    def harden(self, z: Array) -> Array:
        """The value that z stands for."""

    @abc.abstractmethod
    def soften(self, z: Array, temperature: Float[Array, ""]) -> Array:
        """The relaxed value."""

    @abc.abstractmethod
    def log_prob(self, logits: Array, value: Array) -> Array:
        """Log-probability of every element."""

    def entries(self, relaxed_value: Array) -> Array:
        """Relaxed values with the entries of one element on the last axis."""
        return relaxed_value

    def gather(self, terms: Array, like: Array) -> Array:
        """Terms of elements, summed over those that reach the same outcome; ``like`` has the outcome's shape."""
        terms = sum_event(terms, self.fn)
        if terms.ndim > like.ndim:
            terms = jnp.sum(terms, axis=tuple(range(terms.ndim - like.ndim)))
        shared = tuple(i for i in range(-terms.ndim, 0) if like.shape[i] == 1 and terms.shape[i] > 1)
        return jnp.broadcast_to(jnp.sum(terms, axis=shared, keepdims=True), like.shape)


class _Binary(Relaxed):
    def noisy(self, key: Key, logits: Array) -> Array:
        return logits + jax.random.logistic(key, logits.shape, logits.dtype)

    def conditional(self, key: Key, logits: Array, value: Array) -> Array:
        noise = jax.random.logistic(key, logits.shape, logits.dtype)
        # logits + logit of a uniform number restricted to the side that gives the value.
        above = jax.nn.softplus(noise + jax.nn.softplus(logits))
        below = -jax.nn.softplus(noise + jax.nn.softplus(-logits))
        return jnp.where(value > 0, above, below)

    def harden(self, z: Array) -> Array:
        return (z > 0).astype(jnp.result_type(int))

    def soften(self, z: Array, temperature: Float[Array, ""]) -> Array:
        return jax.nn.sigmoid(z / temperature)

    def log_prob(self, logits: Array, value: Array) -> Array:
        return value.astype(logits.dtype) * logits - jax.nn.softplus(logits)

    def entries(self, relaxed_value: Array) -> Array:
        return relaxed_value[..., None]


class _OneHot(Relaxed):
    def noisy(self, key: Key, logits: Array) -> Array:
        return logits + jax.random.gumbel(key, logits.shape, logits.dtype)

    def conditional(self, key: Key, logits: Array, value: Array) -> Array:
        noise = jax.random.exponential(key, logits.shape, logits.dtype)
        chosen = value > 0
        first = jnp.sum(jnp.where(chosen, noise, 0.0), -1, keepdims=True)
        # With exponential clocks of rates p the winner's time is the sum's; the others ring later.
        return -jnp.log(jnp.where(chosen, first, noise * jnp.exp(-logits) + first))

    def harden(self, z: Array) -> Array:
        return jax.nn.one_hot(jnp.argmax(z, -1), z.shape[-1], dtype=jnp.result_type(int))

    def soften(self, z: Array, temperature: Float[Array, ""]) -> Array:
        return jax.nn.softmax(z / temperature, -1)

    def log_prob(self, logits: Array, value: Array) -> Array:
        return jnp.sum(value.astype(logits.dtype) * logits, -1)


class _Index(_OneHot):
    def conditional(self, key: Key, logits: Array, value: Array) -> Array:
        return super().conditional(key, logits, self._one_hot(logits, value))

    def harden(self, z: Array) -> Array:
        return jnp.argmax(z, -1).astype(jnp.result_type(int))

    def log_prob(self, logits: Array, value: Array) -> Array:
        return super().log_prob(logits, self._one_hot(logits, value))

    def _one_hot(self, logits: Array, value: Array) -> Array:
        return jax.nn.one_hot(value, logits.shape[-1], dtype=jnp.result_type(int))


def relaxed(fn: Any) -> Relaxed:
    """The relaxed twin of a Bernoulli, Categorical or one-trial Multinomial distribution."""
    base = base_of(fn)
    if is_family(fn, *BERNOULLI):
        return _Binary(fn, jnp.broadcast_to(base.logits, fn.shape()))
    logits = jax.nn.log_softmax(base.logits, -1)
    if is_family(fn, *ONE_HOT):
        return _OneHot(fn, jnp.broadcast_to(logits, fn.shape()))
    return _Index(fn, jnp.broadcast_to(logits, (*fn.shape(), logits.shape[-1])))
