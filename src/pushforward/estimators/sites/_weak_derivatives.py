"""Weak derivatives by family: dq/dtheta = weight * (law of plus - law of minus), coupled draws of both."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpyro.distributions as dist
from jaxtyping import Array

from ...models._types import Key
from ._elements import Elements


class Branch(NamedTuple):
    """One parameter's share."""

    parameter: Array
    """The live parameter, one entry per element."""
    weight: Array | float
    plus: Array | None
    """Draw of the positive part; None is the site's own draw."""
    minus: Array | None
    """Draw of the negative part; None is the site's own draw."""


def _bernoulli(key: Key, parts: Elements, value: Array) -> list[Branch]:
    p = parts.spread(parts.base.probs)
    drawn = value.astype(p.dtype)
    return [Branch(p, 1.0 - 2.0 * drawn, 1.0 - drawn, None)]


def _categorical(key: Key, parts: Elements, value: Array) -> list[Branch]:
    p = parts.base.probs
    p = p / jnp.sum(p, axis=-1, keepdims=True)
    count = p.shape[-1]
    p = jnp.broadcast_to(p, (*parts.shape, count))
    # The probabilities' derivatives sum to zero, so that the own value may stand for every negative part.
    others = [(value.astype(jnp.int32) + j) % count for j in range(1, count)]
    return [Branch(jnp.take_along_axis(p, other[..., None], axis=-1)[..., 0], 1.0, other, None) for other in others]


def _poisson(key: Key, parts: Elements, value: Array) -> list[Branch]:
    return [Branch(parts.spread(parts.base.rate), 1.0, value + 1, None)]


def _binomial(key: Key, parts: Elements, value: Array) -> list[Branch]:
    p = parts.spread(parts.base.probs)
    count = parts.spread(parts.base.total_count)
    fewer = dist.BinomialProbs(p, jnp.maximum(count - 1, 0)).sample(key)
    return [Branch(p, count.astype(p.dtype), jnp.minimum(fewer + 1, count), fewer)]


def _geometric(key: Key, parts: Elements, value: Array) -> list[Branch]:
    p = parts.spread(parts.base.probs)
    # k p^2 (1 - p)^(k - 1) is the law of one plus the sum of two geometric variables.
    return [Branch(p, 1.0 / p, None, value + dist.GeometricProbs(p).sample(key) + 1)]


def _normal(key: Key, parts: Elements, value: Array) -> list[Branch]:
    loc, scale = parts.spread(parts.base.loc, value.dtype), parts.spread(parts.base.scale, value.dtype)
    key_rayleigh, key_maxwell, key_sign, key_uniform = jax.random.split(key, 4)
    rayleigh = jnp.sqrt(2.0 * jax.random.exponential(key_rayleigh, parts.shape, value.dtype))
    size = jnp.sqrt(2.0 * jax.random.gamma(key_maxwell, jnp.asarray(1.5, value.dtype), parts.shape, value.dtype))
    maxwell = size * jax.random.rademacher(key_sign, parts.shape, value.dtype)
    # A double-sided Maxwell variable times a uniform one is standard normal: that couples the two laws.
    normal = maxwell * jax.random.uniform(key_uniform, parts.shape, value.dtype)
    return [
        Branch(loc, 1.0 / (scale * math.sqrt(2.0 * math.pi)), loc + scale * rayleigh, loc - scale * rayleigh),
        Branch(scale, 1.0 / scale, loc + scale * maxwell, loc + scale * normal),
    ]


def _exponential(key: Key, parts: Elements, value: Array) -> list[Branch]:
    rate = parts.spread(parts.base.rate, value.dtype)
    more = jax.random.exponential(key, parts.shape, value.dtype) / rate
    return [Branch(rate, 1.0 / rate, None, value + more)]


def _gamma(key: Key, parts: Elements, value: Array) -> list[Branch]:
    shape = parts.spread(parts.base.concentration, value.dtype)
    rate = parts.spread(parts.base.rate, value.dtype)
    key_rate, key_shape = jax.random.split(key)
    weight, factor = _shrink(key_shape, shape)
    more = jax.random.exponential(key_rate, parts.shape, value.dtype) / rate
    return [Branch(rate, shape / rate, None, value + more), Branch(shape, weight, None, value * factor)]


