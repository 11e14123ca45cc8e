"""Variational inference in one call."""

from __future__ import annotations

import dataclasses
import os
import time
from collections.abc import Mapping
from pathlib import Path as FilePath
from typing import Any, Literal

import jax
import optax

from ..estimators import AbstractGradient, AbstractObjective
from ..estimators._keywords import explain_keywords
from ..estimators.gradients import resolve_gradient
from ..estimators.sites import AbstractSiteStrategy
from ..models import Target
from ..models._types import Key
from ..models.guides import AbstractGuide
from ..samplers import Variational
from ..samplers._variational import default_optimizer
from ..samplers.engine import NonFiniteError, check_writable, initialise, run
from ._arguments import check_count, check_key, check_learnable, check_objective, check_target
from ._automatic import automatic_gradient, note_choice
from ._execution import Execution
from ._fit_result import explain_failure, fitted_posterior
from ._posterior import Posterior
from ._starts import default_particles, resolve_guide, stack_starts, starting_guides


@dataclasses.dataclass(frozen=True)
class FitJob:
    """Everything a fit needs to go on in another process."""

    kernel: Variational
    key: Key
    num_steps: int
    num_draws: int
    guide_name: str
    config: dict[str, Any]
    choice: str = ""
    """Why the gradient estimator was chosen, where the choice was left to the fit."""


