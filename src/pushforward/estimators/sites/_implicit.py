"""Implicit reparameterisation."""

from __future__ import annotations

from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from jaxtyping import Array

from ...models._types import Key
from ._base import AbstractSiteStrategy, Outcome
from ._family import base_of, is_discrete, is_family, own_cdf, parameter
from ._gamma import log_gamma_variate
from ._von_mises import attach_von_mises


class Implicit(AbstractSiteStrategy):
    """Pathwise gradient with dz/dtheta = -(d F(z; theta)/d theta) / q(z; theta), which needs no inverse of F.

    Gamma, Chi2, InverseGamma, Beta, Dirichlet and StudentT are built from logarithms of gamma variates, von Mises has
    its own rule, distributions that NumPyro reparameterises already keep theirs, and any other univariate one
    needs a ``cdf`` that JAX can differentiate in the parameters (mixtures of such ones too).

    Unbiased for outcomes that are continuous in the value. Finite differences of a draw at a fixed key do not show this
    gradient where draws are made by rejection; it is right in expectation. Von Mises draws live on [-pi, pi] and
    probability never crosses the cut, which costs variance when the mode is near it.

    Reference: Figurnov et al., Implicit reparameterization gradients, arXiv:1805.08498, eq. 5.
    """

    pathwise: ClassVar[bool] = True

    def draw(self, key: Key, fn: Any) -> Array:
        """See `AbstractSiteStrategy.draw`."""
        if is_family(fn, "Gamma"):
            return jnp.exp(log_gamma_variate(key, parameter(fn, "concentration"))) / parameter(fn, "rate")
        if is_family(fn, "InverseGamma"):
            return parameter(fn, "rate") * jnp.exp(-log_gamma_variate(key, parameter(fn, "concentration")))
        if is_family(fn, "Beta"):
            both = jnp.stack([parameter(fn, "concentration1"), parameter(fn, "concentration0")])
            logs = log_gamma_variate(key, both)
            return _inside(jax.nn.sigmoid(logs[0] - logs[1]))
        if is_family(fn, "Dirichlet"):
            return _inside(jax.nn.softmax(log_gamma_variate(key, parameter(fn, "concentration")), axis=-1))
        if is_family(fn, "StudentT"):
            key_normal, key_gamma = jax.random.split(key)
            half = 0.5 * parameter(fn, "df")
            normal = jax.random.normal(key_normal, half.shape, half.dtype)
            spread = jnp.exp(0.5 * (jnp.log(half) - log_gamma_variate(key_gamma, half)))
            return parameter(fn, "loc") + parameter(fn, "scale") * normal * spread
        if is_family(fn, "VonMises"):
            return attach_von_mises(
                jax.lax.stop_gradient(fn.sample(key)), parameter(fn, "loc"), parameter(fn, "concentration")
            )
        if fn.has_rsample:
            return jnp.asarray(fn.rsample(key))
        value = jax.lax.stop_gradient(fn.sample(key))
        base = base_of(fn)
        below = base.cdf(value)
        density = jnp.exp(jax.lax.stop_gradient(base.log_prob(value)))
        return value - (below - jax.lax.stop_gradient(below)) / density

    def surrogate(self, key: Key, fn: Any, value: Array, outcome: Outcome, current: Array) -> Array:
        """Zero: the pathwise part is the whole gradient."""
        return jnp.zeros((), current.dtype)

    def check(self, name: str, fn: Any) -> None:
        """See `AbstractSiteStrategy.check`."""
        family = type(base_of(fn)).__name__
        if is_discrete(fn):
            raise ValueError(
                f"Implicit() at site '{name}': {family} is discrete, so its draws do not move with the parameters. "
                "Expected pf.Enumerate(), pf.MeasureValued(), pf.Relax(...) or pf.Score()."
            )
        known = is_family(fn, "Gamma", "InverseGamma", "Beta", "Dirichlet", "StudentT", "VonMises")
        if not (known or fn.has_rsample or own_cdf(fn)):
            raise ValueError(
                f"Implicit() at site '{name}': {family} is not reparameterised by NumPyro and has no univariate cdf to "
                "differentiate. Expected pf.Score(), or the distribution written as a transform of a reparameterised "
                "one."
            )


def _inside(value: Array) -> Array:
    # Zero and one exactly have no finite log-density.
    limits = jnp.finfo(value.dtype)
    return jnp.clip(value, limits.tiny, 1.0 - limits.eps)
