"""Where a distribution's support ends, and which of its parameters move the ends."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import jax

from ._family import base_of

_LIGHT = {"Normal", "MultivariateNormal", "LowRankMultivariateNormal"}
"""Their density vanishes so fast that no transform makes an end of infinity with a positive density."""


class End(NamedTuple):
    """One end of a support."""

    value: float | None
    """Where it is, None where only its parameters are known."""
    arrays: tuple[Any, ...] = ()
    """What it is computed from."""


def support_ends(fn: Any) -> list[Any]:
    """Parameters on which the ends of the support depend; empty where the whole line, or a fixed set, is the support.

    Transforms are followed end by end: that of a transformed law may move although it claims the whole line.
    The one value of a point mass counts as an end.
    """
    return [a for end in _ends(base_of(fn)) for a in end.arrays if not _known(a)]


def is_point(fn: Any) -> bool:
    """Whether the distribution underneath is a point mass."""
    return type(base_of(fn)).__name__ == "Delta"


def _ends(fn: Any) -> list[End]:
    fn = base_of(fn)
    if is_point(fn):
        return [End(None, (fn.v,))]
    if hasattr(fn, "component_distributions"):
        return [end for part in fn.component_distributions for end in _ends(part)]
    if hasattr(fn, "component_distribution"):
        return _ends(fn.component_distribution)
    if hasattr(fn, "transforms") and hasattr(fn, "base_dist"):
        ends = _ends(fn.base_dist)
        for transform in _flat(fn.transforms):
            ends = [_through(transform, end) for end in ends]
        return ends
    if type(fn).__name__ in _LIGHT or fn.support is None or fn.support.is_discrete:
        return []
    return _of_constraint(fn.support)


def _of_constraint(constraint: Any) -> list[End]:
    while hasattr(constraint, "base_constraint"):
        constraint = constraint.base_constraint
    if type(constraint).__name__ in ("_Real", "_RealVector", "_RealMatrix"):
        return [End(-math.inf), End(math.inf)]
    if hasattr(constraint, "lower_bound") or hasattr(constraint, "upper_bound"):
        below, above = getattr(constraint, "lower_bound", -math.inf), getattr(constraint, "upper_bound", math.inf)
        return [End(float(b)) if _known(b) else End(None, (b,)) for b in (below, above)]
    return [End(None, tuple(jax.tree.leaves(constraint)))]


def _flat(transforms: Any) -> list[Any]:
    out = []
    for transform in transforms:
        if hasattr(transform, "parts"):
            out += _flat(transform.parts)
        elif hasattr(transform, "base_transform"):
            out += _flat([transform.base_transform])
        else:
            out.append(transform)
    return out


def _through(transform: Any, end: End) -> End:
    value, arrays = end
    kind = type(transform).__name__
    if kind == "AffineTransform":
        loc, scale = transform.loc, transform.scale
        if value is not None and math.isinf(value):
            return End(-value if _known(scale) and scale < 0 else value)
        if value == 0.0:
            return End(float(loc) if _known(loc) else None, (*arrays, loc))
        moved = float(loc + scale * value) if value is not None and _known(loc) and _known(scale) else None
        return End(moved, (*arrays, loc, scale))
    if kind == "PowerTransform" and value is not None and (value in (0.0, 1.0) or math.isinf(value)):
        falls = _known(transform.exponent) and transform.exponent < 0 and value != 1.0
        return End((math.inf if value == 0.0 else 0.0) if falls else value, arrays)
    if kind in _MONOTONE and value is not None:
        return End(_MONOTONE[kind](value), arrays)
    if value is not None and math.isinf(value):
        return end
    return End(None, (*arrays, *jax.tree.leaves(transform)))


def _exp(value: float) -> float:
    return math.exp(value) if value < 700.0 else math.inf


_MONOTONE = {
    "ExpTransform": _exp,
    "SigmoidTransform": lambda value: 1.0 / (1.0 + _exp(-value)),
    "SoftplusTransform": lambda value: value if value > 30.0 else math.log1p(_exp(value)),
    "IdentityTransform": float,
}


def _known(value: Any) -> bool:
    return isinstance(value, int | float)
