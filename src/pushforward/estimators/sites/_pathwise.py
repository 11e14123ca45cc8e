"""Reparameterised sites: the gradient goes through the value."""

from __future__ import annotations

from typing import Any, ClassVar

import jax.numpy as jnp
from jaxtyping import Array

from ...models._types import Key
from ._base import AbstractSiteStrategy, Outcome


class ReparamSite(AbstractSiteStrategy):
    """Plain reparameterisation of one site: the value is differentiable in the parameters, log q too."""

    pathwise: ClassVar[bool] = True

    def draw(self, key: Key, fn: Any) -> Array:
        """See `AbstractSiteStrategy.draw`."""
        return fn.sample(key)

    def surrogate(self, key: Key, fn: Any, value: Array, outcome: Outcome, current: Array) -> Array:
        """Nothing is left out."""
        return jnp.zeros((), current.dtype)

    def check(self, name: str, fn: Any) -> None:
        """See `AbstractSiteStrategy.check`."""
        if not fn.has_rsample:
            fit = suggestions(name, fn)
            raise ValueError(
                f"Site '{name}' ({family_name(fn)}) has no reparameterised draw: its value is no differentiable "
                f"function of its parameters. Expected {' or '.join(fit)} for this site, "
                f"e.g. gradient={{'{name}': {fit[0]}}}."
            )


class PathSite(ReparamSite):
    """Reparameterisation of one site without the score of q: log q enters at fixed parameters, see `Path`."""


def family_name(fn: Any) -> str:
    """Name of a distribution without the layers around it."""
    while hasattr(fn, "base_dist") and type(fn).__name__ in (
        "Independent",
        "ExpandedDistribution",
        "MaskedDistribution",
    ):
        fn = fn.base_dist
    return type(fn).__name__


def suggestions(name: str, fn: Any, *, enumerated: bool = True) -> list[str]:
    """Strategies that apply to a site without a reparameterised draw, the least noisy first."""
    from ._enumerate import Enumerate
    from ._implicit import Implicit
    from ._measure_valued import MeasureValued

    found = []
    for strategy in (*((Enumerate(),) if enumerated else ()), Implicit(), MeasureValued()):
        try:
            strategy.check(name, fn)
        except ValueError:
            continue
        found.append(f"pf.{type(strategy).__name__}()")
    return [*found, "pf.Score()"]