def _shrink(key: Key, shape: Array) -> tuple[Array, Array]:
    """Weight c and factor X of a gamma variable G of a given shape: d E[f(G)] / d shape = E[c (f(G) - f(G X))].

    A gamma variable is the product of one of shape a + m and of independent Beta(a + i, 1) variables, i < m, whose
    derivative is (f(X_i) - f(X_i X_i')) / (a + i) with X_i' an independent copy. For m to infinity this is a series,
    of which one term is drawn with probability a / ((a + i)(a + i + 1)).
    """
    key_term, key_factor = jax.random.split(key)
    tiny = jnp.finfo(shape.dtype).tiny
    term = jnp.floor(shape * (1.0 / jax.random.uniform(key_term, shape.shape, shape.dtype, tiny, 1.0) - 1.0))
    factor = jax.random.uniform(key_factor, shape.shape, shape.dtype, tiny, 1.0) ** (1.0 / (shape + term))
    return (shape + term + 1.0) / shape, factor


def _beta(key: Key, parts: Elements, value: Array) -> list[Branch]:
    key_one, key_zero = jax.random.split(key)
    one = parts.spread(parts.base.concentration1, value.dtype)
    zero = parts.spread(parts.base.concentration0, value.dtype)
    weight_one, factor_one = _shrink(key_one, one)
    weight_zero, factor_zero = _shrink(key_zero, zero)
    below = value * factor_one / (value * factor_one + 1.0 - value)
    above = value / (value + (1.0 - value) * factor_zero)
    return [Branch(one, weight_one, None, below), Branch(zero, weight_zero, None, above)]


def _dirichlet(key: Key, parts: Elements, value: Array) -> list[Branch]:
    count = value.shape[-1]
    shape = jnp.broadcast_to(parts.base.concentration, value.shape).astype(value.dtype)
    weight, factor = _shrink(key, shape)
    out = []
    for i in range(count):
        scaled = value.at[..., i].multiply(factor[..., i])
        out.append(Branch(shape[..., i], weight[..., i], None, scaled / jnp.sum(scaled, axis=-1, keepdims=True)))
    return out


def _weibull(key: Key, parts: Elements, value: Array) -> list[Branch]:
    scale = parts.spread(parts.base.scale, value.dtype)
    k = parts.spread(parts.base.concentration, value.dtype)
    key_scale, key_above, key_high, key_below, key_low = jax.random.split(key, 5)
    own = (value / scale) ** k
    longer = scale * (own + jax.random.exponential(key_scale, parts.shape, value.dtype)) ** (1.0 / k)
    # In e = (x / scale)^k the derivative is that of a probability flow e log(e) exp(-e) / k: inwards below e = 1,
    # outwards above, and each side is a mixture of flows that carry mass from one point to another.
    tiny = jnp.finfo(value.dtype).tiny
    far = 1.0 + jax.random.gamma(key_above, jnp.asarray(2.0, value.dtype), parts.shape, value.dtype)
    mid_far = far ** jax.random.uniform(key_high, parts.shape, value.dtype)
    near = 1.0 - jnp.sqrt(jax.random.uniform(key_below, parts.shape, value.dtype))
    near = jnp.maximum(near, tiny)
    mid_near = near ** jax.random.uniform(key_low, parts.shape, value.dtype)
    return [
        Branch(scale, k / scale, longer, None),
        Branch(k, jnp.log(far) * math.exp(-1.0) / k, scale * mid_far ** (1.0 / k), scale * far ** (1.0 / k)),
        Branch(
            k,
            -jnp.log(near) * jnp.exp(-near) * 0.5 / k,
            scale * mid_near ** (1.0 / k),
            scale * near ** (1.0 / k),
        ),
    ]


WEAK_DERIVATIVES: dict[type, Callable[[Key, Elements, Array], list[Branch]]] = {
    dist.BernoulliProbs: _bernoulli,
    dist.BernoulliLogits: _bernoulli,
    dist.CategoricalProbs: _categorical,
    dist.CategoricalLogits: _categorical,
    dist.BinomialProbs: _binomial,
    dist.BinomialLogits: _binomial,
    dist.GeometricProbs: _geometric,
    dist.GeometricLogits: _geometric,
    dist.Poisson: _poisson,
    dist.Normal: _normal,
    dist.Exponential: _exponential,
    dist.Gamma: _gamma,
    dist.Beta: _beta,
    dist.Dirichlet: _dirichlet,
    dist.Weibull: _weibull,
}
"""Families whose weak derivative is known; subclasses are included."""
