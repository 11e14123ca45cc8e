"""Enumeration of one site."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array

from ...models._types import Key
from ._base import AbstractSiteStrategy, Outcome
from ._elements import elements, law, vary
from ._pathwise import family_name, suggestions


class Enumerate(AbstractSiteStrategy):
    """Sum over the values of a discrete site with finite support: sum_v dq(v) F(v), no noise from the site itself.

    Of a site with several independent elements each is summed over with the others as drawn (local expectation
    gradients), which is unbiased and costs their sum, not their product. Elements in plates of a plated objective are
    varied at the same time.

    Unbiased. Cost: one evaluation of the objective per value and per element that shares an outcome.

    Reference: Titsias and Lazaro-Gredilla, Local expectation gradients for black box variational inference, 2015,
    arXiv:1503.01494, eq. 9.
    """

    def draw(self, key: Key, fn: Any) -> Array:
        """See `AbstractSiteStrategy.draw`."""
        return jax.lax.stop_gradient(fn.sample(key))

    def surrogate(self, key: Key, fn: Any, value: Array, outcome: Outcome, current: Array) -> Array:
        """See `AbstractSiteStrategy.surrogate`."""
        parts = elements(fn)
        support = parts.base.enumerate_support(expand=False)
        event = support.shape[support.ndim - parts.event_dim :]
        support = support.reshape(support.shape[:1] + (1,) * len(parts.shape) + event)
        candidates = jnp.broadcast_to(support, support.shape[:1] + parts.shape + event)
        outcomes = vary(outcome, value, candidates, current, parts)
        probability = jnp.exp(law(parts.base).log_prob(candidates))
        return jnp.sum(probability * jax.lax.stop_gradient(outcomes))

    def check(self, name: str, fn: Any) -> None:
        """See `AbstractSiteStrategy.check`."""
        if not fn.has_enumerate_support:
            instead = "pf.Path()" if fn.has_rsample else "pf.MeasureValued() or pf.Score()"
            raise ValueError(
                f"Site '{name}' ({family_name(fn)}) has no finite list of values to enumerate: expected a Bernoulli, "
                f"Categorical, Binomial or other finite discrete site. Use {instead} here."
            )
        try:
            elements(fn).base.enumerate_support(expand=False)
        except (TypeError, ValueError, NotImplementedError):
            raise ValueError(
                f"Enumerate() at site '{name}' ({family_name(fn)}): the number of its values is itself random, learned "
                f"or not the same for all elements, so that there is no one list of them. Expected "
                f"{' or '.join(suggestions(name, fn, enumerated=False))} for this site."
            ) from None
