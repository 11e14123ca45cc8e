"""Point mass: the posterior mode."""

from __future__ import annotations

from typing import ClassVar

import jax.numpy as jnp
from jaxtyping import Array, Float

from .._layout import Layout
from .._target import Target
from .._types import Batch, Key, Position
from ._base import AbstractLocationScale, bound, jitter_loc, with_fields


class Delta(AbstractLocationScale):
    """A point mass at loc; fitting it finds the posterior mode in the *user's* space (MAP).

    The change of variables is left out of the objective, so the mode does not depend on how sites are unconstrained.
    It carries no uncertainty: log q is reported as zero and k-hat does not exist. A flat or unbounded density has no
    mode.

    Args:
        target: binds the guide at 0; None leaves it unbound.
    """

    has_density: ClassVar[bool] = False
    jacobian: ClassVar[bool] = False
    loc: Float[Array, " dim"] | None
    layout: Layout | None

    def __init__(self, target: Target | None = None) -> None:
        self.layout = None if target is None else Layout.of(target.example)
        self.loc = None if self.layout is None else jnp.zeros((self.layout.dim,), self.layout.dtype)

    def bind(self, target: Target) -> Delta:
        """See `AbstractGuide.bind`."""
        return Delta(target)

    def sample_and_log_prob(self, key: Key, batch: Batch | None = None) -> tuple[Position, Float[Array, ""]]:
        """The mode, and zero."""
        return self.from_noise(jnp.zeros((0,)))

    @property
    def noise_dim(self) -> int:
        """See `AbstractLocationScale.noise_dim`."""
        return 0

    def from_noise(self, eps: Float[Array, " noise"]) -> tuple[Position, Float[Array, ""]]:
        """See `AbstractLocationScale.from_noise`."""
        loc = bound(self, self.loc)
        return self.layout.unravel(loc), jnp.zeros((), loc.dtype)

    def log_prob(self, position: Position, batch: Batch | None = None) -> Float[Array, ""]:
        """Zero: a point mass has no density."""
        return jnp.zeros((), bound(self, self.loc).dtype)

    def affine(self, shift: Float[Array, " dim"], scale: Float[Array, " dim"]) -> Delta:
        """See `AbstractLocationScale.affine`."""
        return with_fields(self, loc=shift + scale * self.loc)

    def standard(self, target: Target) -> Delta:
        """See `AbstractLocationScale.standard`."""
        return Delta(target)

    def jittered(self, key: Key) -> Delta:
        """See `AbstractLocationScale.jittered`."""
        return with_fields(self, loc=self.loc + jitter_loc(key, self.loc))
