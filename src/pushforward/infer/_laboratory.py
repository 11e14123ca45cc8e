"""Gradient estimators side by side: bias, variance, signal-to-noise and cost on the user's own model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from ..estimators import AbstractGradient, AbstractObjective, Path, Reparam
from ..estimators._keywords import explain_keywords
from ..estimators.gradients import Score, split
from ..models import Target
from ..models._types import Key
from ..models.guides import AbstractGuide
from ._arguments import check_count, check_key, check_objective, check_target
from ._automatic import applicable, resolve_gradient
from ._estimator_comparison import FALSE_ALARM, EstimatorComparison
from ._gradient_moments import Moments, Probe
from ._judge import Dispute, choose_judge, explain_disputes, p_value, z_scores
from ._places import resolve_places

_REFERENCE_FACTOR = 8
"""Length of the reference run, in multiples of ``num_repeats``."""
_OWN = "pf.Reparam()"
"""Name of the estimator that is called in where others disagree."""


class _Row(NamedTuple):
    """One estimator with one number of particles at one place."""

    estimator: str
    num_particles: int
    at: str
    probe: Probe
    moments: Moments


@explain_keywords
def compare_estimators(
    target: Target,
    guide: Any,
    estimators: Mapping[str, Any],
    *,
    objective: AbstractObjective | None = None,
    num_particles: int | Sequence[int] = (1, 4, 16),
    num_repeats: int = 1000,
    key: Key,
    at: Any = None,
) -> EstimatorComparison:
    """Measure gradient estimators on a model: which is biased, which is noisy, what each costs.

    Every estimator's gradient is drawn ``num_repeats`` times (with fresh minibatches where the target has them). Its
    mean is compared with that of a run eight times as long, of the least noisy of the library's own estimators;
    independent keys, standard errors pooled. Where those disagree, the recommendation says so, and the reference is
    `Reparam` (the majority, where it does not apply) or a less noisy one that agrees with it.

    Args:
        target: from `from_numpyro`, `from_pyro` or `from_logdensity`.
        guide: a variational family, bound or not, or a fitted posterior. A flow whose layers are not drawn is taken
            where `fit` would start it.
        estimators: ``{name: gradient}``, as for ``gradient`` in `fit`.
        objective: what is differentiated; default `ELBO()`.
        num_particles: draws per gradient; a number or several.
        num_repeats: gradients per measurement.
        key: a key.
        at: where to measure: None at ``guide`` as given; a guide or a posterior; any of ``"start"``, ``"middle"``,
            ``"optimum"`` (an optimisation is then run from ``guide`` to its optimum); ``"path"`` for eight places
            along it; a sequence or ``{name: guide}`` of these.

    Returns:
        `EstimatorComparison` with ``.table``, ``.blocks`` (per parameter block), ``.recommendation``, ``.bound()`` and
        ``.plot()``.

    Raises:
        ValueError: for bad arguments, or a combination that an estimator refuses (it says why).

    Cost: one compilation per estimator and number of particles, num_repeats gradients each and 8 * num_repeats for the
    reference (where estimators disagree, `Reparam` is measured too); memory of a few gradients. Signal-to-noise as in
    Rainforth et al., arXiv:1802.04537, section 3, with norms over all parameters.
    """
    target = check_target(target)
    check_key(key)
    check_count("num_repeats", num_repeats, 16)
    objective = check_objective(objective)
    counts = _counts(num_particles)
    key_params, key_places, key_measure, key_reference = jax.random.split(key, 4)
    if target.program.params and not target.fitted:
        target = target.with_params(target.program.initial_params(key_params), fitted=False)
    places = resolve_places(key_places, target, guide, at, objective)
    gradients = _resolved(estimators, places[0].guide, objective)
    for name, gradient in gradients.items():
        for count in counts:
            _check(name, gradient, objective, target, places[0].guide, count)
    rows: list[_Row] = []
    references: dict[tuple[int, str], Moments] = {}
    disputes: list[Dispute] = []
    for k, count in enumerate(counts):
        # Places share the compiled loop, which takes their numbers as arguments.
        probes = {name: Probe(g, objective, target, places[0].guide, count) for name, g in gradients.items()}
        judges = {name: probe for name, probe in probes.items() if _is_ours(gradients[name])}
        if not judges:
            own = applicable(objective, target, places[0].guide, count, (Path(), Reparam(), Score()))
            judges = {"": Probe(own[0], objective, target, places[0].guide, count)}
        for j, place in enumerate(places):
            key_here = jax.random.fold_in(jax.random.fold_in(key_measure, k), j)
            here = {
                name: probe.measure(jax.random.fold_in(key_here, i), *place[1:], num_repeats)
                for i, (name, probe) in enumerate(probes.items())
            }
            heard = {name: here[name] for name in judges if name in here}
            level = FALSE_ALARM / (len(counts) * len(places))
            judge, quarrel = choose_judge(heard, _anchor(gradients), level) if heard else (next(iter(judges)), [])
            if quarrel and _anchor(gradients) is None and _applies(objective, target, places[0].guide, count):
                if _OWN not in judges:
                    judges[_OWN] = Probe(Reparam(), objective, target, places[0].guide, count)
                heard[_OWN] = judges[_OWN].measure(jax.random.fold_in(key_here, len(probes)), *place[1:], num_repeats)
                judge, quarrel = choose_judge(heard, _OWN, level)
            if quarrel:
                disputes.append(Dispute(judge, tuple(quarrel)))
            key_long = jax.random.fold_in(jax.random.fold_in(key_reference, k), j)
            references[count, place.name] = judges[judge].measure(key_long, *place[1:], _REFERENCE_FACTOR * num_repeats)
            rows += [_Row(name, count, place.name, probes[name], moments) for name, moments in here.items()]
    labels = _block_labels(target, places[0].guide)
    return _assemble(rows, references, labels, objective, target, explain_disputes(disputes))


def _counts(num_particles: int | Sequence[int]) -> list[int]:
    listed = list(num_particles) if isinstance(num_particles, Sequence | np.ndarray) else [num_particles]
    if not listed:
        raise ValueError("num_particles is empty: expected at least one number of draws, e.g. (1, 4, 16).")
    return [check_count("num_particles", count, 1) for count in listed]


def _resolved(
    estimators: Mapping[str, Any], guide: AbstractGuide, objective: AbstractObjective
) -> dict[str, AbstractGradient]:
    if not isinstance(estimators, Mapping) or not estimators:
        raise ValueError(
            f"estimators={estimators!r}: expected a dict of names and gradients, e.g. {{'path': pf.Path(), 'reparam': "
            "pf.Reparam()}."
        )
    return {str(k): resolve_gradient(g, guide, objective, f"estimators[{k!r}]") for k, g in estimators.items()}


def _check(name: str, gradient: AbstractGradient, objective: Any, target: Target, guide: Any, count: int) -> None:
    try:
        gradient.check(objective, target, guide, count)
    except ValueError as error:
        raise ValueError(f"Estimator '{name}' with num_particles={count}: {error}") from error


def _is_ours(gradient: AbstractGradient) -> bool:
    """Whether the estimator is one of the library's; a user's own is not the judge."""
    return type(gradient).__module__.split(".")[0] == __name__.split(".")[0]


def _block_labels(target: Target, guide: AbstractGuide) -> list[tuple[str, int]]:
    parameters, _ = split(target, guide)
    leaves = jax.tree_util.tree_flatten_with_path((parameters.guide, parameters.model))[0]
    labels = []
    for path, leaf in leaves:
        name = jax.tree_util.keystr(path[1:], simple=True, separator=".")
        labels.append(((f"model.{name}" if path[0].idx == 1 else name), int(np.size(leaf))))
    return labels


def _anchor(gradients: Mapping[str, AbstractGradient]) -> str | None:
    """The name of plain `Reparam`, or None."""
    return next((name for name, g in gradients.items() if type(g) is Reparam and g == Reparam()), None)


def _applies(objective: AbstractObjective, target: Target, guide: AbstractGuide, count: int) -> bool:
    try:
        Reparam().check(objective, target, guide, count)
    except ValueError:
        return False
    return True


def _assemble(
    rows: list[_Row],
    references: dict[tuple[int, str], Moments],
    labels: list[tuple[str, int]],
    objective: AbstractObjective,
    target: Target,
    disagreement: str,
) -> EstimatorComparison:
    import pandas as pd

    table, blocks = [], []
    edges = np.cumsum([0, *[size for _, size in labels]])
    for row in rows:
        moments, reference = row.moments, references[row.num_particles, row.at]
        difference, z = z_scores(moments, reference)
        signal = _signal(reference, slice(None))
        table.append(
            {
                "estimator": row.estimator,
                "num_particles": row.num_particles,
                "at": row.at,
                "z": float(np.abs(z).max(initial=0.0)),
                "variance": moments.trace,
                "snr": _ratio(signal, np.sqrt(moments.trace)),
                "seconds": moments.seconds,
                "evaluations": row.probe.evaluations,
                "variance_error": moments.trace_error,
                "variance_x_seconds": moments.trace * moments.seconds,
                "variance_x_evaluations": moments.trace * row.probe.evaluations,
                "bias": float(np.linalg.norm(difference)),
                "p_value": p_value(z, moments.num),
                "gradient_norm": signal,
                "value": moments.value,
                "value_error": moments.value_error,
                "loss": moments.loss,
                "compile_seconds": row.probe.compile_seconds,
            }
        )
        for (label, size), begin in zip(labels, edges[:-1], strict=True):
            part = slice(begin, begin + size)
            variance = float(moments.variance[part].sum())
            blocks.append(
                {
                    "estimator": row.estimator,
                    "num_particles": row.num_particles,
                    "at": row.at,
                    "block": label,
                    "size": size,
                    "z": float(np.abs(z[part]).max(initial=0.0)),
                    "variance": variance,
                    "snr": _ratio(_signal(reference, part), np.sqrt(variance)),
                }
            )
    return EstimatorComparison(
        pd.DataFrame(table),
        pd.DataFrame(blocks),
        objective=objective.label,
        model=target.program.source,
        disagreement=disagreement,
    )


def _signal(reference: Moments, part: slice) -> float:
    """Norm of the mean gradient, its own Monte Carlo noise taken off (zero where it is nothing but noise)."""
    square = np.sum(reference.mean[part] ** 2) - np.sum(reference.variance[part]) / reference.num
    return float(np.sqrt(max(square, 0.0)))


def _ratio(signal: float, noise: float) -> float:
    return signal / noise if noise > 0 else (float("inf") if signal > 0 else float("nan"))
