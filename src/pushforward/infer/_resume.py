"""Go on with a run from its checkpoint."""

from __future__ import annotations

import dataclasses
import os
import time

import jax
import jax.numpy as jnp

from ..samplers.engine import read_checkpoint
from ._arguments import check_count
from ._devices import Devices, mesh_of, place_state
from ._execution import Execution
from ._fit import run_fit
from ._posterior import Posterior
from ._sample import run_sample


def resume(
    path: str | os.PathLike[str],
    *,
    num_steps: int | None = None,
    devices: Devices = None,
    progress: bool = True,
    checkpoint: str | os.PathLike[str] | None = None,
    checkpoint_every: float = 60.0,
) -> Posterior:
    """Continue a fit or a sampling run in this process, bit for bit as if it had never stopped.

    Args:
        path: file given as ``checkpoint=`` to `fit` or `sample`. Opening it runs pickled code: open only files you
            trust.
        num_steps: new total number of steps (after warm-up, for sampling); None keeps the one asked for.
        devices: as in `sample`; need not be as many as the run was started on.
        progress: show a progress line.
        checkpoint: where to go on saving; None takes ``path``.
        checkpoint_every: seconds between saves.

    Returns:
        The posterior of the whole run, steps before the checkpoint included.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if the file is damaged, is no checkpoint, or was written with floats of another width; or if
            ``num_steps`` is below the number of steps already taken, or no multiple of ``thin``.
    """
    began = time.perf_counter()
    saved = read_checkpoint(path)
    if saved.header["kind"] not in ("fit", "sample"):
        raise ValueError(
            f"The checkpoint '{path}' is of a training of fields ({saved.header['source']}): expected one of fit or "
            "sample; continue this one with pf.interpolants.resume_training."
        )
    provenance = dict(saved.header["provenance"])
    job = saved.job[0] if saved.header["kind"] == "fit" else saved.job
    taken = saved.step if saved.header["kind"] == "fit" else max(0, saved.step - job.num_warmup)
    if num_steps is not None:
        check_count("num_steps", num_steps, 1)
        if num_steps < taken:
            raise ValueError(
                f"num_steps={num_steps}, but the checkpoint '{path}' has {taken} steps already: expected at least "
                f"{taken}."
            )
        if num_steps % getattr(job, "thin", 1):
            raise ValueError(
                f"num_steps={num_steps} is no multiple of thin={job.thin}, with which the run was started: expected "
                "one, so that every kept draw is complete."
            )
        job = dataclasses.replace(job, num_steps=num_steps)
        provenance["configuration"] = {**provenance["configuration"], "num_steps": num_steps}
    where = path if checkpoint is None else checkpoint
    how = Execution(progress, where, checkpoint_every, provenance, began, saved.step, saved.records)
    if saved.header["kind"] == "fit":
        return run_fit(job, saved.state, jax.random.wrap_key_data(jnp.asarray(saved.job[1])), how)
    mesh = mesh_of(devices)
    state = place_state(mesh, job.chains, saved.state)
    return run_sample(job, state, dataclasses.replace(how, mesh=mesh))
