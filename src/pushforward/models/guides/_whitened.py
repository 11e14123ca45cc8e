"""A guide optimised in other coordinates."""

from __future__ import annotations

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from .._layout import Layout
from .._target import Target
from .._types import Batch, Key, Position
from ._base import AbstractGuide, AbstractLocationScale


class Whitened(AbstractGuide):
    """The law of ``shift + scale * z`` for z from an inner location-scale guide; shift and scale are constants.

    One step size then suits every coordinate, whatever the units of the model. `unwhiten` gives the same law as a plain
    member of the inner family.
    """

    inner: AbstractLocationScale
    shift: Float[Array, " dim"]
    scale: Float[Array, "..."]
    """Positive vector, or lower-triangular matrix with positive diagonal."""
    layout: Layout

    @property
    def has_density(self) -> bool:  # type: ignore[override]
        """Whether the inner guide has one."""
        return self.inner.has_density

    @property
    def jacobian(self) -> bool:  # type: ignore[override]
        """As the inner guide."""
        return self.inner.jacobian

    @property
    def point(self) -> bool:
        """As the inner guide."""
        return self.inner.point

    def bind(self, target: Target) -> Whitened:
        """See `AbstractGuide.bind`."""
        return self

    def noise(self, key: Key) -> Array:
        """See `AbstractGuide.noise`."""
        return self.inner.noise(key)

    def sample_and_log_prob(self, key: Key, batch: Batch | None = None) -> tuple[Position, Float[Array, ""]]:
        """See `AbstractGuide.sample_and_log_prob`."""
        white, log_q = self.inner.sample_and_log_prob(key, batch)
        shift, scale = jax.lax.stop_gradient((self.shift, self.scale))
        z = self.layout.ravel(white)
        moved = shift + (scale * z if scale.ndim == 1 else scale @ z)
        return self.layout.unravel(moved), log_q - self._log_det()

    def log_prob(self, position: Position, batch: Batch | None = None) -> Float[Array, ""]:
        """See `AbstractGuide.log_prob`."""
        shift, scale = jax.lax.stop_gradient((self.shift, self.scale))
        centred = self.layout.ravel(position) - shift
        white = centred / scale if scale.ndim == 1 else jax.scipy.linalg.solve_triangular(scale, centred, lower=True)
        return self.inner.log_prob(self.layout.unravel(white), batch) - self._log_det()

    def _log_det(self) -> Float[Array, ""]:
        if self.point:
            return jnp.zeros((), self.shift.dtype)
        diagonal = self.scale if self.scale.ndim == 1 else jnp.diagonal(self.scale)
        return jnp.sum(jnp.log(jax.lax.stop_gradient(diagonal)))

    def unwhiten(self) -> AbstractLocationScale:
        """The same law without the change of coordinates."""
        return self.inner.affine(self.shift, self.scale)

    def trainable(self) -> Any:
        """See `AbstractGuide.trainable`: the inner guide only."""
        none = jax.tree.map(lambda _: False, self)
        return eqx.tree_at(lambda g: g.inner, none, self.inner.trainable())
