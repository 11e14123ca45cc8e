"""The density between start and target, seen in coordinates in which the cloud is round."""

from __future__ import annotations

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from ...models import Target
from ...models._layout import Layout
from ...models._types import Batch, Position
from ..pairs._distance import product
from ._start import AbstractStart


class Tempered(Target):
    """``(1 - t) log start(x) + t log target(x)`` at ``x = loc + scale root z``, as a function of z.

    Temperature and coordinates are leaves, so that a kernel bound to this once serves all temperatures, and a kernel of
    fixed step size becomes one whose steps follow the cloud. The constant Jacobian is left out.
    """

    inner: Target
    start: AbstractStart
    temperature: Float[Array, ""]
    loc: Float[Array, " d"]
    root: Float[Array, "d d"]
    scale: Float[Array, ""]

    def __init__(self, inner: Target, start: AbstractStart) -> None:
        super().__init__(inner.program, fitted=True)
        layout = Layout.of(inner.example)
        self.inner, self.start = inner, start
        self.temperature = jnp.zeros((), layout.dtype)
        self.loc = jnp.zeros((layout.dim,), layout.dtype)
        self.root = jnp.eye(layout.dim, dtype=layout.dtype)
        self.scale = jnp.ones((), layout.dtype)

    def at(self, temperature: Array, loc: Array, root: Array, scale: Array) -> Tempered:
        """The same with another temperature and other coordinates."""
        where = lambda t: (t.temperature, t.loc, t.root, t.scale)  # noqa: E731
        return eqx.tree_at(where, self, (temperature, loc, root, scale))

    def logdensity(self, position: Position, batch: Batch | None = None, *, jacobian: bool = True) -> Float[Array, ""]:
        """See `Target.logdensity`; positions are flat."""
        x = self.outer(position)
        log_target = self.inner.logdensity(Layout.of(self.inner.example).unravel(x))
        log_start = self.start.log_prob(x)
        t = self.temperature
        # At the ends one of the two is not looked at: zero times infinity.
        return jnp.where(t < 1, (1 - t) * log_start, 0.0) + jnp.where(t > 0, t * log_target, 0.0)

    def outer(self, z: Float[Array, "... d"]) -> Float[Array, "... d"]:
        """From the cloud's coordinates to the target's."""
        return self.loc + self.scale * product(z, self.root.T)

    def inverse(self, x: Float[Array, "n d"]) -> Float[Array, "n d"]:
        """From the target's coordinates to the cloud's."""
        return jax.scipy.linalg.solve_triangular(self.root, (x - self.loc).T, lower=True).T / self.scale

    @property
    def template(self) -> Any:
        """A flat position of zeros."""
        return jnp.zeros_like(self.loc)