@explain_keywords
def fit(
    target: Target,
    guide: AbstractGuide | type[AbstractGuide] | None = None,
    *,
    objective: AbstractObjective | None = None,
    gradient: AbstractGradient | AbstractSiteStrategy | Mapping[str, Any] | Literal["auto"] | None = None,
    optimizer: optax.GradientTransformation | None = None,
    num_steps: int = 20_000,
    num_particles: int | None = None,
    num_restarts: int = 4,
    num_draws: int = 4_096,
    stop_early: bool = True,
    init: AbstractGuide | Posterior | None = None,
    key: Key,
    progress: bool = True,
    checkpoint: str | os.PathLike[str] | None = None,
    checkpoint_every: float = 60.0,
) -> Posterior:
    """Fit a variational guide to a target and say whether the answer can be trusted.

    Several restarts run at once. Location-scale guides start from the best local Gaussians that a damped Newton climb
    finds from many points and are optimised in coordinates whitened there, so that the default optimiser (Adam, its
    step reduced as the loss stalls) needs no tuning. A restart stops when its loss no longer improves beyond Monte
    Carlo noise; the last phase averages iterates. The best restart by the objective is returned, together with what the
    others found.

    Args:
        target: from `from_numpyro`, `from_pyro` or `from_logdensity`.
        guide: variational family, bound or not, or its class. None takes `FullRank` up to 64 dimensions, else
            `MeanField`.
        objective: what is optimised; default `ELBO()`.
        gradient: how it is differentiated; default `Path()`. For a program guide also a strategy per random site,
            ``{"z": pf.MeasureValued(), "w": pf.Path()}`` (sites that are not named take `Path`). ``"auto"`` mixes
            `Path` and `Reparam` by the variances measured along the way (`Adaptive`), or takes what applies;
            ``.verdict`` says what and why.
        optimizer: any optax transformation, the learning-rate-free ones of ``optax.contrib`` included; its own schedule
            is left alone. It acts in whitened coordinates for location-scale guides.
        num_steps: at most this many gradient steps.
        num_particles: draws of the guide per step and restart; default what suits the objective (8 for the ELBO), down
            to a quarter where the data has more than a hundred thousand numbers per evaluation, and 1 for point masses.
        num_restarts: starting points optimised side by side; their disagreement reveals missed modes.
        num_draws: draws kept in the result; quasi-random for Gaussian guides, where a power of two is best.
        stop_early: stop a restart when its loss no longer improves; False runs all ``num_steps``.
        init: a guide or a fitted posterior of the same family to start from, instead of the Newton climb.
        key: a key; equal keys give equal bits, whatever the progress bar, chunks or checkpoints.
        progress: show a progress line.
        checkpoint: file to save the run to (atomically), for `resume`.
        checkpoint_every: seconds between saves.

    Returns:
        A `Posterior` of kind "variational" (or "point") with ``.verdict``, ``.guide`` and ``.data``.

    Raises:
        ValueError: for bad arguments, a guide that does not fit the model, or no starting point of finite density.
        NonFiniteError: if every restart meets a value that is not finite; names step and site and keeps the last good
            state.

    Bias: that of the objective and the family; the verdict measures it (PSIS k-hat). Cost: num_restarts * num_particles
    gradients of the log-density per step. With an improper or partly improper model the ELBO is known up to a constant.
    """
    began = time.perf_counter()
    target = check_target(target)
    check_key(key)
    check_count("num_steps", num_steps, 1)
    check_count("num_restarts", num_restarts, 1)
    check_count("num_draws", num_draws, 100)
    key_params, key_starts, key_run, key_end = jax.random.split(key, 4)
    if target.program.params and not target.fitted:
        target = target.with_params(target.program.initial_params(key_params), fitted=False)
    bound_guide = resolve_guide(guide, target)
    check_learnable(target, bound_guide)
    objective = check_objective(objective)
    particles = (
        default_particles(target, bound_guide, objective)
        if num_particles is None
        else check_count("num_particles", num_particles, 1)
    )
    start_from = init.guide if isinstance(init, Posterior) else init
    if start_from is not None and type(start_from) is not type(bound_guide):
        raise ValueError(
            f"init is a {type(start_from).__name__}, but the guide is a {type(bound_guide).__name__}: expected the "
            "same family to start from."
        )
    objective.check(particles)
    choice = ""
    if isinstance(gradient, str) and gradient == "auto":
        gradient, choice = automatic_gradient(objective, target, bound_guide, particles)
    estimator = resolve_gradient(gradient, bound_guide, objective)
    estimator.check(objective, target, bound_guide, particles)
    transformation = _check_optimizer(optimizer, bound_guide)
    if checkpoint is not None:
        check_writable(FilePath(checkpoint))
    guides = starting_guides(key_starts, target, bound_guide, num_restarts, start_from)
    estimator = estimator.bind(target, guides[0])
    parameters, frozen, shared = stack_starts(target, guides, estimator)
    kernel = Variational(
        target=target,
        static=shared,
        objective=objective,
        gradient=estimator,
        optimizer=transformation,
        num_particles=particles,
        num_restarts=num_restarts,
        decay=optimizer is None,
        stop_early=stop_early,
    )
    config = {
        "method": "fit",
        "guide": type(bound_guide).__name__,
        "objective": kernel.objective.label,
        "gradient": type(kernel.gradient).__name__,
        "optimizer": "adam, decayed on stall" if optimizer is None else "user",
        "num_particles": particles,
        "num_restarts": num_restarts,
        "num_draws": num_draws,
    }
    job = FitJob(kernel, key_run, num_steps, num_draws, type(bound_guide).__name__, config, choice)
    state = initialise(kernel, key_run, (parameters, frozen))
    provenance = {"seed": jax.random.key_data(key).tolist(), "configuration": {**config, "num_steps": num_steps}}
    return run_fit(job, state, key_end, Execution(progress, checkpoint, checkpoint_every, provenance, began))


def run_fit(job: FitJob, state: Any, key_end: Key, how: Execution) -> Posterior:
    """Run a fit from a state to its posterior."""
    kernel, label = job.kernel, f"fit {job.guide_name}"
    saved = (job, jax.random.key_data(key_end))
    try:
        with how.opened("fit", kernel.target.program.source, label, saved, state) as shown:
            result = run(
                kernel, state, key=job.key, num_steps=job.num_steps, start=how.start, records=how.records, **shown
            )
    except NonFiniteError as error:
        raise explain_failure(kernel, error, job.key) from error
    posterior = fitted_posterior(kernel, result, key_end, job.num_draws, job.guide_name, how)
    if job.choice:
        note_choice(posterior, kernel.gradient, job.choice)
    return posterior


def _check_optimizer(optimizer: Any, guide: AbstractGuide) -> optax.GradientTransformationExtraArgs:
    if optimizer is None:
        return default_optimizer(guide.learning_rate)
    if not isinstance(optimizer, optax.GradientTransformation):
        raise ValueError(
            f"optimizer={optimizer!r}: expected an optax transformation such as optax.adam(1e-2) or "
            "optax.contrib.prodigy(), or None for the default, which needs no learning rate."
        )
    return optax.with_extra_args_support(optimizer)
