"""Which outputs of a function depend on which of its inputs."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import jax
from jax.extend.core import Literal

NONE: frozenset[str] = frozenset()


def dependence(fn: Callable[[Any], Mapping[str, Any]], inputs: Mapping[str, Any]) -> dict[str, frozenset[str]]:
    """Names of the inputs that each named output may depend on, read off the traced program.

    An operation's outputs are taken to depend on all its inputs, so that the answer may be too large, never too small.
    """
    closed, shape = jax.make_jaxpr(fn, return_shape=True)(dict(inputs))
    names = [name for name in sorted(inputs) for _ in jax.tree.leaves(inputs[name])]
    reach: dict[Any, frozenset[str]] = {}
    for var, name in zip(closed.jaxpr.invars, names, strict=True):
        reach[var] = frozenset({name})

    def of(atom: Any) -> frozenset[str]:
        return NONE if isinstance(atom, Literal) else reach.get(atom, NONE)

    for equation in closed.jaxpr.eqns:
        sources = NONE.union(*(of(atom) for atom in equation.invars)) if equation.invars else NONE
        for var in equation.outvars:
            reach[var] = sources
    found = [of(atom) for atom in closed.jaxpr.outvars]
    leaves = [name for name in sorted(shape) for _ in jax.tree.leaves(shape[name])]
    out: dict[str, frozenset[str]] = {name: NONE for name in shape}
    for name, sources in zip(leaves, found, strict=True):
        out[name] = out[name] | sources
    return out
