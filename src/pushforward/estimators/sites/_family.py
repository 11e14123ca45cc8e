"""What a site's distribution is underneath its plates, told by class name so that no front end is imported here."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
from jaxtyping import Array

_WRAPPERS = {"ExpandedDistribution", "Independent", "MaskedDistribution"}


def base_of(fn: Any) -> Any:
    """The distribution inside expansions, masks and declarations of event dimensions."""
    while type(fn).__name__ in _WRAPPERS:
        fn = fn.base_dist
    return fn


def is_family(fn: Any, *names: str) -> bool:
    """Whether the distribution underneath, or a class it derives from, has one of these names."""
    return any(cls.__name__ in names for cls in type(base_of(fn)).__mro__)


def parameter(fn: Any, name: str) -> Array:
    """A parameter of the distribution underneath, at the full shape of a draw."""
    return jnp.broadcast_to(getattr(base_of(fn), name), fn.shape())


def is_discrete(fn: Any) -> bool:
    """Whether draws are integers or otherwise countable."""
    return bool(base_of(fn).support.is_discrete)


def own_cdf(fn: Any) -> bool:
    """Whether the distribution underneath is univariate and has a distribution function of its own."""
    base = base_of(fn)
    root: Any = next(cls for cls in type(base).__mro__ if cls.__name__ == "Distribution")
    return base.event_dim == 0 and type(base).cdf is not root.cdf


def sum_event(terms: Array, fn: Any) -> Array:
    """Sum over the axes of one event, so that one number per plate element is left."""
    extra = terms.ndim - len(fn.batch_shape)
    return jnp.sum(terms, axis=tuple(range(terms.ndim - extra, terms.ndim))) if extra > 0 else terms
