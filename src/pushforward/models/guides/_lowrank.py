"""Low-rank plus diagonal Gaussian."""

from __future__ import annotations

import math

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from .._layout import Layout
from .._target import Target
from .._types import Batch, Key, Position
from ._base import LOG_2PI, AbstractLocationScale, bound, check_scale, jitter_loc, jitter_log_scale, with_fields


class LowRank(AbstractLocationScale):
    """Gaussian with covariance W W' + diag(exp(2 log_scale)), W of shape (dim, rank).

    Cost: O(dim * rank**2 + rank**3) per log-density, by the Woodbury identity; O(dim * rank) memory.

    Args:
        target: binds the guide at loc 0; None leaves it unbound.
        rank: number of columns of W; None takes ceil(sqrt(dim)).
        init_scale: positive starting standard deviation per unconstrained coordinate.
    """

    loc: Float[Array, " dim"] | None
    log_scale: Float[Array, " dim"] | None
    factor: Float[Array, "dim rank"] | None
    layout: Layout | None
    rank: int | None = eqx.field(static=True)
    init_scale: float = eqx.field(static=True)

    def __init__(self, target: Target | None = None, *, rank: int | None = None, init_scale: float = 0.1) -> None:
        if rank is not None and rank < 1:
            raise ValueError(
                f"LowRank(rank={rank}): expected at least 1, or None for ceil(sqrt(dim)). Rank 0 is MeanField."
            )
        self.rank = rank
        self.init_scale = check_scale(type(self).__name__, init_scale)
        self.layout = None if target is None else Layout.of(target.example)
        if self.layout is None:
            self.loc = self.log_scale = self.factor = None
            return
        dim, dtype = self.layout.dim, self.layout.dtype
        columns = _columns(rank, dim)
        self.loc = jnp.zeros((dim,), dtype)
        self.log_scale = jnp.full((dim,), jnp.log(init_scale), dtype)
        # Distinct small columns: at exactly zero the gradient with respect to W vanishes.
        rows = jnp.arange(dim, dtype=dtype)[:, None] + 0.5
        waves = jnp.cos(jnp.pi / dim * rows * (jnp.arange(columns, dtype=dtype)[None, :] + 1.0))
        self.factor = 0.1 * init_scale * waves / jnp.sqrt(jnp.asarray(columns, dtype))

    def bind(self, target: Target) -> LowRank:
        """See `AbstractGuide.bind`."""
        return LowRank(target, rank=self.rank, init_scale=self.init_scale)

    def covariance(self) -> Float[Array, "dim dim"]:
        """Covariance of the flat position (dense)."""
        factor = bound(self, self.factor)
        return factor @ factor.T + jnp.diag(jnp.exp(2 * self.log_scale))

    def sample_and_log_prob(self, key: Key, batch: Batch | None = None) -> tuple[Position, Float[Array, ""]]:
        """See `AbstractGuide.sample_and_log_prob`."""
        return self.from_noise(self.noise(key))

    @property
    def noise_dim(self) -> int:
        """See `AbstractLocationScale.noise_dim`."""
        dim = bound(self, self.layout).dim
        return dim + _columns(self.rank, dim)

    def from_noise(self, eps: Float[Array, " noise"]) -> tuple[Position, Float[Array, ""]]:
        """See `AbstractLocationScale.from_noise`. The first ``rank`` numbers go through W."""
        loc = bound(self, self.loc)
        rank = self.factor.shape[1]
        centred = self.factor @ eps[:rank] + jnp.exp(self.log_scale) * eps[rank:]
        return self.layout.unravel(loc + centred), self._log_prob_centred(centred)

    def log_prob(self, position: Position, batch: Batch | None = None) -> Float[Array, ""]:
        """See `AbstractGuide.log_prob`."""
        return self._log_prob_centred(self.layout.ravel(position) - bound(self, self.loc))

    def _log_prob_centred(self, centred: Float[Array, " dim"]) -> Float[Array, ""]:
        white = centred * jnp.exp(-self.log_scale)
        scaled, cholesky = self._capacitance()
        projected = jax.scipy.linalg.solve_triangular(cholesky, scaled.T @ white, lower=True)
        mahalanobis = jnp.sum(white**2) - jnp.sum(projected**2)
        half_log_det = jnp.sum(self.log_scale) + jnp.sum(jnp.log(jnp.diagonal(cholesky)))
        return -0.5 * mahalanobis - half_log_det - 0.5 * centred.size * LOG_2PI

    def _capacitance(self) -> tuple[Float[Array, "dim rank"], Float[Array, "rank rank"]]:
        """W in units of the diagonal scales, and the Cholesky factor of I + W'W."""
        scaled = bound(self, self.factor) * jnp.exp(-self.log_scale)[:, None]
        return scaled, jnp.linalg.cholesky(jnp.eye(scaled.shape[1], dtype=scaled.dtype) + scaled.T @ scaled)

    def entropy(self) -> Float[Array, ""]:
        """See `AbstractGuide.entropy`."""
        _, cholesky = self._capacitance()
        half_log_det = jnp.sum(self.log_scale) + jnp.sum(jnp.log(jnp.diagonal(cholesky)))
        return half_log_det + 0.5 * self.log_scale.size * (1.0 + LOG_2PI)

    def affine(self, shift: Float[Array, " dim"], scale: Float[Array, " dim"]) -> LowRank:
        """See `AbstractLocationScale.affine`."""
        return with_fields(
            self,
            loc=shift + scale * self.loc,
            log_scale=self.log_scale + jnp.log(scale),
            factor=self.factor * scale[:, None],
        )

    def standard(self, target: Target) -> LowRank:
        """See `AbstractLocationScale.standard`."""
        return LowRank(target, rank=self.rank, init_scale=1.0)

    def jittered(self, key: Key) -> LowRank:
        """See `AbstractLocationScale.jittered`."""
        key_loc, key_scale = jax.random.split(key)
        return with_fields(
            self,
            loc=self.loc + jitter_loc(key_loc, self.loc),
            log_scale=self.log_scale + jitter_log_scale(key_scale, self.loc),
        )


def _columns(rank: int | None, dim: int) -> int:
    return min(rank if rank is not None else math.isqrt(dim - 1) + 1, dim)
