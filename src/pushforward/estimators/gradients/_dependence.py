"""Which outputs of a function depend on which of its inputs."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
from jax.extend.core import Literal

NONE: frozenset[str] = frozenset()


def dependence(fn: Callable[[Any], Mapping[str, Any]], inputs: Mapping[str, Any]) -> dict[str, frozenset[str]]:
    """Names of the inputs that each named output may depend on, read off the traced program.

    An operation's outputs are taken to depend on all its inputs, except that functions called and loops are looked
    into, so that the answer may be too large, never too small.
    """
    closed, shape = jax.make_jaxpr(fn, return_shape=True)(dict(inputs))
    names = [name for name in sorted(inputs) for _ in jax.tree.leaves(inputs[name])]
    found = _follow(closed.jaxpr, [frozenset({name}) for name in names])
    leaves = [name for name in sorted(shape) for _ in jax.tree.leaves(shape[name])]
    out: dict[str, frozenset[str]] = {name: NONE for name in shape}
    for name, sources in zip(leaves, found, strict=True):
        out[name] = out[name] | sources
    return out


def _follow(jaxpr: Any, sources: Sequence[frozenset[str]]) -> list[frozenset[str]]:
    """Sources of the outputs of a program from those of its inputs."""
    reach: dict[Any, frozenset[str]] = dict(zip(jaxpr.invars, sources, strict=True))

    def of(atom: Any) -> frozenset[str]:
        return NONE if isinstance(atom, Literal) else reach.get(atom, NONE)

    for equation in jaxpr.eqns:
        reach.update(zip(equation.outvars, _step(equation, [of(atom) for atom in equation.invars]), strict=True))
    return [of(atom) for atom in jaxpr.outvars]


def _step(equation: Any, sources: list[frozenset[str]]) -> list[frozenset[str]]:
    inner = equation.params.get("jaxpr", equation.params.get("call_jaxpr"))
    inner = getattr(inner, "jaxpr", inner)
    name, outputs = equation.primitive.name, len(equation.outvars)
    if inner is not None and len(inner.invars) == len(sources) and len(inner.outvars) == outputs:
        if name == "scan":
            first, carried = equation.params["num_consts"], equation.params["num_carry"]
            while True:
                found = _follow(inner, sources)
                grown = [a | b for a, b in zip(sources[first : first + carried], found[:carried], strict=True)]
                if grown == sources[first : first + carried]:
                    return [*grown, *found[carried:]]
                sources = [*sources[:first], *grown, *sources[first + carried :]]
        if name in ("jit", "pjit", "closed_call", "core_call", "remat", "checkpoint", "custom_jvp_call"):
            return _follow(inner, sources)
    return [NONE.union(*sources)] * outputs
