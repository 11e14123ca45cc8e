"""Measure-valued (weak) derivatives of one site."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array

from ...models._types import Key
from ._base import AbstractSiteStrategy, Outcome
from ._elements import align, elements, vary
from ._pathwise import family_name
from ._support import is_point
from ._weak_derivatives import WEAK_DERIVATIVES


class MeasureValued(AbstractSiteStrategy):
    """dq/dtheta as a difference of two laws: c (E[F(z+)] - E[F(z-)]), z+ and z- coupled by common random numbers.

    F needs no gradient in z and may jump; the variance is that of a difference of two nearby outcomes. Known for
    Bernoulli, Categorical, Binomial, Geometric and Poisson (Bernoulli and Categorical come out exact), Normal,
    Exponential, Gamma, Beta, Dirichlet and Weibull.

    Unbiased. Cost: one or two evaluations of the objective per parameter of the site (two to four for Normal and
    Weibull), times the elements that share an outcome; elements of a plated objective are varied at the same time.

    Reference: Mohamed et al., Monte Carlo gradient estimation in machine learning, arXiv:1906.10652, section 6 and
    table 1.
    """

    def draw(self, key: Key, fn: Any) -> Array:
        """See `AbstractSiteStrategy.draw`."""
        return jax.lax.stop_gradient(fn.sample(key))

    def surrogate(self, key: Key, fn: Any, value: Array, outcome: Outcome, current: Array) -> Array:
        """See `AbstractSiteStrategy.surrogate`. ``current`` must be the plain outcome, without a baseline."""
        parts = elements(fn)
        branches = _family(parts.base)(jax.random.fold_in(key, 1), parts, value)
        asked = [z for b in branches for z in (b.plus, b.minus) if z is not None]
        outcomes = iter(vary(outcome, value, jax.lax.stop_gradient(jnp.stack(asked)), current, parts))
        here = align(current, parts)
        total = jnp.zeros((), current.dtype)
        for branch in branches:
            above = here if branch.plus is None else next(outcomes)
            below = here if branch.minus is None else next(outcomes)
            slope = jax.lax.stop_gradient(branch.weight * (above - below))
            total = total + jnp.sum(slope * branch.parameter)
        return total

    def check(self, name: str, fn: Any) -> None:
        """See `AbstractSiteStrategy.check`."""
        if _family(elements(fn).base) is None:
            known = {family.__name__.removesuffix("Logits").removesuffix("Probs") for family in WEAK_DERIVATIVES}
            instead = "pf.Path() or pf.Score()" if fn.has_rsample else "pf.Score()"
            if is_point(fn):
                instead = "pf.Path()"
            if fn.has_enumerate_support:
                instead = "pf.Enumerate() or pf.Score()"
            raise ValueError(
                f"Site '{name}' ({family_name(fn)}) has no known measure-valued derivative: expected one of "
                f"{sorted(known)}. Use {instead} for this site."
            )


def _family(base: Any) -> Any:
    for kind in type(base).__mro__:
        if kind in WEAK_DERIVATIVES:
            return WEAK_DERIVATIVES[kind]
    return None
