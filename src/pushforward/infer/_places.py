"""Where along an optimisation gradients are measured: guides at its start, on its way and at its optimum."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array

from ..estimators import AbstractGradient, AbstractObjective
from ..estimators.gradients import Estimate, Parameters, join, split
from ..models import Target
from ..models._types import Key
from ..models.guides import AbstractFlow, AbstractGuide, Whitened
from ._automatic import automatic_gradient
from ._posterior import Posterior
from ._starts import resolve_guide, starting_guides

_STOPS = 40
"""Snapshots of an optimisation; their distance grows geometrically."""
_STEPS = 2000
_PARTICLES = 8
_FLOW_PARTICLES = 32
"""Draws per step of the fit that ends at a flow's optimum. A flow hardly ever contains the posterior, so that no path
gradient falls silent there: with 8 draws their noise stopped fits of a bent density 0.01 to 0.03 nats short, and the
variance measured there was up to four times that at the optimum."""
_LOOKS = 32
"""Draws of ``_PARTICLES`` each that give the loss at a snapshot: those of a few steps are noise, and a lucky one near
the start would stand for half of the way."""
_PATH = 8
"""Places of ``at="path"``, both ends included."""
NAMES = ("start", "middle", "optimum")


class Place(NamedTuple):
    """A guide, and what to call it."""

    name: str
    guide: AbstractGuide
    params: Any
    """Learnable parameters of the model at that place."""


def resolve_places(key: Key, target: Target, guide: Any, at: Any, objective: AbstractObjective) -> list[Place]:
    """The guides to measure at; see `compare_estimators` for ``at``.

    Raises:
        ValueError: for an unknown place, or guides of another family.
    """
    key_start, key_way = jax.random.split(key)
    given = _drawn(key_start, _guide_of(guide, target), target)
    if at is None:
        return [Place("given", given, target.program.params)]
    if isinstance(at, Mapping):
        places = [_place(str(name), value, target) for name, value in at.items()]
    else:
        listed = [at] if isinstance(at, str | AbstractGuide | Posterior) else list(at)
        places = _listed(key_way, target, given, listed, objective)
    wrong = [place.name for place in places if type(place.guide) is not type(given)]
    if wrong or not places:
        raise ValueError(
            f"at={at!r}: expected places of the family {type(given).__name__}"
            + (f", but {wrong} are of another family." if wrong else ", got none.")
        )
    return _alike([place._replace(guide=_drawn(key_start, place.guide, target)) for place in places], given)


def _drawn(key: Key, guide: AbstractGuide, target: Target) -> AbstractGuide:
    """A guide that can be drawn from: where the layers of a flow are missing, the start that `fit` would take.

    A flow's outer coordinates are constants, so that only those of a fit are a fair start.
    """
    if not (isinstance(guide, AbstractFlow) and guide.layers is None):
        return guide
    start = starting_guides(key, target, guide, 1, None)[0]
    return start.unwhiten() if isinstance(start, Whitened) else start


def _alike(places: list[Place], given: AbstractGuide) -> list[Place]:
    """Places that one compiled gradient takes: outer scales of flows as matrices where some are, else all alike.

    Raises:
        ValueError: for guides of other sizes.
    """
    flows: list[Any] = [place.guide for place in places if isinstance(place.guide, AbstractFlow)]
    if len({jnp.ndim(flow.scale) for flow in flows}) > 1:
        identity = (jnp.zeros_like(flows[0].shift), jnp.eye(jnp.size(flows[0].shift), dtype=flows[0].shift.dtype))
        places = [place._replace(guide=flow.affine(*identity)) for place, flow in zip(places, flows, strict=True)]
    shapes = [[x.shape for x in jax.tree.leaves(eqx.filter(place.guide, eqx.is_array))] for place in places]
    for place, shape in zip(places, shapes, strict=True):
        if shape != shapes[0]:
            raise ValueError(
                f"Place '{place.name}' has parameters of other shapes than '{places[0].name}': expected members of one "
                f"family of one size ({type(given).__name__} with the same settings)."
            )
    return places


def _guide_of(guide: Any, target: Target) -> AbstractGuide:
    """The guide itself, bound."""
    if isinstance(guide, Posterior):
        if guide.guide is None:
            raise ValueError(f"This {guide.kind} result has no guide. Expected the result of pf.fit, or a guide.")
        return guide.guide
    return guide if isinstance(guide, AbstractGuide) and is_bound(guide) else resolve_guide(guide, target)


def is_bound(guide: AbstractGuide) -> bool:
    """Whether a guide has parameters already, which binding anew would reset."""
    return bool(jax.tree.leaves(eqx.filter(guide, eqx.is_inexact_array)))


def _listed(
    key: Key, target: Target, given: AbstractGuide, listed: Sequence[Any], objective: AbstractObjective
) -> list[Place]:
    unknown = [entry for entry in listed if isinstance(entry, str) and entry not in (*NAMES, "path")]
    if unknown:
        raise ValueError(f"at={unknown[0]!r}: expected {', '.join(NAMES)}, path, a guide or a posterior.")
    if any(isinstance(entry, str) and entry != "start" for entry in listed):
        travelled = optimisation_path(key, target, given, objective)
    else:
        travelled = [_place("start", given, target)]
    places: list[Place] = []
    for i, entry in enumerate(listed):
        if entry == "path":
            places += travelled
        elif entry == "start":
            places.append(travelled[0])
        elif entry == "optimum":
            places.append(travelled[-1])
        elif entry == "middle":
            places.append(travelled[(len(travelled) - 1) // 2]._replace(name="middle"))
        else:
            places.append(_place(f"place {i}", entry, target))
    return places


def _place(name: str, guide: Any, target: Target) -> Place:
    fitted = guide.target.program.params if isinstance(guide, Posterior) else target.program.params
    return Place(name, _guide_of(guide, target), fitted)


def optimisation_path(key: Key, target: Target, start: AbstractGuide, objective: AbstractObjective) -> list[Place]:
    """Eight guides from ``start`` to the optimum, evenly spaced in the logarithm of the loss still to be lost.

    The optimum is that of `fit`, with more draws per step for flows. The way there is one run of a learning-rate-free
    optimiser (Prodigy, arXiv:2306.06101) from ``start`` in the guide's own parameters.
    """
    from ._fit import fit

    key_fit, key_run = jax.random.split(key)
    gradient, _ = automatic_gradient(objective, target, start, _PARTICLES)
    posterior = fit(
        target,
        start,
        objective=objective,
        gradient=gradient,
        num_particles=_FLOW_PARTICLES if isinstance(start, AbstractFlow) else _PARTICLES,
        num_restarts=2,
        num_draws=128,
        key=key_fit,
        progress=False,
    )
    stops = np.unique(np.round(np.geomspace(1, _STEPS, _STOPS)).astype(int))
    gradient = gradient.bind(target, start)
    parameters, _ = split(target, start)
    own = eqx.filter(gradient, eqx.is_inexact_array)
    snapshots, losses = _travel(key_run, target, start, gradient, objective, parameters, own, jnp.asarray(stops))
    gaps = np.asarray(losses) - float(np.asarray(posterior.data["optimization"]["loss"].values)[-100:].mean(0).min())
    good = np.isfinite(gaps) & np.array(
        [all(bool(np.isfinite(x[i]).all()) for x in jax.tree.leaves(snapshots)) for i in range(len(stops))]
    )
    gaps = np.where(good, np.maximum(gaps, 1e-12), np.inf)
    _, static = split(target, start)

    def place(name: str, i: int) -> Place:
        learned, model = jax.tree.map(lambda x: jnp.asarray(x[i]), snapshots)
        return Place(name, eqx.combine(learned, static), model)

    first, last = float(gaps[0]), float(max(np.min(gaps), 0.05))
    levels = np.geomspace(max(first, last), last, _PATH)[1:-1]
    chosen = [int(np.argmax(gaps <= level)) if np.any(gaps <= level) else int(np.argmin(gaps)) for level in levels]
    between = [place(f"path {j + 1}", i) for j, i in enumerate(chosen)]
    return [_place("start", start, target), *between, _place("optimum", posterior, target)]


@eqx.filter_jit
def _travel(
    key: Key,
    target: Target,
    guide: AbstractGuide,
    gradient: AbstractGradient,
    objective: AbstractObjective,
    parameters: Parameters,
    own: Any,
    stops: Array,
) -> tuple[Any, Array]:
    """Guide and model parameters at the stops, and the mean loss there."""
    _, static = split(target, guide)
    _, fixed = eqx.partition(gradient, eqx.is_inexact_array)
    optimizer = optax.contrib.prodigy()
    learned = parameters._replace(estimator=None)

    key_steps, key_looks = jax.random.split(key)

    def estimated(key: Key, parameters: Parameters, own: Any) -> tuple[Estimate, Parameters]:
        key_draw, key_batch = jax.random.split(key)
        joined_target, joined_guide = join(parameters, target, static)
        batch = target.minibatch(key_batch) if target.subsampled else None
        return eqx.combine(own, fixed).value_and_grad(
            key_draw, objective, joined_target, joined_guide, _PARTICLES, batch
        )

    def advance(i: Array, carry: Any) -> Any:
        parameters, own, state = carry
        _, steps = estimated(jax.random.fold_in(key_steps, i), parameters, own)
        if steps.estimator is not None:
            own = jax.tree.map(jnp.subtract, own, steps.estimator)
        updates, state = optimizer.update(steps._replace(estimator=None), state, parameters)
        return optax.apply_updates(parameters, updates), own, state

    def stretch(carry: Any, ends: tuple[Array, Array]) -> tuple[Any, Any]:
        begin, end = ends
        parameters, own, state = jax.lax.fori_loop(begin, end, advance, carry)
        looks = jax.random.split(jax.random.fold_in(key_looks, end), _LOOKS)
        losses = jax.lax.map(lambda k: estimated(k, parameters, own)[0].loss, looks)
        return (parameters, own, state), ((parameters.guide, parameters.model), jnp.mean(losses))

    begins = jnp.concatenate([jnp.zeros((1,), stops.dtype), stops[:-1]])
    _, (snapshots, losses) = jax.lax.scan(stretch, (learned, own, optimizer.init(learned)), (begins, stops))
    return snapshots, losses
