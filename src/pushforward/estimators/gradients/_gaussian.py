"""Gaussian guides seen as loc + C eps in their own coordinates: what `Price` and `AffineControl` work on."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from ...models import Target
from ...models._types import Batch, Key
from ...models.guides import AbstractGuide, AbstractLocationScale, FullRank, LowRank, MeanField, Whitened
from ..objectives import AbstractObjective
from ._base import Parameters, join, particle_keys, split
from ._quasi import is_mean

_SIDE_BY_SIDE = 64
"""Hessian-vector products evaluated at once."""


class Draws(NamedTuple):
    """K draws, and the mean of log p as a function of a common shift of them."""

    loc: Float[Array, " dim"]
    """Location in the guide's own coordinates."""
    x: Float[Array, "k dim"]
    """Draws in these coordinates, constants."""
    noise: Float[Array, "k noise"]
    log_q: Float[Array, " k"]
    """Log-density of the draws as positions."""
    log_p: Callable[[Float[Array, " dim"], Any], Float[Array, ""]]
    """Of one point, and of the model's learnable parameters."""


def inner_of(guide: AbstractGuide) -> Any:
    """The Gaussian itself, where it is optimised in whitened coordinates."""
    return guide.inner if isinstance(guide, Whitened) else guide


def check_gaussian(name: str, objective: AbstractObjective, guide: AbstractGuide) -> None:
    """Refuse what is not the ELBO of a Gaussian."""
    if not is_mean(objective):
        raise ValueError(
            f"{name} differentiates an expectation of log p under a Gaussian: expected pf.ELBO(), got "
            f"{objective.label}(), which is not linear in the log-weights. Use pf.Path()."
        )
    if not isinstance(inner_of(guide), MeanField | FullRank | LowRank):
        raise ValueError(
            f"{name} holds for Gaussian guides: expected pf.MeanField, pf.FullRank or pf.LowRank, got "
            f"{type(inner_of(guide)).__name__}. Use pf.Path() or pf.Reparam()."
        )


def gaussian_draws(key: Key, target: Target, guide: AbstractGuide, num_particles: int, batch: Batch | None) -> Draws:
    """Draw from a Gaussian guide."""
    inner = jax.lax.stop_gradient(inner_of(guide))
    noise = jax.vmap(guide.noise)(particle_keys(key, num_particles))
    x = jax.vmap(lambda eps: inner.layout.ravel(inner.from_noise(eps)[0]))(noise)
    log_q = jax.vmap(lambda eps: jax.lax.stop_gradient(guide).sample_and_log_prob(eps, batch)[1])(noise)

    def log_p(x: Array, model: Any) -> Array:
        moved, z = target.with_params(model) if model else target, x
        if isinstance(guide, Whitened):
            shift, scale = jax.lax.stop_gradient((guide.shift, guide.scale))
            z = shift + (scale * x if scale.ndim == 1 else scale @ x)
        return moved.logdensity(inner.layout.unravel(z), batch, jacobian=guide.jacobian)

    return Draws(inner.loc, x, noise, log_q, log_p)


def along(function: Callable[[Array], Array], point: Array, directions: Float[Array, "n dim"]) -> Float[Array, "n dim"]:
    """Hessian of ``function`` at ``point`` times each direction, as rows."""
    gradient = jax.grad(function)

    def product(direction: Array) -> Array:
        return jax.jvp(gradient, (point,), (direction,))[1]

    return jax.lax.map(product, directions, batch_size=_SIDE_BY_SIDE)


def pull_back(
    target: Target, guide: AbstractGuide, surrogate: Callable[[AbstractLocationScale], Array], model: Any
) -> Parameters:
    """Gradient of minus a function of the (inner) guide's parameters, next to minus a model gradient."""
    parameters, static = split(target, guide)

    def loss(learned: Any) -> Array:
        return -surrogate(inner_of(join(parameters._replace(guide=learned), target, static)[1]))

    return Parameters(jax.grad(loss)(parameters.guide), jax.tree.map(jnp.negative, model))
