"""How many log densities a gradient evaluates: read off its trace, where each evaluation leaves a mark."""

from __future__ import annotations

import dataclasses
import itertools
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.core import Primitive
from jax.interpreters import ad, batching, partial_eval
from jaxtyping import Array, Float

from ..estimators import AbstractGradient, AbstractObjective
from ..models import Target
from ..models._enumeration import Component
from ..models._types import Batch, Position, Values
from ..models.guides import AbstractGuide

# The identity, under a name of its own. Derivatives pass it by, so that it counts evaluations and not what is made of
# them; what vmap adds to its shape says how many there are.
_mark = Primitive("log_density_evaluation")
_mark.def_impl(lambda x, **_: x)
_mark.def_abstract_eval(lambda x, **_: x)
ad.primitive_jvps[_mark] = lambda primals, tangents, **params: (_mark.bind(*primals, **params), tangents[0])
batching.primitive_batchers[_mark] = lambda args, dims, **params: (_mark.bind(*args, **params), dims[0])
_serial = itertools.count()


class _Marked(Target):
    """A target whose evaluations can be counted in a trace."""

    def logdensity(self, position: Position, batch: Batch | None = None, *, jacobian: bool = True) -> Float[Array, ""]:
        value = super().logdensity(position, batch, jacobian=jacobian)
        return _mark.bind(value, evaluation=next(_serial), size=1)

    def factors(self, values: Values, batch: Batch | None = None) -> list[Component]:
        # Every factor has its mark: an estimator may drop some. All marks of one evaluation share its number.
        serial = next(_serial)

        def marked(part: Component) -> Component:
            log_prob = jnp.asarray(part.log_prob)
            return part._replace(log_prob=_mark.bind(log_prob, evaluation=serial, size=max(log_prob.size, 1)))

        return [marked(part) for part in super().factors(values, batch)]

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
    """Log-density evaluations of one gradient; NaN for an estimator that goes through neither entry of a target.

    What the compiler drops because nothing depends on it does not count. An evaluation of which only some terms are
    needed (those downstream of a site, say) counts as one, and so does one with enumerated sites or with a sum over
    particles inside it: it is one run of the program.
    """
    marked = _marked(target)
    dynamic, static = eqx.partition((gradient, marked, guide), eqx.is_array)

    def one(key: Array, dynamic: Any) -> Any:
        gradient, marked, guide = eqx.combine(dynamic, static)
        batch = marked.minibatch(key) if marked.subsampled else None
        estimate, steps = gradient.value_and_grad(key, objective, marked, guide, num_particles, batch)
        return estimate.value, steps

    traced = jax.make_jaxpr(one)(jax.random.key(0), dynamic).jaxpr
    count = _marks(partial_eval.dce_jaxpr(traced, used_outputs=True, instantiate=True)[0])
    return float(count) if count else float("nan")


def _marks(jaxpr: Any) -> int:
    total = 0
    direct: dict[int, int] = {}
    for equation in jaxpr.eqns:
        if equation.primitive is _mark:
            serial = equation.params["evaluation"]
            copies = int(np.prod(equation.outvars[0].aval.shape)) // equation.params["size"]
            # A factor that does not depend on the draw is evaluated once for all.
            direct[serial] = max(direct.get(serial, 0), copies)
            continue
        branches = equation.params.get("branches")
        if branches is not None:
            total += max(_marks(branch.jaxpr) for branch in branches)
            continue
        inner = [_inner(value) for value in equation.params.values()]
        repeats = equation.params.get("length", 1) if equation.primitive.name == "scan" else 1
        total += repeats * sum(_marks(j) for j in inner if j is not None)
    return total + sum(direct.values())


def _inner(value: Any) -> Any:
    """The jaxpr among an equation's parameters, closed or not."""
    if hasattr(value, "eqns"):
        return value
    return value.jaxpr if hasattr(getattr(value, "jaxpr", None), "eqns") else None
