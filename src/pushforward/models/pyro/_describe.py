"""Describe torch's constraints as plain `Support`s. Imports torch: load only from inside a function."""

from __future__ import annotations

from typing import Any

import torch

from ._support import Bound, Support

_PLAIN = {
    "_Real": "real",
    "_Simplex": "simplex",
    "_OrderedVector": "ordered_vector",
    "_PositiveOrderedVector": "positive_ordered_vector",
    "_LowerCholesky": "lower_cholesky",
    "_CorrCholesky": "corr_cholesky",
    "_CorrMatrix": "corr_matrix",
    "_PositiveDefinite": "positive_definite",
    "_PositiveSemidefinite": "positive_definite",
    "_SoftplusPositive": "softplus_positive",
    "_SoftplusLowerCholesky": "softplus_lower_cholesky",
}

_CIRCULAR = ("VonMises", "SineBivariateVonMises", "SineSkewed")


def distribution_support(fn: Any, bounds: list[torch.Tensor]) -> Support:
    """Support of a distribution; tensors among its bounds are appended to ``bounds``.

    Raises:
        ValueError: if the support has no bijection from unconstrained space.
    """
    support = describe(fn.support, bounds)
    base = fn
    while hasattr(base, "base_dist") and type(base).__name__ not in _CIRCULAR:
        base = base.base_dist
    if type(base).__name__ in _CIRCULAR:
        # Torch calls the support real; on the whole line a periodic density is improper.
        return _circular(support)
    return support


def _circular(support: Support) -> Support:
    if support.kind == "independent":
        return Support("independent", (_circular(support.args[0]), *support.args[1:]))
    return Support("circular")


def describe(constraint: Any, bounds: list[torch.Tensor]) -> Support:
    """A torch or Pyro constraint as a `Support`.

    Raises:
        ValueError: if there is no bijection from unconstrained space onto it.
    """
    name = type(constraint).__name__
    if name in _PLAIN:
        return Support(_PLAIN[name])
    if name in ("_GreaterThan", "_GreaterThanEq"):
        low = _bound(constraint.lower_bound, bounds)
        return Support("positive") if low == 0 and not isinstance(low, Bound) else Support("greater_than", (low,))
    if name == "_LessThan":
        return Support("less_than", (_bound(constraint.upper_bound, bounds),))
    if name in ("_Interval", "_HalfOpenInterval"):
        low, high = constraint.lower_bound, constraint.upper_bound
        if not isinstance(low, torch.Tensor) and not isinstance(high, torch.Tensor) and (low, high) == (0, 1):
            return Support("unit_interval")
        return Support("interval", (_bound(low, bounds), _bound(high, bounds)))
    if name == "_IndependentConstraint":
        return _independent(describe(constraint.base_constraint, bounds), constraint.reinterpreted_batch_ndims)
    if name == "MixtureSameFamilyConstraint":
        before = len(bounds)
        base = describe(constraint.base_constraint, bounds)
        if len(bounds) == before:
            return base
    if name == "_Cat" and not any(c.event_dim for c in constraint.cseq):
        return Support(
            "cat", (tuple(describe(c, bounds) for c in constraint.cseq), constraint.dim, tuple(constraint.lengths))
        )
    if name == "_Stack" and not any(c.event_dim for c in constraint.cseq):
        return Support(
            "cat", (tuple(describe(c, bounds) for c in constraint.cseq), constraint.dim, (1,) * len(constraint.cseq))
        )
    raise ValueError(f"no bijection from unconstrained space onto the support {constraint} is known")


def _independent(base: Support, ndims: int) -> Support:
    return base if ndims == 0 else Support("independent", (base, ndims))


def _bound(value: Any, bounds: list[torch.Tensor]) -> Any:
    if not isinstance(value, torch.Tensor):
        return float(value)
    bounds.append(value)
    return Bound(len(bounds) - 1, "...")
