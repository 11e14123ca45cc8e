"""Marginalise enumerated discrete sites out of a plated factor graph.

A program run under parallel enumeration gives every factor one extra dimension per discrete site it depends on. Summing
those sites out is variable elimination on a plated factor graph (Obermeyer et al., 2019, "Tensor Variable Elimination
for Plated Factor Graphs", arXiv:1902.03210, algorithm 1): the innermost site first, and the factors that meet it are
multiplied over the plates that the site is not in.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array

from ._program import Site, Term


class Component(NamedTuple):
    """A product of factors with nothing left to sum out."""

    log_prob: Array
    """Log-value over the component's plates (enumerated dims are gone or have size 1)."""
    scale: Array | float
    members: tuple[str, ...]
    """Names of the sites multiplied into it."""
    plates: frozenset[int]
    total: Array | None = None
    """See `Term.total`; kept for a factor that met no sum."""


class _Factor(NamedTuple):
    log_prob: Array
    scale: Array | float
    members: tuple[str, ...]
    plates: frozenset[int]
    variables: frozenset[int]


def eliminate(
    terms: Mapping[str, Term], sites: Mapping[str, Site], enumerated: Sequence[tuple[str, int, int]]
) -> list[Component]:
    """Sum every enumerated site out of ``terms``.

    Args:
        terms: one factor per site; enumerated dims stand left of all plate dims.
        sites: static description by name; gives the plates of each factor.
        enumerated: (name, negative dim, cardinality) per discrete site.

    Returns:
        Components whose scaled sums add up to the log joint density.

    Raises:
        ValueError: if the graph has no plated elimination order (two sites in crossing plates meet in one factor), or
            if a subsampled or scaled factor would have to be multiplied inside a sum, which makes the estimate biased.

    Cost: the size of the largest joint table of an elimination, exponential only in the factor graph's width.
    """
    dim_of = {name: dim for name, dim, _ in enumerated}
    name_of = {dim: name for name, dim in dim_of.items()}
    plates_of = {dim: frozenset(p.dim for p in sites[name].plates) for name, dim in dim_of.items()}
    factors = [
        _Factor(
            term.log_prob,
            term.scale,
            (name,),
            frozenset(p.dim for p in sites[name].plates) if name in sites else frozenset(),
            frozenset(d for d in plates_of if term.log_prob.ndim >= -d and term.log_prob.shape[d] > 1),
        )
        for name, term in terms.items()
    ]
    for dim in sorted(plates_of, key=lambda d: (-len(plates_of[d]), d)):
        involved = [f for f in factors if dim in f.variables]
        if not involved:
            continue
        factors = [f for f in factors if dim not in f.variables]
        reduced = [_restrict(f, plates_of[dim], plates_of, name_of[dim]) for f in involved]
        joint = reduced[0].log_prob
        for f in reduced[1:]:
            joint = joint + f.log_prob
        factors.append(
            _Factor(
                jax.nn.logsumexp(joint, axis=dim, keepdims=True),
                _common_scale(reduced, name_of[dim]),
                tuple(m for f in reduced for m in f.members),
                plates_of[dim],
                frozenset().union(*(f.variables for f in reduced)) - {dim},
            )
        )
    return [
        Component(f.log_prob, f.scale, f.members, f.plates, terms[f.members[0]].total if len(f.members) == 1 else None)
        for f in factors
    ]


def _restrict(
    factor: _Factor, plates: frozenset[int], plates_of: Mapping[int, frozenset[int]], variable: str
) -> _Factor:
    """Multiply a factor over the plates that the variable being summed out is not in."""
    extra = factor.plates - plates
    if not extra:
        return factor
    if any(plates_of[other] & extra for other in factor.variables):
        raise ValueError(
            f"Enumerated site '{variable}' cannot be marginalised: the factor over {list(factor.members)} couples it "
            "to another enumerated site in a plate that crosses its own, so the sum has no plated elimination order. "
            "Expected enumerated sites in nested plates; write one of the two sites out of the plate, or marginalise "
            "it by hand with a mixture distribution."
        )
    if not _is_one(factor.scale):
        raise ValueError(
            f"Enumerated site '{variable}' lies outside a subsampled or scaled plate that contains "
            f"{list(factor.members)}: the logarithm of a sum over minibatch estimates is biased. Expected the "
            "enumerated site inside the plate, or a plate without subsample_size; use full data for this plate."
        )
    axes = tuple(d for d in extra if factor.log_prob.ndim >= -d)
    return factor._replace(log_prob=jnp.sum(factor.log_prob, axis=axes, keepdims=True), plates=factor.plates & plates)


def _common_scale(factors: Sequence[_Factor], variable: str) -> Array | float:
    scales = [f.scale for f in factors]
    if all(_is_one(s) for s in scales):
        return 1.0
    first = scales[0]
    same = all(
        s is first or (isinstance(s, (int, float)) and isinstance(first, (int, float)) and s == first) for s in scales
    )
    if not same:
        raise ValueError(
            f"Enumerated site '{variable}' meets factors of different scales "
            f"({[m for f in factors for m in f.members]}): expected one common scale, because a scaled factor cannot "
            "be taken out of the sum over the site. Put the scale handler or the subsampled plate around all of them."
        )
    return first


def _is_one(scale: Array | float) -> bool:
    return isinstance(scale, (int, float)) and scale == 1.0
