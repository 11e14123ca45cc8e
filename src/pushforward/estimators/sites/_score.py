"""Score-function gradient of one site."""

from __future__ import annotations

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array

from ...models._types import Key
from ._base import AbstractSiteStrategy, Outcome
from ._elements import law


class ScoreSite(AbstractSiteStrategy):
    """F d log q: works for every site with a density. What is subtracted from F (a baseline) is the caller's affair.

    Args:
        signal: which F the caller is to hand in: ``"local"``, what depends on the site, or ``"global"``, everything.

    Reference: Williams, Simple statistical gradient-following algorithms, 1992.
    """

    signal: str = eqx.field(static=True, default="local")

    def draw(self, key: Key, fn: Any) -> Array:
        """See `AbstractSiteStrategy.draw`."""
        return jax.lax.stop_gradient(fn.sample(key))

    def surrogate(self, key: Key, fn: Any, value: Array, outcome: Outcome, current: Array) -> Array:
        """See `AbstractSiteStrategy.surrogate`. Plate elements are weighted by their own outcomes if given."""
        log_prob = law(fn).log_prob(jax.lax.stop_gradient(value))
        return jnp.sum(jax.lax.stop_gradient(current) * log_prob)
