"""Full-rank Gaussian."""

from __future__ import annotations

from typing import ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp
from jax.scipy.linalg import solve_triangular
from jaxtyping import Array, Float

from .._layout import Layout
from .._target import Target
from .._types import Batch, Key, Position
from ._base import LOG_2PI, AbstractLocationScale, bound, check_scale, jitter_loc, jitter_log_scale, with_fields


class FullRank(AbstractLocationScale):
    """Gaussian with a dense covariance: z = loc + L eps, L lower triangular with positive diagonal exp(diag(raw)).

    Cost: O(dim**2) per draw and memory. Exact for Gaussian posteriors.

    Args:
        target: binds the guide at loc 0; None leaves it unbound.
        init_scale: positive starting standard deviation per unconstrained coordinate.
    """

    dense: ClassVar[bool] = True
    loc: Float[Array, " dim"] | None
    raw: Float[Array, "dim dim"] | None
    """Strict lower triangle: that of L. Diagonal: logarithm of that of L. The rest is not used."""
    layout: Layout | None
    init_scale: float = eqx.field(static=True)

    def __init__(self, target: Target | None = None, *, init_scale: float = 0.1) -> None:
        self.init_scale = check_scale(type(self).__name__, init_scale)
        self.layout = None if target is None else Layout.of(target.example)
        self.loc = None if self.layout is None else jnp.zeros((self.layout.dim,), self.layout.dtype)
        self.raw = None if self.loc is None else jnp.diag(jnp.full_like(self.loc, jnp.log(init_scale)))

    def bind(self, target: Target) -> FullRank:
        """See `AbstractGuide.bind`."""
        return FullRank(target, init_scale=self.init_scale)

    def cholesky(self) -> Float[Array, "dim dim"]:
        """The factor L of the covariance L L'."""
        raw = bound(self, self.raw)
        return jnp.tril(raw, -1) + jnp.diag(jnp.exp(jnp.diagonal(raw)))

    def covariance(self) -> Float[Array, "dim dim"]:
        """Covariance of the flat position."""
        factor = self.cholesky()
        return factor @ factor.T

    def sample_and_log_prob(self, key: Key, batch: Batch | None = None) -> tuple[Position, Float[Array, ""]]:
        """See `AbstractGuide.sample_and_log_prob`."""
        return self.from_noise(self.noise(key))

    @property
    def noise_dim(self) -> int:
        """See `AbstractLocationScale.noise_dim`."""
        return bound(self, self.layout).dim

    def from_noise(self, eps: Float[Array, " noise"]) -> tuple[Position, Float[Array, ""]]:
        """See `AbstractLocationScale.from_noise`."""
        z = bound(self, self.loc) + self.cholesky() @ eps
        return self.layout.unravel(z), jnp.sum(-0.5 * eps**2 - jnp.diagonal(self.raw) - 0.5 * LOG_2PI)

    def sample_and_force(self, key: Key, batch: Batch | None = None) -> tuple[Position, Float[Array, ""], Position]:
        """See `AbstractGuide.sample_and_force`: one triangular solve of the noise."""
        eps = self.noise(key)
        position, log_q = self.from_noise(eps)
        force = jax.lax.stop_gradient(-solve_triangular(self.cholesky(), eps, trans=1, lower=True))
        return position, log_q, self.layout.unravel(force)

    def to_noise(self, position: Position) -> Float[Array, " noise"]:
        """See `AbstractLocationScale.to_noise`."""
        centred = self.layout.ravel(position) - bound(self, self.loc)
        return solve_triangular(self.cholesky(), centred, lower=True)

    def log_prob(self, position: Position, batch: Batch | None = None) -> Float[Array, ""]:
        """See `AbstractGuide.log_prob`."""
        eps = self.to_noise(position)
        return jnp.sum(-0.5 * eps**2 - jnp.diagonal(self.raw) - 0.5 * LOG_2PI)

    def entropy(self) -> Float[Array, ""]:
        """See `AbstractGuide.entropy`."""
        return jnp.sum(jnp.diagonal(bound(self, self.raw)) + 0.5 * (1.0 + LOG_2PI))

    def affine(self, shift: Float[Array, " dim"], scale: Float[Array, "..."]) -> FullRank:
        """See `AbstractLocationScale.affine`. ``scale`` may be a lower-triangular matrix."""
        matrix = jnp.diag(scale) if scale.ndim == 1 else scale
        return from_cholesky(self, shift + matrix @ self.loc, matrix @ self.cholesky())

    def standard(self, target: Target) -> FullRank:
        """See `AbstractLocationScale.standard`."""
        return FullRank(target, init_scale=1.0)

    def jittered(self, key: Key) -> FullRank:
        """See `AbstractLocationScale.jittered`."""
        key_loc, key_scale = jax.random.split(key)
        return with_fields(
            self,
            loc=self.loc + jitter_loc(key_loc, self.loc),
            raw=self.raw + jnp.diag(jitter_log_scale(key_scale, self.loc)),
        )


def from_cholesky(guide: FullRank, loc: Float[Array, " dim"], cholesky: Float[Array, "dim dim"]) -> FullRank:
    """The member of the family with this location and Cholesky factor (positive diagonal)."""
    return with_fields(guide, loc=loc, raw=jnp.tril(cholesky, -1) + jnp.diag(jnp.log(jnp.diagonal(cholesky))))
