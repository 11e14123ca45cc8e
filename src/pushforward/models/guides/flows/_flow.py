"""What all flow guides share: a stack of layers on standard normal noise, and an affine map outside."""

from __future__ import annotations

import abc
import functools
from typing import Any, ClassVar, Self

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from ..._layout import Layout
from ..._target import Target
from ..._types import Batch, Key, Position
from .._base import LOG_2PI, AbstractLocationScale, bound, jitter_loc, jitter_log_scale, with_fields
from .._linear import compose, log_det, multiply, multiply_transposed, solve, solve_transposed
from ._bijection import AbstractBijection


class AbstractFlow(AbstractLocationScale):
    """A normalising flow: z = shift + scale * T(eps), with T a stack of invertible layers and eps standard normal.

    Shift and scale are constants: they hold the coordinates in which the layers work (`affine` composes there). The
    layers are drawn by `fresh`, which `pf.fit` calls for every restart; they start as the identity.
    """

    dense: ClassVar[bool] = True
    learning_rate: ClassVar[float] = 1e-3
    patience: ClassVar[int] = 10
    layers: AbstractBijection | None
    shift: Float[Array, " dim"] | None
    scale: Float[Array, "..."] | None
    """Positive vector, or lower-triangular matrix with positive diagonal."""
    layout: Layout | None

    @abc.abstractmethod
    def make(self, key: Key, dim: int, dtype: Any) -> AbstractBijection:
        """The layers at their start, their random weights drawn with ``key``."""

    def _place(self, target: Target | None) -> None:
        """Set the fields that depend on the target (during initialisation)."""
        self.layers = None
        self.layout = None if target is None else Layout.of(target.example)
        self.shift = None if self.layout is None else jnp.zeros((self.layout.dim,), self.layout.dtype)
        self.scale = None if self.shift is None else jnp.ones_like(self.shift)

    def bind(self, target: Target) -> Self:
        """See `AbstractGuide.bind`. Layers are still to be drawn, by `fresh`."""
        layout = Layout.of(target.example)
        shift = jnp.zeros((layout.dim,), layout.dtype)
        return with_fields(self, layers=None, layout=layout, shift=shift, scale=jnp.ones_like(shift))

    def fresh(self, key: Key) -> Self:
        """The flow with newly drawn layers, at the identity."""
        layout = bound(self, self.layout)
        settings = with_fields(self, layers=None, shift=None, scale=None, layout=None)
        return with_fields(self, layers=_make(settings, key, layout.dim, layout.dtype))

    def sample_and_log_prob(self, key: Key, batch: Batch | None = None) -> tuple[Position, Float[Array, ""]]:
        """See `AbstractGuide.sample_and_log_prob`."""
        return self.from_noise(self.noise(key))

    @property
    def noise_dim(self) -> int:
        """See `AbstractLocationScale.noise_dim`."""
        return bound(self, self.layout).dim

    def from_noise(self, eps: Float[Array, " noise"]) -> tuple[Position, Float[Array, ""]]:
        """See `AbstractLocationScale.from_noise`."""
        x, change = self._drawn().forward(eps)
        return self._outwards(x), self._base(eps) - change - self._log_scale()

    def to_noise(self, position: Position) -> Float[Array, " noise"]:
        """See `AbstractLocationScale.to_noise`."""
        return self._drawn().inverse(self._inwards(position))[0]

    def log_prob(self, position: Position, batch: Batch | None = None) -> Float[Array, ""]:
        """See `AbstractGuide.log_prob`. Cost: one pass through the inverses."""
        eps, change = self._drawn().inverse(self._inwards(position))
        return self._base(eps) + change - self._log_scale()

    def sample_and_force(self, key: Key, batch: Batch | None = None) -> tuple[Position, Float[Array, ""], Position]:
        """See `AbstractGuide.sample_and_force`. The force is carried along with the draw, layer by layer: no inverse.

        Reference: Vaitl et al., Fast and unified path gradient estimators, arXiv:2403.15881, section 3.
        """
        eps = self.noise(key)
        x, change, force = self._drawn().forward_with_force(eps, -eps)
        log_q = self._base(eps) - change - self._log_scale()
        return self._outwards(x), log_q, self.layout.unravel(solve_transposed(self.scale, force))

    def forward_path(
        self, position: Position, force: Position, batch: Batch | None = None
    ) -> tuple[Float[Array, " noise"], Float[Array, ""], Float[Array, " noise"]]:
        """See `AbstractGuide.forward_path`: KL(p || q) is the KL of the pulled-back p against the noise.

        One pass through the inverses that carries the force of p along.
        """
        pulled = multiply_transposed(self.scale, self.layout.ravel(force))
        eps, change, pulled = self._drawn().inverse_with_force(self._inwards(position), pulled)
        fixed = jax.lax.stop_gradient(eps)
        return eps, self._base(fixed) + change - self._log_scale(), pulled + fixed

    def affine(self, shift: Float[Array, " dim"], scale: Float[Array, "..."]) -> Self:
        """See `AbstractLocationScale.affine`: composes with the map outside the layers, exactly."""
        return with_fields(
            self, shift=shift + multiply(scale, bound(self, self.shift)), scale=compose(scale, self.scale)
        )

    def standard(self, target: Target) -> Self:
        """See `AbstractLocationScale.standard`: the identity, its layers to be drawn by `fresh`."""
        return self.bind(target)

    def jittered(self, key: Key) -> Self:
        """See `AbstractLocationScale.jittered`. Moves the map outside the layers, in its own units."""
        key_loc, key_scale = jax.random.split(key)
        moved = self.shift + multiply(self.scale, jitter_loc(key_loc, self.shift))
        return with_fields(self, shift=moved, scale=self.scale * jnp.exp(jitter_log_scale(key_scale, self.shift)))

    def trainable(self) -> Any:
        """See `AbstractGuide.trainable`: the layers only."""
        none = jax.tree.map(lambda _: False, self)
        if self.layers is None:
            return none
        return eqx.tree_at(lambda g: g.layers, none, jax.tree.map(eqx.is_inexact_array, self.layers))

    def _drawn(self) -> AbstractBijection:
        bound(self, self.layout)
        if self.layers is None:
            name = type(self).__name__
            raise ValueError(
                f"This {name} has no layers yet: their weights are random and no seed is assumed. Expected "
                f"guide.fresh(key) after binding, e.g. pf.{name}(target).fresh(key); pf.fit draws them by itself."
            )
        return self.layers

    def _base(self, eps: Float[Array, " dim"]) -> Float[Array, ""]:
        return -0.5 * jnp.sum(eps**2) - 0.5 * eps.size * LOG_2PI

    def _log_scale(self) -> Float[Array, ""]:
        return log_det(jax.lax.stop_gradient(self.scale))

    def _outwards(self, x: Float[Array, " dim"]) -> Position:
        shift, scale = jax.lax.stop_gradient((self.shift, self.scale))
        return self.layout.unravel(shift + multiply(scale, x))

    def _inwards(self, position: Position) -> Float[Array, " dim"]:
        shift, scale = jax.lax.stop_gradient((self.shift, self.scale))
        return solve(scale, self.layout.ravel(position) - shift)


@functools.partial(jax.jit, static_argnames=("dim", "dtype"))
def _make(flow: AbstractFlow, key: Key, dim: int, dtype: Any) -> AbstractBijection:
    return flow.make(key, dim, dtype)
