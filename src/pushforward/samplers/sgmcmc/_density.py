"""The density as gradient estimates see it."""

from __future__ import annotations

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from ...models import Target
from ...models._layout import Layout
from ...models._types import Batch


class LogDensity(eqx.Module):
    """Log-density at flat positions: unbiased on a minibatch, all data with None."""

    target: Target
    layout: Layout

    def __call__(self, x: Float[Array, " d"], batch: Batch | None = None) -> Float[Array, ""]:
        """The log-density, priors and change of variables included."""
        return self.target.logdensity(self.layout.unravel(x), batch)

    def gradient(self, x: Float[Array, " d"], batch: Batch | None = None) -> Float[Array, " d"]:
        """Its gradient, NaN where the density is not finite: beyond a wall the gradient alone can look innocent."""
        value, gradient = jax.value_and_grad(self)(x, batch)
        return jnp.where(jnp.isfinite(value), gradient, jnp.nan)
