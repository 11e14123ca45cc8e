"""Normalised distributions that a sequential sampler can start from."""

from __future__ import annotations

import abc
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from ...models import Target
from ...models._layout import Layout
from ...models._types import Key
from ...models.guides import AbstractGuide
from .._ensemble import particle_keys

DEFAULT_SCALE = 3.0


class AbstractStart(eqx.Module):
    """A distribution on unconstrained space with draws and a normalised density."""

    @abc.abstractmethod
    def draw(self, key: Key, count: int) -> Float[Array, "count d"]:
        """Independent draws; draw i uses ``fold_in(key, i)``. Not traceable for programs that run on the host."""

    @abc.abstractmethod
    def log_prob(self, x: Float[Array, " d"]) -> Float[Array, ""]:
        """Log-density at a flat position."""


class Wide(AbstractStart):
    """Independent centred Gaussians of one standard deviation, where there is no prior to draw from."""

    scale: Array
    layout: Layout

    def draw(self, key: Key, count: int) -> Float[Array, "count d"]:
        """See `AbstractStart.draw`."""
        dim, dtype = self.layout.dim, self.layout.dtype
        normal = jax.vmap(lambda k: jax.random.normal(k, (dim,), dtype))(particle_keys(key, count))
        return self.scale.astype(dtype) * normal

    def log_prob(self, x: Float[Array, " d"]) -> Float[Array, ""]:
        """See `AbstractStart.log_prob`."""
        scale = self.scale.astype(x.dtype)
        return jnp.sum(jax.scipy.stats.norm.logpdf(x, jnp.zeros((), x.dtype), scale))


class Guided(AbstractStart):
    """A fitted guide."""

    guide: AbstractGuide
    layout: Layout

    def draw(self, key: Key, count: int) -> Float[Array, "count d"]:
        """See `AbstractStart.draw`."""
        return _guide_draws(self.guide, self.layout, particle_keys(key, count))

    def log_prob(self, x: Float[Array, " d"]) -> Float[Array, ""]:
        """See `AbstractStart.log_prob`."""
        return self.guide.log_prob(self.layout.unravel(x)).astype(x.dtype)


class Prior(AbstractStart):
    """The prior of a program; tempering then raises the likelihood alone."""

    target: Target
    layout: Layout

    def draw(self, key: Key, count: int) -> Float[Array, "count d"]:
        """See `AbstractStart.draw`."""
        keys = particle_keys(key, count)
        if self.target.program.traceable_simulation:
            return _prior_draws(self.target, self.layout, keys)
        drawn = [self._position(self.target.prior(k)) for k in keys]
        return jnp.stack(drawn)

    def log_prob(self, x: Float[Array, " d"]) -> Float[Array, ""]:
        """See `AbstractStart.log_prob`."""
        position = self.layout.unravel(x)
        if self.target.program.enumerated:
            data = {s.name: 0.0 for s in self.target.program.sites if s.kind in ("observed", "factor")}
            return Target(self.target.program).scaled(data).logdensity(position)
        evaluation = self.target.program.evaluate(position)
        total = jnp.zeros((), x.dtype)
        for site in self.target.program.latents:
            # Without the program's scales (`handlers.scale`): draws know nothing of them.
            total = total + jnp.sum(evaluation.terms[site.name].log_prob)
        for log_det in evaluation.log_dets.values():
            total = total + log_det
        return total

    def _position(self, values: dict[str, Any]) -> Float[Array, " d"]:
        latent = {site.name: jnp.asarray(values[site.name]) for site in self.target.program.latents}
        return self.layout.ravel(self.target.program.invert(latent)[0])


def resolve_start(start: Any, target: Target) -> AbstractStart:
    """A starting distribution from None, a number, a guide or a result with a guide.

    Raises:
        ValueError: if it is none of these, or the guide has no density or another structure.
    """
    layout = Layout.of(target.example)
    if start is None:
        return Prior(target, layout) if _has_prior(target) else Wide(jnp.asarray(DEFAULT_SCALE), layout)
    if isinstance(start, AbstractStart):
        return start
    guide = getattr(start, "guide", None) or start
    if isinstance(guide, AbstractGuide):
        if not guide.has_density:
            raise ValueError(
                f"start={type(guide).__name__} is a point mass: expected a distribution, such as a fitted pf.FullRank."
            )
        drawn = jax.eval_shape(lambda k: guide.sample_and_log_prob(k)[0], jax.random.key(0))
        if jax.tree.map(jnp.shape, drawn) != jax.tree.map(jnp.shape, target.example):
            raise ValueError(
                f"start={type(guide).__name__} draws positions of shapes {jax.tree.map(jnp.shape, drawn)}: expected "
                f"those of the target, {jax.tree.map(jnp.shape, target.example)}, from a guide fitted to it."
            )
        return Guided(guide, layout)
    if isinstance(start, int | float | np.number) and not isinstance(start, bool) and start > 0:
        return Wide(jnp.asarray(float(start)), layout)
    raise ValueError(
        f"start={start!r}: expected None (the prior of the program), a fitted guide or the result of pf.fit, or a "
        "positive number, the standard deviation of a Gaussian around zero on unconstrained space."
    )


def _has_prior(target: Target) -> bool:
    """Whether every site can be drawn: no plain density, no improper site."""
    try:
        if target.program.traceable_simulation:
            jax.eval_shape(target.prior, jax.random.key(0))
        else:
            target.prior(jax.random.key(0))
    except ValueError:
        return False
    return True


@jax.jit
def _prior_draws(target: Target, layout: Layout, keys: Key) -> Float[Array, "count d"]:
    return jax.vmap(lambda k: Prior(target, layout)._position(target.prior(k)))(keys)


@jax.jit
def _guide_draws(guide: AbstractGuide, layout: Layout, keys: Key) -> Float[Array, "count d"]:
    return jax.vmap(lambda k: layout.ravel(guide.sample_and_log_prob(k)[0]))(keys)
