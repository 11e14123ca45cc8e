"""Mean-field Gaussian."""

from __future__ import annotations

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from .._layout import Layout
from .._target import Target
from .._types import Batch, Key, Position
from ._base import LOG_2PI, AbstractLocationScale, bound, check_scale, jitter_loc, jitter_log_scale, with_fields


class MeanField(AbstractLocationScale):
    """Independent Gaussians on unconstrained space: z = loc + exp(log_scale) * eps.

    Cost: O(dim) per draw. Bias: none as a density; as an approximation it misses correlations, and under KL(q || p) its
    standard deviations are those of the conditionals, too small where the posterior is correlated.

    Args:
        target: binds the guide at loc 0; None leaves it unbound.
        init_scale: positive starting standard deviation per unconstrained coordinate.

    Raises:
        ValueError: if ``init_scale`` is not positive.
    """

    loc: Float[Array, " dim"] | None
    log_scale: Float[Array, " dim"] | None
    layout: Layout | None
    init_scale: float = eqx.field(static=True)

    def __init__(self, target: Target | None = None, *, init_scale: float = 0.1) -> None:
        self.init_scale = check_scale(type(self).__name__, init_scale)
        self.layout = None if target is None else Layout.of(target.example)
        self.loc = None if self.layout is None else jnp.zeros((self.layout.dim,), self.layout.dtype)
        self.log_scale = None if self.loc is None else jnp.full_like(self.loc, jnp.log(init_scale))

    def bind(self, target: Target) -> MeanField:
        """See `AbstractGuide.bind`."""
        return MeanField(target, init_scale=self.init_scale)

    def sample_and_log_prob(self, key: Key, batch: Batch | None = None) -> tuple[Position, Float[Array, ""]]:
        """See `AbstractGuide.sample_and_log_prob`."""
        return self.from_noise(self.noise(key))

    @property
    def noise_dim(self) -> int:
        """See `AbstractLocationScale.noise_dim`."""
        return bound(self, self.layout).dim

    def from_noise(self, eps: Float[Array, " noise"]) -> tuple[Position, Float[Array, ""]]:
        """See `AbstractLocationScale.from_noise`."""
        z = bound(self, self.loc) + jnp.exp(self.log_scale) * eps
        return self.layout.unravel(z), jnp.sum(-0.5 * eps**2 - self.log_scale - 0.5 * LOG_2PI)

    def sample_and_force(self, key: Key, batch: Batch | None = None) -> tuple[Position, Float[Array, ""], Position]:
        """See `AbstractGuide.sample_and_force`: minus the noise over the scale."""
        eps = self.noise(key)
        position, log_q = self.from_noise(eps)
        force = jax.lax.stop_gradient(-eps * jnp.exp(-bound(self, self.log_scale)))
        return position, log_q, self.layout.unravel(force)

    def to_noise(self, position: Position) -> Float[Array, " noise"]:
        """See `AbstractLocationScale.to_noise`."""
        return (self.layout.ravel(position) - bound(self, self.loc)) * jnp.exp(-self.log_scale)

    def log_prob(self, position: Position, batch: Batch | None = None) -> Float[Array, ""]:
        """See `AbstractGuide.log_prob`."""
        eps = self.to_noise(position)
        return jnp.sum(-0.5 * eps**2 - self.log_scale - 0.5 * LOG_2PI)

    def entropy(self) -> Float[Array, ""]:
        """See `AbstractGuide.entropy`."""
        return jnp.sum(bound(self, self.log_scale) + 0.5 * (1.0 + LOG_2PI))

    def affine(self, shift: Float[Array, " dim"], scale: Float[Array, " dim"]) -> MeanField:
        """See `AbstractLocationScale.affine`."""
        return with_fields(self, loc=shift + scale * self.loc, log_scale=self.log_scale + jnp.log(scale))

    def standard(self, target: Target) -> MeanField:
        """See `AbstractLocationScale.standard`."""
        return MeanField(target, init_scale=1.0)

    def jittered(self, key: Key) -> MeanField:
        """See `AbstractLocationScale.jittered`."""
        key_loc, key_scale = jax.random.split(key)
        return with_fields(
            self,
            loc=self.loc + jitter_loc(key_loc, self.loc),
            log_scale=self.log_scale + jitter_log_scale(key_scale, self.loc),
        )

    def covariance(self) -> Float[Array, "dim dim"]:
        """Covariance of the flat position."""
        return jnp.diag(jnp.exp(2 * bound(self, self.log_scale)))
