"""Learn the fields of an interpolant from draws of its ends."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import time
from collections.abc import Sequence
from pathlib import Path as FilePath
from typing import Any, NamedTuple

import equinox as eqx
import jax
import numpy as np
import optax
from jaxtyping import Float, PyTree

from ...models._types import Key
from .._checks import check_count, check_key, check_positive
from ..engine import Progress, check_writable, checkpoint_writer, initialise, read_checkpoint, run
from ._ends import Source, make_ends
from ._learned_fields import LearnedFields, Network, Quantity, check_predicts, default_predicts
from ._losses import QuadraticLoss, needs_antithetic
from ._networks import FieldNetwork
from ._pairings import AbstractCoupling, check_coupling, num_values
from ._path import AbstractPath, check_path
from ._training_kernel import InterpolantTraining, Loss, Problem

CHECKPOINT_KIND = "interpolant"
_SCALE_DRAWS = 8_192
"""Draws of a function that means and variances are estimated from."""
_WARMUP = 50


class Training(NamedTuple):
    """Where a training ended."""

    fields: LearnedFields
    """With the exponential average of the parameters."""
    last_fields: LearnedFields
    """With the last parameters."""
    losses: Float[np.ndarray, "step loss"]
    """One row per step, one column per predicted quantity; their constants are left out, so they may be negative."""
    seconds: float
    """Of this process, compilation included."""


@dataclasses.dataclass(frozen=True)
class TrainingJob:
    """Everything a training needs to go on in another process."""

    kernel: InterpolantTraining
    key: Key
    num_steps: int


def train(
    key: Key,
    path: AbstractPath,
    base: Source | None,
    target: Source,
    *,
    condition: PyTree = None,
    coupling: AbstractCoupling | None = None,
    predicts: Quantity | Sequence[Quantity] | None = None,
    network: Network | Sequence[Network] | None = None,
    precondition: bool = True,
    loss: Loss | None = None,
    optimizer: optax.GradientTransformation | None = None,
    num_steps: int = 2_000,
    batch_size: int = 1_024,
    averaging: float = 0.995,
    progress: bool = True,
    checkpoint: str | os.PathLike[str] | None = None,
    checkpoint_every: float = 60.0,
) -> Training:
    """Learn the fields of an interpolant by regression on draws of its ends.

    Each step draws a batch of paired ends, times and noise, and takes one optimiser step on quadratic losses whose
    minimisers are the fields; no trajectory is simulated. On paths along which a target of the regression grows without
    bound the loss is averaged over the sign of the noise, which keeps its variance finite.

    Args:
        key: a key; equal keys give equal bits, whatever the progress line, chunks or checkpoints.
        path: the path.
        base: draws (n, *event), or a function ``(key, num) -> draws``, of time 0; None on a path with one end.
        target: the same for time 1. A function may return ``(draws, condition)``.
        condition: floating-point arrays, one entry per draw of the target, that the fields are to depend on; one-hot
            encode labels for the networks.
        coupling: how draws are paired; default `Independent`. `MinibatchTransport` straightens the ways, `Paired` keeps
            pairs that are given, `schroedinger` makes a bridge.
        predicts: what networks predict, see `LearnedFields`; default velocity, and noise on paths with two ends.
        network: ``network(t, x, condition)``, any equinox module, or one per prediction; default `FieldNetwork`.
        precondition: whether networks see standardised points, and add to the fields of Gaussian ends in units of what
            is left to learn (`Preconditioner`); for networks of one's own too.
        loss: ``loss(key, fields, ends, condition)`` in place of the quadratic ones.
        optimizer: an optax transformation; default Adam at 2e-3, warmed up over 50 steps and cooled by a cosine to
            nothing at ``num_steps``.
        num_steps: steps.
        batch_size: draws per step.
        averaging: decay per step of the exponential average of the parameters.
        progress: show a progress line.
        checkpoint: file to save the run to (atomically), for `resume_training`.
        checkpoint_every: seconds between saves.

    Returns:
        Fields for `flow`, `diffuse` and `log_prob`, and the losses.

    Raises:
        ValueError: for bad arguments, predictions from which the fields do not follow, or ends that do not fit.
        NonFiniteError: at the first loss that is not finite.

    Bias: that of networks and of finite draws; couplings of minibatches have their own. Cost per step: the gradient of
    ``batch_size`` network evaluations, twice where the sign of the noise is averaged over.

    Reference: Albergo, Boffi, Vanden-Eijnden, Stochastic interpolants, arXiv:2303.08797, algorithm 1.
    """
    check_key(key)
    check_count("num_steps", num_steps, 1)
    check_count("batch_size", batch_size, 2)
    check_path(path)
    decay = check_positive("averaging", averaging, unit="no units", zero=True)
    if float(decay) >= 1.0:
        raise ValueError(f"averaging={averaging}: expected a decay below 1.")
    if checkpoint is not None:
        check_writable(FilePath(checkpoint))
    names = default_predicts(path) if predicts is None else check_predicts(path, predicts)
    to_ends, to_network, to_run = jax.random.split(key, 3)
    coupling = check_coupling(coupling)
    ends = make_ends(to_ends, path, base, target, condition, coupling)
    shapes, given = ends.shapes(to_ends, coupling)
    if network is None:
        networks: tuple[Network, ...] = (
            eqx.filter_jit(FieldNetwork)(
                to_network,
                shapes[-1].shape[1:],
                len(names),
                condition_size=num_values(given),
                dtype=shapes[-1].dtype,
            ),
        )
    else:
        networks = tuple(network) if isinstance(network, list | tuple) else (network,)  # type: ignore[assignment]
    preconditioner = ends.preconditioner(to_ends, _SCALE_DRAWS) if precondition else None
    fields = LearnedFields(path, names, *networks, preconditioner=preconditioner)
    if loss is not None and not callable(loss):
        raise ValueError(f"loss={loss!r}: expected a function loss(key, fields, ends, condition), or None.")
    if loss is None:
        loss = QuadraticLoss(antithetic=needs_antithetic(path, names))
    kernel = InterpolantTraining(
        Problem(fields, ends, coupling, loss), _make_optimizer(optimizer, num_steps), batch_size, decay
    )
    if not jax.tree.leaves(kernel.parameters):
        raise ValueError("network has no floating-point arrays to learn: expected an equinox module with parameters.")
    job = TrainingJob(kernel, to_run, num_steps)
    return _run(job, initialise(kernel, to_run, kernel.parameters), progress, checkpoint, checkpoint_every)


def resume_training(
    path: str | os.PathLike[str],
    *,
    num_steps: int | None = None,
    progress: bool = True,
    checkpoint: str | os.PathLike[str] | None = None,
    checkpoint_every: float = 60.0,
) -> Training:
    """Continue a `train` in this process, bit for bit as if it had never stopped.

    Args:
        path: file given as ``checkpoint=``. Opening it runs pickled code: open only files you trust.
        num_steps: new total number of steps; the default optimiser's schedule stays that of the number asked for first.
        progress: show a progress line.
        checkpoint: where to go on saving; None takes ``path``.
        checkpoint_every: seconds between saves.

    Returns:
        The result of the whole run, losses before the checkpoint included.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if the file is damaged, is of another kind of run, or has more steps already.
    """
    saved = read_checkpoint(path)
    if saved.header["kind"] != CHECKPOINT_KIND:
        raise ValueError(
            f"'{path}' is the checkpoint of a {saved.header['kind']}: expected one of interpolants.train; continue "
            "this one with pf.resume."
        )
    job = saved.job
    if num_steps is not None:
        if check_count("num_steps", num_steps, 1) < saved.step:
            raise ValueError(
                f"num_steps={num_steps}: expected at least the {saved.step} steps that were taken already."
            )
        job = dataclasses.replace(job, num_steps=num_steps)
    where = path if checkpoint is None else checkpoint
    return _run(job, saved.state, progress, where, checkpoint_every, saved.step, saved.records)


def _run(
    job: TrainingJob,
    state: Any,
    progress: bool,
    checkpoint: str | os.PathLike[str] | None,
    checkpoint_every: float,
    start: int = 0,
    records: PyTree | None = None,
) -> Training:
    began, kernel, save = time.perf_counter(), job.kernel, None
    path_name = type(kernel.problem.fields.path).__name__
    if checkpoint is not None:
        header = {"kind": CHECKPOINT_KIND, "source": path_name, "provenance": {}}
        save = checkpoint_writer(checkpoint, job, header, state)
    with Progress(f"train {path_name}") if progress else contextlib.nullcontext() as meter:
        result = run(
            kernel,
            state,
            key=job.key,
            num_steps=job.num_steps,
            start=start,
            records=records,
            progress=meter,
            save=save,
            save_every=checkpoint_every,
        )
    fields, last = kernel.fields(result.state.average), kernel.fields(result.state.parameters)
    return Training(fields, last, np.asarray(result.records), time.perf_counter() - began)


def _make_optimizer(optimizer: Any, num_steps: int) -> optax.GradientTransformationExtraArgs:
    if optimizer is None:
        warmup = min(_WARMUP, num_steps // 4)
        schedule = optax.warmup_cosine_decay_schedule(0.0, 2e-3, warmup, max(num_steps, warmup + 1))
        return optax.with_extra_args_support(optax.adam(schedule))
    if not isinstance(optimizer, optax.GradientTransformation):
        raise ValueError(
            f"optimizer={optimizer!r}: expected an optax transformation such as optax.adam(1e-3), or None for the "
            "default."
        )
    return optax.with_extra_args_support(optimizer)
