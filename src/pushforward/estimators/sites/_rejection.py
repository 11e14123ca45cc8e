"""Reparameterisation through a rejection sampler."""

from __future__ import annotations

from typing import Any, ClassVar, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from ...models._types import Key
from ._base import AbstractSiteStrategy, Outcome
from ._family import base_of, is_family, parameter, sum_event

_FAMILIES = ("Gamma", "InverseGamma", "Beta", "Dirichlet")


class _Accepted(NamedTuple):
    """Logarithm of a Gamma(a, 1) variate at fixed accepted noise, and the log-density of that noise."""

    log_z: Float[Array, "..."]
    log_density: Float[Array, "..."]
    """log q(h(eps, a); a) + log |dh/deps|, both differentiable in a."""


class Rejection(AbstractSiteStrategy):
    """Gradient through the accepted noise of the Marsaglia-Tsang gamma sampler, plus a score term for its density.

    z = h(eps, a) with h = (a - 1/3) (1 + eps / sqrt(9 a - 3))^3: dE[F]/da = E[F'(z) dh/da] + E[F d log(q(h) |dh/deps|)
    / da]. The accepted noise is nearly standard normal for large a, so the score term is small there; augmentation of
    the shape makes it so everywhere: z of shape a is z of shape a + B times B powers u^(1/(a + i)) of uniform numbers.
    For Gamma, Chi2 and InverseGamma, and for Beta and Dirichlet as ratios of gammas.

    Args:
        augmentation: B, non-negative. With 0 concentrations must be above 1/3, and should be above 1.

    Unbiased for differentiable outcomes. `Implicit` has less variance; this is the estimator to compare it with, and
    the pattern for distributions that only have a rejection sampler.

    Reference: Naesseth et al., Reparameterization gradients through acceptance-rejection sampling algorithms,
    arXiv:1610.05683, eqs. 7 to 9 and section 5.
    """

    pathwise: ClassVar[bool] = True
    augmentation: int = eqx.field(static=True)

    def __init__(self, *, augmentation: int = 1) -> None:
        if isinstance(augmentation, bool) or not isinstance(augmentation, int) or augmentation < 0:
            raise ValueError(f"Rejection(augmentation={augmentation!r}): expected a non-negative integer, e.g. 1.")
        self.augmentation = augmentation

    def draw(self, key: Key, fn: Any) -> Array:
        """See `AbstractSiteStrategy.draw`."""
        log_z = self._accepted(key, fn).log_z
        if is_family(fn, "Gamma"):
            return jnp.exp(log_z) / parameter(fn, "rate")
        if is_family(fn, "InverseGamma"):
            return jnp.exp(-log_z) * parameter(fn, "rate")
        value = jax.nn.sigmoid(log_z[0] - log_z[1]) if is_family(fn, "Beta") else jax.nn.softmax(log_z, axis=-1)
        limits = jnp.finfo(value.dtype)
        return jnp.clip(value, limits.tiny, 1.0 - limits.eps)

    def surrogate(self, key: Key, fn: Any, value: Array, outcome: Outcome, current: Array) -> Array:
        """See `AbstractSiteStrategy.surrogate`: F times the log-density of the accepted noise."""
        log_density = self._accepted(key, fn).log_density
        if is_family(fn, "Beta"):
            log_density = jnp.sum(log_density, 0)
        return jnp.sum(jax.lax.stop_gradient(current) * sum_event(log_density, fn))

    def _accepted(self, key: Key, fn: Any) -> _Accepted:
        if is_family(fn, "Beta"):
            both = jnp.stack([parameter(fn, "concentration1"), parameter(fn, "concentration0")])
            return _accepted_gamma(key, both, self.augmentation)
        return _accepted_gamma(key, parameter(fn, "concentration"), self.augmentation)

    def check(self, name: str, fn: Any) -> None:
        """See `AbstractSiteStrategy.check`."""
        if not is_family(fn, *_FAMILIES):
            raise ValueError(
                f"Rejection() at site '{name}': {type(base_of(fn)).__name__} is not made of gamma variates. "
                f"Expected one of {list(_FAMILIES)} (or Chi2); use pf.Implicit() or pf.Path() for other continuous "
                "distributions, pf.MeasureValued() or pf.Score() for discrete ones."
            )


def _accepted_gamma(key: Key, concentration: Float[Array, "..."], augmentation: int) -> _Accepted:
    key_gamma, key_powers = jax.random.split(key)
    raised = concentration + augmentation
    stopped = jax.lax.stop_gradient(raised)
    # Any exact sampler does: mapped back through h its draws have the law of the accepted noise.
    log_raised = jax.random.loggamma(key_gamma, stopped, stopped.shape, stopped.dtype)
    eps = jnp.sqrt(9.0 * stopped - 3.0) * (jnp.exp((log_raised - jnp.log(stopped - 1.0 / 3.0)) / 3.0) - 1.0)
    eps = jax.lax.stop_gradient(eps)
    slope = jax.lax.rsqrt(9.0 * raised - 3.0)
    log_root = jnp.log1p(eps * slope)
    log_h = jnp.log(raised - 1.0 / 3.0) + 3.0 * log_root
    log_slope = jnp.log(raised - 1.0 / 3.0) + 2.0 * log_root + jnp.log(3.0 * slope)
    log_q = (raised - 1.0) * log_h - jnp.exp(log_h) - jax.lax.lgamma(raised)
    steps = jnp.arange(augmentation, dtype=stopped.dtype).reshape((-1,) + (1,) * stopped.ndim)
    log_u = -jax.random.exponential(key_powers, (augmentation, *stopped.shape), stopped.dtype)
    log_z = log_h + jnp.sum(log_u / (concentration + steps), 0)
    return _Accepted(log_z, log_q + log_slope)
