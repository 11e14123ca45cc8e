"""Supports of latent sites and parameters as plain data, and their NumPyro bijections.

The bijection is NumPyro's for the twin of the torch constraint, so a Pyro program and its NumPyro twin share one
position space.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array
from numpyro.distributions import biject_to
from numpyro.distributions import constraints as nc


class Bound(NamedTuple):
    """A bound that is computed by the program: which of the site's bounds, and its value when the program was built."""

    index: int  # type: ignore[assignment]  # hides tuple.index
    text: str


class Support(NamedTuple):
    """A constraint: its kind and arguments (numbers, `Bound`s, nested supports)."""

    kind: str
    args: tuple[Any, ...] = ()

    def __str__(self) -> str:
        if not self.args:
            return self.kind
        if self.kind == "independent":
            return str(self.args[0])
        return f"{self.kind}({', '.join(_text(a) for a in self.args)})"


def _text(argument: Any) -> str:
    if isinstance(argument, Bound):
        return argument.text
    if isinstance(argument, Support):
        return str(argument)
    return f"{argument:g}" if isinstance(argument, float) else str(argument)


REAL = Support("real")

_SIMPLE = {
    "real": nc.real,
    "positive": nc.positive,
    "unit_interval": nc.unit_interval,
    "simplex": nc.simplex,
    "ordered_vector": nc.ordered_vector,
    "positive_ordered_vector": nc.positive_ordered_vector,
    "lower_cholesky": nc.lower_cholesky,
    "corr_cholesky": nc.corr_cholesky,
    "corr_matrix": nc.corr_matrix,
    "positive_definite": nc.positive_definite,
    "softplus_positive": nc.softplus_positive,
    "softplus_lower_cholesky": nc.softplus_lower_cholesky,
    "circular": nc.circular,
}


def is_real(support: Support) -> bool:
    """Whether the position is the value."""
    return support == REAL or (support.kind == "independent" and is_real(support.args[0]))


def constraint_of(support: Support, bounds: Sequence[Any], ndim: int, dtype: Any) -> Any:
    """The NumPyro constraint.

    Args:
        support: plain description.
        bounds: values of its `Bound`s.
        ndim: rank of the value; bounds get leading axes up to it.
        dtype: dtype of the value.
    """

    def number(item: Any) -> Any:
        if not isinstance(item, Bound):
            return np.asarray(item, dtype)
        array = jnp.asarray(bounds[item.index]).astype(dtype)
        return array if array.ndim in (0, ndim) else jnp.reshape(array, (1,) * (ndim - array.ndim) + array.shape)

    kind, args = support
    if kind in _SIMPLE:
        return _SIMPLE[kind]
    if kind == "interval":
        return nc.interval(number(args[0]), number(args[1]))
    if kind == "greater_than":
        return nc.greater_than(number(args[0]))
    if kind == "less_than":
        return nc.less_than(number(args[0]))
    if kind == "independent":
        return nc.independent(constraint_of(args[0], bounds, ndim, dtype), args[1])
    assert kind == "cat", kind
    parts, dim, lengths = args
    return nc.cat([constraint_of(p, bounds, ndim, dtype) for p in parts], dim, lengths)


def bijection(support: Support, bounds: Sequence[Any], ndim: int, dtype: Any) -> Any:
    """The NumPyro transform from unconstrained space to the support."""
    return biject_to(constraint_of(support, bounds, ndim, dtype))


def log_det(transform: Any, unconstrained: Array, value: Array, event_dim: int) -> Array:
    """Log |d value / d unconstrained| per batch element of the value."""
    out = transform.log_abs_det_jacobian(unconstrained, value)
    extra = out.ndim - (value.ndim - event_dim)
    return jnp.sum(out, tuple(range(out.ndim - extra, out.ndim))) if extra > 0 else out
