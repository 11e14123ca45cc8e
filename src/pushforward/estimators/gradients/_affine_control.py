"""Affine control variates for Gaussian guides."""

from __future__ import annotations

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from ...models import Target
from ...models._types import Batch, Key
from ...models.guides import AbstractGuide, LowRank
from ..objectives import AbstractObjective
from ._base import AbstractGradient, Estimate, Parameters, estimate, split
from ._gaussian import Draws, along, check_gaussian, gaussian_draws, inner_of, pull_back

_LEAST = 4


class AffineControl(AbstractGradient):
    """Pathwise gradient with an affine function of the noise taken from the force grad log p, and its mean put back.

    With z = m + C eps and control a_k + B_k eps: mean_k (dz_k/dphi)' (grad log p(z_k) - a_k - B_k eps_k) +
    mean_k E[(dz/dphi)' (a_k + B_k eps)], the last term in closed form: a_k against dm/dphi and B_k against dC/dphi; and
    the exact gradient of the entropy. Where log p is quadratic nothing random is left.

    Args:
        kind: ``"taylor"``: a and B C^-1 are gradient and Hessian of log p at m, times one number per draw fitted by
            least squares to the *other* draws (1 for a single draw). ``"regression"``: a and a diagonal B fitted to the
            other draws, coordinate by coordinate; needs four draws and no Hessian, for `MeanField` and `FullRank`.

    Unbiased: what is taken from draw k does not depend on it. For the ELBO of Gaussian guides. Cost: as `Reparam` with
    closed entropy; ``"taylor"`` adds one Hessian per step, shared by all draws.

    Reference: Miller et al., Reducing reparameterization gradient variance, arXiv:1705.07880, sections 3 and 4; Geffner
    and Domke, arXiv:1810.12482.
    """

    kind: str = eqx.field(static=True)

    def __init__(self, kind: str = "taylor") -> None:
        if kind not in ("taylor", "regression"):
            raise ValueError(f"AffineControl({kind!r}): expected 'taylor' or 'regression'.")
        self.kind = kind

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
        self.check(objective, target, guide, num_particles)
        draws = gaussian_draws(key, target, guide, num_particles, batch)
        model = split(target, guide)[0].model

        def total(x: Float[Array, "k dim"], model: object) -> tuple[Array, Array]:
            log_p = jax.vmap(lambda point: draws.log_p(point, model))(x)
            return jnp.sum(log_p), log_p

        (force, model_slope), log_p = jax.grad(total, argnums=(0, 1), has_aux=True)(draws.x, model)
        if self.kind == "taylor":
            rest, constant, linear = self._taylor(draws, force, guide, model)
        else:
            rest, constant, linear = _regression(draws, force)

        def surrogate(guide: AbstractGuide) -> Array:
            own = inner_of(guide)
            x = jax.vmap(lambda eps: own.layout.ravel(own.from_noise(eps)[0]))(draws.noise)
            mean = jnp.vdot(constant, own.loc) + jnp.vdot(linear, _columns(own))
            return jnp.sum(rest * x) / num_particles + mean + own.entropy()

        weights = log_p - draws.log_q
        model_slope = jax.tree.map(lambda g: g / num_particles, model_slope)
        return estimate(objective, weights), pull_back(target, guide, surrogate, model_slope)

    def _taylor(
        self, draws: Draws, force: Float[Array, "k dim"], guide: AbstractGuide, model: object
    ) -> tuple[Array, Array, Array]:
        """What is left of the force, and the mean of the constant and the linear part that were taken away."""
        columns = _columns(jax.lax.stop_gradient(inner_of(guide)))
        constant = jax.grad(draws.log_p)(draws.loc, model)
        linear = along(lambda x: draws.log_p(x, model), draws.loc, columns)
        moving = draws.noise @ linear
        count = force.shape[0]
        fitted = jnp.ones((count,), force.dtype)
        if count > 1:
            # Least squares through the constant part, over the other draws.
            products = jnp.sum((force - constant) * moving, 1)
            squares = jnp.sum(moving**2, 1)
            others = jnp.sum(squares) - squares
            fitted = jnp.where(others > 0, (jnp.sum(products) - products) / jnp.where(others > 0, others, 1.0), 1.0)
        return force - constant - fitted[:, None] * moving, constant, jnp.mean(fitted) * linear

    def check(self, objective: AbstractObjective, target: Target, guide: AbstractGuide, num_particles: int) -> None:
        """See `AbstractGradient.check`."""
        name = f"AffineControl({self.kind!r})"
        check_gaussian(name, objective, guide)
        if self.kind == "regression" and (num_particles < _LEAST or isinstance(inner_of(guide), LowRank)):
            raise ValueError(
                f"{name} fits two numbers per coordinate to the other draws, one noise number per coordinate: expected "
                f"pf.MeanField or pf.FullRank and num_particles >= {_LEAST}, got {type(inner_of(guide)).__name__} and "
                f"num_particles={num_particles}. Use pf.AffineControl('taylor')."
            )


def _columns(inner: AbstractGuide) -> Float[Array, "noise dim"]:
    """The columns of C, as rows: what unit noise does to the position."""

    def point(eps: Array) -> Array:
        return inner.layout.ravel(inner.from_noise(eps)[0])  # type: ignore[attr-defined]

    count = inner.noise_dim  # type: ignore[attr-defined]
    origin = inner.loc  # type: ignore[attr-defined]
    return jax.vmap(point)(jnp.eye(count, dtype=origin.dtype)) - origin


def _regression(draws: Draws, force: Float[Array, "k dim"]) -> tuple[Array, Array, Array]:
    """As ``_taylor``, with intercept and slope of each force coordinate on its own noise over the other draws."""
    count, eps = force.shape[0], draws.noise
    others = count - 1.0
    mean_eps = (jnp.sum(eps, 0) - eps) / others
    mean_force = (jnp.sum(force, 0) - force) / others
    square = (jnp.sum(eps**2, 0) - eps**2) / others - mean_eps**2
    product = (jnp.sum(eps * force, 0) - eps * force) / others - mean_eps * mean_force
    slope = product / square
    constant = mean_force - slope * mean_eps
    return force - constant - slope * eps, jnp.mean(constant, 0), jnp.diag(jnp.mean(slope, 0))
