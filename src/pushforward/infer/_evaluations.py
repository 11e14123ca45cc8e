"""How many log densities a gradient evaluates: read off its trace, where each evaluation leaves a mark."""

from __future__ import annotations

import dataclasses
from typing import Any

import equinox as eqx
import jax
import numpy as np
from jax.extend.core import Primitive
from jax.interpreters import ad, batching
from jaxtyping import Array, Float

from ..estimators import AbstractGradient, AbstractObjective
from ..models import Target
from ..models._types import Batch, Position
from ..models.guides import AbstractGuide

# The identity, under a name of its own. Derivatives pass it by, so that it counts evaluations and not what is made of
# them; under vmap its shape says how many there are.
_mark = Primitive("log_density_evaluation")
_mark.def_impl(lambda x: x)
_mark.def_abstract_eval(lambda x: x)
ad.primitive_jvps[_mark] = lambda primals, tangents: (_mark.bind(*primals), tangents[0])
batching.primitive_batchers[_mark] = lambda args, dims: (_mark.bind(*args), dims[0])


class _Marked(Target):
    """A target whose evaluations can be counted in a trace."""

    def logdensity(self, position: Position, batch: Batch | None = None, *, jacobian: bool = True) -> Float[Array, ""]:
        return _mark.bind(super().logdensity(position, batch, jacobian=jacobian))

    def _replace(self, **changes: Any) -> Target:
        return _marked(super()._replace(**changes))


def _marked(target: Target) -> Target:
    new = object.__new__(_Marked)
    for field in dataclasses.fields(target):
        object.__setattr__(new, field.name, getattr(target, field.name))
    return new


def count_evaluations(
    gradient: AbstractGradient,
    objective: AbstractObjective,
    target: Target,
    guide: AbstractGuide,
    num_particles: int,
) -> float:
    """Log-density evaluations of one gradient; NaN for an estimator that does not go through `Target.logdensity`."""
    marked = _marked(target)
    dynamic, static = eqx.partition((gradient, marked, guide), eqx.is_array)

    def one(key: Array, dynamic: Any) -> Any:
        gradient, marked, guide = eqx.combine(dynamic, static)
        batch = marked.minibatch(key) if marked.subsampled else None
        estimate, steps = gradient.value_and_grad(key, objective, marked, guide, num_particles, batch)
        return estimate.value, steps

    count = _marks(jax.make_jaxpr(one)(jax.random.key(0), dynamic).jaxpr)
    return float(count) if count else float("nan")


def _marks(jaxpr: Any) -> int:
    total = 0
    for equation in jaxpr.eqns:
        if equation.primitive is _mark:
            total += int(np.prod(equation.outvars[0].aval.shape))
            continue
        branches = equation.params.get("branches")
        if branches is not None:
            total += max(_marks(branch.jaxpr) for branch in branches)
            continue
        inner = [_inner(value) for value in equation.params.values()]
        repeats = equation.params.get("length", 1) if equation.primitive.name == "scan" else 1
        total += repeats * sum(_marks(j) for j in inner if j is not None)
    return total


def _inner(value: Any) -> Any:
    """The jaxpr among an equation's parameters, closed or not."""
    if hasattr(value, "eqns"):
        return value
    return value.jaxpr if hasattr(getattr(value, "jaxpr", None), "eqns") else None
