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
from ._linear import log_det, multiply, multiply_transposed, solve, solve_transposed


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

    @property
    def learning_rate(self) -> float:  # type: ignore[override]
        """As the inner guide."""
        return self.inner.learning_rate

    @property
    def patience(self) -> int:  # type: ignore[override]
        """As the inner guide."""
        return self.inner.patience

    def bind(self, target: Target) -> Whitened:
        """See `AbstractGuide.bind`."""
        return self

    def noise(self, key: Key) -> Array:
        """See `AbstractGuide.noise`."""
        return self.inner.noise(key)

    def sample_and_log_prob(self, key: Key, batch: Batch | None = None) -> tuple[Position, Float[Array, ""]]:
        """See `AbstractGuide.sample_and_log_prob`."""
        white, log_q = self.inner.sample_and_log_prob(key, batch)
        return self._outwards(white), log_q - self._log_det()

    def sample_and_force(self, key: Key, batch: Batch | None = None) -> tuple[Position, Float[Array, ""], Position]:
        """See `AbstractGuide.sample_and_force`: that of the inner guide, mapped."""
        white, log_q, force = self.inner.sample_and_force(key, batch)
        pushed = solve_transposed(jax.lax.stop_gradient(self.scale), self.layout.ravel(force))
        return self._outwards(white), log_q - self._log_det(), self.layout.unravel(pushed)

    def forward_path(
        self, position: Position, force: Position, batch: Batch | None = None
    ) -> tuple[Any, Float[Array, ""], Any]:
        """See `AbstractGuide.forward_path`: that of the inner guide, at the mapped draw."""
        pulled = multiply_transposed(jax.lax.stop_gradient(self.scale), self.layout.ravel(force))
        point, log_q, pull = self.inner.forward_path(self._inwards(position), self.layout.unravel(pulled), batch)
        return point, log_q - self._log_det(), pull

    def log_prob(self, position: Position, batch: Batch | None = None) -> Float[Array, ""]:
        """See `AbstractGuide.log_prob`."""
        return self.inner.log_prob(self._inwards(position), batch) - self._log_det()

    def entropy(self) -> Float[Array, ""] | None:
        """See `AbstractGuide.entropy`."""
        inner = self.inner.entropy()
        return None if inner is None else inner + self._log_det()

    def _outwards(self, white: Position) -> Position:
        shift, scale = jax.lax.stop_gradient((self.shift, self.scale))
        return self.layout.unravel(shift + multiply(scale, self.layout.ravel(white)))

    def _inwards(self, position: Position) -> Position:
        shift, scale = jax.lax.stop_gradient((self.shift, self.scale))
        return self.layout.unravel(solve(scale, self.layout.ravel(position) - shift))

    def _log_det(self) -> Float[Array, ""]:
        if self.point:
            return jnp.zeros((), self.shift.dtype)
        return log_det(jax.lax.stop_gradient(self.scale))

    def unwhiten(self) -> AbstractLocationScale:
        """The same law without the change of coordinates."""
        return self.inner.affine(self.shift, self.scale)

    def trainable(self) -> Any:
        """See `AbstractGuide.trainable`: the inner guide only."""
        none = jax.tree.map(lambda _: False, self)
        return eqx.tree_at(lambda g: g.inner, none, self.inner.trainable())
