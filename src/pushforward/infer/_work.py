"""How much a function computes, known before it runs: decides how many draws a check can afford."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import jax


def numbers_computed(function: Callable[..., Any], *arguments: Any) -> int:
    """Numbers that one call computes, intermediate ones included; loops of unknown length count once.

    The same on every machine, unlike a measured time, so that what depends on it can be reproduced. Cost: one trace.
    """
    return max(1, _count(jax.make_jaxpr(function)(*arguments).jaxpr))


def _count(jaxpr: Any) -> int:
    total = 0
    for equation in jaxpr.eqns:
        inner = [_count(getattr(p, "jaxpr", p)) for p in _inner(equation.params)]
        if equation.primitive.name == "cond":
            total += max(inner)
        elif inner:
            total += sum(inner) * int(equation.params.get("length", 1))
        else:
            total += sum(math.prod(getattr(v.aval, "shape", ())) for v in equation.outvars)
    return total


def _inner(params: dict[str, Any]) -> list[Any]:
    found = []
    for value in params.values():
        for item in value if isinstance(value, tuple | list) else (value,):
            if hasattr(item, "eqns") or hasattr(getattr(item, "jaxpr", None), "eqns"):
                found.append(item)
    return found
