"""Price's gradient: Hessians instead of noise for the scales of Gaussian guides."""

from __future__ import annotations

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from ...models import Target
from ...models._types import Batch, Key
from ...models.guides import AbstractGuide, MeanField
from ..objectives import AbstractObjective
from ._base import AbstractGradient, Estimate, Parameters, estimate, split
from ._gaussian import along, check_gaussian, gaussian_draws, inner_of, pull_back


class Price(AbstractGradient):
    """For q = N(m, S): dE_q[f]/dm = E[grad f] (Bonnet) and dE_q[f]/dS = E[Hess f] / 2 (Price), plus the exact entropy.

    The gradient of the covariance has no noise at all where log p is quadratic, while that of `Reparam` and `Path` then
    grows with the dimension. It is mapped to the guide's own parameters; a mean-field guide needs the Hessian's
    diagonal only.

    Args:
        path: subtract a multiple of grad log q, which has mean zero, from grad f: the gradient of the location then
            vanishes draw by draw where q equals the posterior, as that of `Path` does. The multiple is fitted to the
            other draws (it is 1 with fewer than three draws, which costs variance where q is much too narrow).

    Unbiased where log p is twice differentiable with a continuous gradient. Kinks (absolute values, rectified units)
    hide curvature from the Hessian and bias it; that cannot be seen from here. For the ELBO of Gaussian guides.
    Cost: dim Hessian-vector products per particle, dim**2 memory (dim for `MeanField`).

    Reference: Opper and Archambeau, The variational Gaussian approximation revisited, 2009; Rezende et al.,
    arXiv:1401.4082, eqs. 7 and 8.
    """

    path: bool = eqx.field(static=True)

    def __init__(self, *, path: bool = True) -> None:
        self.path = path

    def value_and_grad(
        self,
        key: Key,
        objective: AbstractObjective,
        target: Target,
        guide: AbstractGuide,
        num_particles: int,
        batch: Batch | None = None,
    ) -> tuple[Estimate, Parameters]:
        """See `AbstractGradient.value_and_grad`."""
        check_gaussian("Price()", objective, guide)
        draws = gaussian_draws(key, target, guide, num_particles, batch)
        model = split(target, guide)[0].model

        def total(x: Float[Array, "k dim"], model: object) -> tuple[Array, Array]:
            log_p = jax.vmap(lambda point: draws.log_p(point, model))(x)
            return jnp.sum(log_p), log_p

        def mean_log_p(loc: Float[Array, " dim"]) -> Array:
            return total(draws.x + (loc - draws.loc), model)[0] / num_particles

        (force, model_slope), log_p = jax.grad(total, argnums=(0, 1), has_aux=True)(draws.x, model)
        rows = along(mean_log_p, draws.loc, jnp.eye(draws.loc.size, dtype=draws.loc.dtype))
        inner = inner_of(guide)
        if self.path:
            stopped = jax.lax.stop_gradient(inner)
            score = jax.vmap(jax.grad(lambda x: stopped.log_prob(stopped.layout.unravel(x))))(draws.x)
            force = force - _fitted(force, score)[:, None] * score
        slope = jnp.mean(force, 0)

        def surrogate(guide: AbstractGuide) -> Array:
            own = inner_of(guide)
            if isinstance(own, MeanField) and own.log_scale is not None:
                curved = jnp.vdot(jnp.diagonal(rows), jnp.exp(2 * own.log_scale))
            else:
                curved = jnp.vdot(rows, own.covariance())
            return jnp.vdot(slope, own.loc) + 0.5 * curved + own.entropy()

        model_slope = jax.tree.map(lambda g: g / num_particles, model_slope)
        weights = log_p - draws.log_q
        return estimate(objective, weights), pull_back(target, guide, surrogate, model_slope)

    def check(self, objective: AbstractObjective, target: Target, guide: AbstractGuide, num_particles: int) -> None:
        """See `AbstractGradient.check`."""
        check_gaussian("Price()", objective, guide)


def _fitted(force: Float[Array, "k dim"], score: Float[Array, "k dim"]) -> Float[Array, " k"]:
    """Per draw, the multiple of the score that fits the force best over the other draws, both about their means."""
    count = force.shape[0]
    if count < 3:
        return jnp.ones((count,), force.dtype)
    others = jnp.asarray(count - 1, force.dtype)

    def without(terms: Array) -> Array:
        return (jnp.sum(terms, 0) - terms) / others

    def covariance(a: Array, b: Array) -> Array:
        return without(jnp.sum(a * b, 1)) - jnp.sum(without(a) * without(b), 1)

    return covariance(force, score) / covariance(score, score)
