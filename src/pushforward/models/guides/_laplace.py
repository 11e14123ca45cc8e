"""Laplace approximation."""

from __future__ import annotations

from typing import ClassVar

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from .._layout import Layout
from .._target import Target
from .._types import Batch, Key, Position
from ._base import AbstractLocationScale, bound, jitter_loc, with_fields
from ._fullrank import FullRank, from_cholesky


class Laplace(AbstractLocationScale):
    """Gaussian at the mode of the density on unconstrained space, with the inverse negative Hessian as covariance.

    While it is fitted it is a point mass at loc; `finish` adds the curvature. Exact for Gaussian posteriors; elsewhere
    it sees the mode only. Cost of `finish`: dim gradients and one O(dim**3) factorisation.

    Args:
        target: binds the guide at 0; None leaves it unbound.
    """

    has_density: ClassVar[bool] = True
    loc: Float[Array, " dim"] | None
    gaussian: FullRank | None
    """The approximation; None until `finish`."""
    layout: Layout | None

    def __init__(self, target: Target | None = None) -> None:
        self.layout = None if target is None else Layout.of(target.example)
        self.loc = None if self.layout is None else jnp.zeros((self.layout.dim,), self.layout.dtype)
        self.gaussian = None

    @property
    def point(self) -> bool:
        """True until `finish`."""
        return self.gaussian is None

    def bind(self, target: Target) -> Laplace:
        """See `AbstractGuide.bind`."""
        return Laplace(target)

    def sample_and_log_prob(self, key: Key, batch: Batch | None = None) -> tuple[Position, Float[Array, ""]]:
        """See `AbstractGuide.sample_and_log_prob`; the mode and zero before `finish`."""
        return self.from_noise(self.noise(key))

    @property
    def noise_dim(self) -> int:
        """See `AbstractLocationScale.noise_dim`."""
        return bound(self, self.layout).dim

    def from_noise(self, eps: Float[Array, " noise"]) -> tuple[Position, Float[Array, ""]]:
        """See `AbstractLocationScale.from_noise`; the mode and zero before `finish`."""
        if self.gaussian is not None:
            return self.gaussian.from_noise(eps)
        loc = bound(self, self.loc)
        return self.layout.unravel(loc), jnp.zeros((), loc.dtype)

    def log_prob(self, position: Position, batch: Batch | None = None) -> Float[Array, ""]:
        """See `AbstractGuide.log_prob`; zero before `finish`."""
        if self.gaussian is not None:
            return self.gaussian.log_prob(position)
        return jnp.zeros((), bound(self, self.loc).dtype)

    def covariance(self) -> Float[Array, "dim dim"]:
        """Covariance of the flat position."""
        return bound(self, self.gaussian).covariance()

    def finish(self, target: Target) -> Laplace:
        """Add the curvature at loc.

        Raises:
            ValueError: if the Hessian is not negative definite, i.e. loc is not a mode.
        """
        loc = bound(self, self.loc)
        layout = self.layout

        @jax.jit
        def curvature(target: Target, x: Array) -> Array:
            return -jax.hessian(lambda v: target.logdensity(layout.unravel(v)))(x)

        precision = curvature(target, loc)
        factor = jnp.linalg.cholesky(precision)
        if not bool(jnp.all(jnp.isfinite(factor))):
            lowest = (
                float(jnp.linalg.eigvalsh(precision)[0]) if bool(jnp.all(jnp.isfinite(precision))) else float("nan")
            )
            raise ValueError(
                f"The Laplace approximation of {target.program.source} does not exist at the point found: the negative "
                f"Hessian has smallest eigenvalue {lowest:.3g}, expected positive. The density has no interior mode "
                "there (a funnel or a flat direction); use FullRank or NUTS, or reparametrise."
            )
        inverse = jax.scipy.linalg.cho_solve((factor, True), jnp.eye(layout.dim, dtype=loc.dtype))
        covariance = 0.5 * (inverse + inverse.T)
        gaussian = from_cholesky(FullRank(target), loc, jnp.linalg.cholesky(covariance))
        return with_fields(self, gaussian=gaussian)

    def entropy(self) -> Float[Array, ""] | None:
        """See `AbstractGuide.entropy`; None before `finish`."""
        return None if self.gaussian is None else self.gaussian.entropy()

    def affine(self, shift: Float[Array, " dim"], scale: Float[Array, " dim"]) -> Laplace:
        """See `AbstractLocationScale.affine`."""
        return with_fields(self, loc=shift + scale * self.loc)

    def standard(self, target: Target) -> Laplace:
        """See `AbstractLocationScale.standard`."""
        return Laplace(target)

    def jittered(self, key: Key) -> Laplace:
        """See `AbstractLocationScale.jittered`."""
        return with_fields(self, loc=self.loc + jitter_loc(key, self.loc))
