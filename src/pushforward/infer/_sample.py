"""Sampling in one call."""

from __future__ import annotations

import dataclasses
import os
import time
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import PyTree

from ..estimators._keywords import explain_keywords
from ..models import Target
from ..models._layout import Layout
from ..models._types import Key, Position
from ..samplers import AbstractEnsemble, AbstractKernel, AbstractSampler, Chains
from ..samplers.engine import NonFiniteError, Online, initialise, run
from ._arguments import check_count, check_key, check_target
from ._build import build_posterior
from ._devices import Devices, mesh_of, on_mesh, place_positions, to_host
from ._execution import Execution
from ._isolation import isolated_chains, isolated_particles, isolation_attrs
from ._log_evidence import pooled_evidence
from ._online import keep_figures, kept_records, online_dataset
from ._posterior import Kind, Posterior
from ._sample_starts import starting_positions
from ._tree import unravel_draws

if TYPE_CHECKING:
    import xarray as xr


@dataclasses.dataclass(frozen=True)
class SampleJob:
    """Everything a sampling run needs to go on in another process."""

    chains: Chains
    target: Target
    key: Key
    num_steps: int
    num_warmup: int
    thin: int
    name: str
    max_draws: int | None = None

    def kernel(self) -> AbstractKernel:
        """What the loop runs."""
        if self.max_draws is None:
            return self.chains
        return keep_figures(self.chains, self.target, self.max_draws, self.num_warmup)


@explain_keywords
def sample(
    target: Target,
    kernel: AbstractSampler,
    *,
    key: Key,
    num_steps: int,
    num_warmup: int = 0,
    num_chains: int = 1,
    thin: int = 1,
    init: Posterior | Position | None = None,
    max_draws: int | None = None,
    devices: Devices = None,
    progress: bool = True,
    checkpoint: str | os.PathLike[str] | None = None,
    checkpoint_every: float = 60.0,
) -> Posterior:
    """Draw from a target with a sampler.

    Args:
        target: from `from_numpyro`, `from_pyro` or `from_logdensity`.
        kernel: a sampler such as ``pf.NUTS()``.
        key: a key; chain i uses ``fold_in(., i)``, so adding chains does not change the others' keys.
        num_steps: steps after warm-up; ``num_steps / thin`` draws are kept per chain.
        num_warmup: steps of adaptation, whose draws are discarded.
        num_chains: chains, vectorised.
        thin: keep every ``thin``-th draw; must divide ``num_steps``.
        init: where chains start: a fitted posterior (chains start at draws of its guide, and the mass matrix at its
            covariance), a position with a leading chain axis, or None for random points of finite density.
        max_draws: keep at most this many draws per chain, evenly spaced over the run, so that memory does not grow with
            the number of steps; even. Means, sds, covariance, ESS and R-hat of all steps are then computed as the run
            goes; with quantiles of the kept draws they form the group ``online``, and the verdict goes by them. None
            keeps every ``thin``-th draw.
        devices: how many devices (or which) share the particles of an ensemble, or the chains; None uses JAX's default
            device. Results agree up to the order of sums.
        progress: show a progress line.
        checkpoint: file to save the run to (atomically), for `resume`.
        checkpoint_every: seconds between saves.

    Returns:
        A `Posterior` with a verdict: of kind "mcmc" with R-hat and ESS; of flows and `SMC` "particles", of optimisers
        "point".

    Raises:
        ValueError: for bad arguments or no starting point of finite density.
        NonFiniteError: if a chain meets a value that is not finite; names step, chain and site.

    Bias: that of the kernel (none for NUTS and HMC, up to convergence).
    """
    began = time.perf_counter()
    target = check_target(target)
    check_key(key)
    check_count("num_steps", num_steps, 1)
    check_count("num_warmup", num_warmup, 0)
    check_count("num_chains", num_chains, 1)
    check_count("thin", thin, 1)
    if num_steps % thin:
        raise ValueError(
            f"thin={thin} does not divide num_steps={num_steps}: expected a divisor, so that every kept draw is "
            "complete."
        )
    if max_draws is not None and thin != 1:
        raise ValueError(
            f"thin={thin} with max_draws={max_draws}: which draws are kept follows from max_draws alone. Expected one "
            "of the two."
        )
    if isinstance(kernel, type) and issubclass(kernel, AbstractSampler):
        kernel = kernel()
    if not isinstance(kernel, AbstractSampler):
        raise ValueError(
            f"kernel={kernel!r}: expected a sampler such as pf.NUTS() or pf.HMC(); guides are fitted with pf.fit."
        )
    if target.program.params and not target.fitted:
        raise ValueError(
            f"{target.program.source} has learnable parameters {sorted(target.program.params)}, which a sampler would "
            "hold at their initial values. Expected a fitted target: posterior.target after pf.fit, or "
            "target.with_params(...), or sites instead of parameters."
        )
    if target.dim == 0:
        raise ValueError(
            f"{target.program.source} has no latent site: there is nothing to sample. Expected at least one unobserved "
            "site."
        )
    key_start, key_run = jax.random.split(key)
    layout = Layout.of(target.example)
    positions, kernel = starting_positions(key_start, target, layout, kernel, num_chains, init)
    chains = Chains(kernel.bind(target, num_warmup), num_chains)
    job = SampleJob(chains, target, key_run, num_steps, num_warmup, thin, type(kernel).__name__, max_draws)
    mesh = mesh_of(devices)
    with on_mesh(mesh):
        # The last stream of the run's key starts the chains; steps use the streams from 0 on.
        key_init = jax.random.fold_in(key_run, 2**32 - 1)
        state = initialise(job.kernel(), key_init, place_positions(mesh, chains, positions))
    config = {"method": "sample", "kernel": job.name, "num_warmup": num_warmup, "num_chains": num_chains, "thin": thin}
    provenance = {"seed": jax.random.key_data(key).tolist(), "configuration": {**config, "num_steps": num_steps}}
    return run_sample(job, state, Execution(progress, checkpoint, checkpoint_every, provenance, began, mesh=mesh))


def run_sample(job: SampleJob, state: Any, how: Execution) -> Posterior:
    """Run chains from a state to their posterior. Steps before ``num_warmup`` are the warm-up."""
    start, records, total = how.start, how.records, job.num_warmup + job.num_steps
    kernel, label = job.kernel(), f"{job.name} {job.chains.num_chains} chain(s)"
    try:
        with on_mesh(how.mesh), how.opened("sample", job.target.program.source, label, job, state) as shown:
            if start < job.num_warmup:
                warm = run(kernel, state, key=job.key, num_steps=job.num_warmup, start=start, **shown)
                state, start, records = warm.state, job.num_warmup, None
            result = run(
                kernel,
                state,
                key=job.key,
                num_steps=total,
                start=start,
                records=records,
                thin=job.thin,
                **shown,
            )
    except NonFiniteError as error:
        raise _explain(job, error) from error
    result = result._replace(state=to_host(result.state))
    if isinstance(kernel, Online):
        online = online_dataset(job.chains, job.target, result.state)
        return _posterior(job, kept_records(result.state), result.state.inner, how, online)
    return _posterior(job, result.records, result.state, how)


def _posterior(
    job: SampleJob, records: PyTree, state: Any, how: Execution, online: xr.Dataset | None = None
) -> Posterior:
    layout = Layout.of(job.target.example)
    sampler = job.chains.sampler
    by_chain = {name: np.swapaxes(np.asarray(x), 0, 1) for name, x in records.items()}
    inner = job.chains.inner(state)
    attrs: dict[str, Any] = {"num_warmup": job.num_warmup, "thin": job.thin}
    common = {"algorithm": job.name, "state": state, "provenance": how.finished(), "online": online}
    if not isinstance(sampler, AbstractEnsemble):
        flat, isolated = by_chain.pop("position"), isolated_chains(job.chains, state)
        kept = np.setdiff1d(np.arange(job.chains.num_chains), list(isolated))
        statistics = {name: x[kept] for name, x in by_chain.items()}
        positions = unravel_draws(layout, flat[kept])
        attrs |= isolation_attrs("chain", isolated, job.chains.num_chains)
        return build_posterior(job.target, positions, kind="mcmc", sample_stats=statistics, attrs=attrs, **common)
    particles, isolated = np.asarray(inner.particles), isolated_particles(inner)
    attrs |= isolation_attrs("particle", isolated, particles.shape[0] * sampler.num_particles)
    attrs |= {"num_particles": sampler.num_particles}
    # Clouds stay rectangular: a particle that one of them has lost is left out of all (particles are exchangeable).
    kept = np.setdiff1d(np.arange(sampler.num_particles), [index[-1] for index in isolated])
    if sampler.ergodic:
        flat = by_chain.pop("position")[:, :, kept]
        # Every particle is a chain of its own.
        draws = np.swapaxes(flat, 1, 2).reshape(-1, flat.shape[1], flat.shape[3])
        kind: Kind = "mcmc"
    elif sampler.optimizes:
        draws, kind = np.asarray(jax.vmap(sampler.estimate)(inner))[:, None], "point"
    else:
        draws, kind = particles[:, kept], "particles"
    trace: dict[str, Any] = {name: (("chain", "step"), x) for name, x in by_chain.items() if x.ndim == 2}
    outcome = {name: np.asarray(x) for name, x in jax.vmap(sampler.outcome)(inner).items()}
    trace |= {name: (("chain",), x) for name, x in outcome.items()}
    attrs |= pooled_evidence(outcome)
    positions = unravel_draws(layout, draws)
    return build_posterior(job.target, positions, kind=kind, optimization=trace, attrs=attrs, **common)


def _explain(job: SampleJob, error: NonFiniteError) -> NonFiniteError:
    layout = Layout.of(job.target.example)
    state = error.state if job.max_draws is None else error.state.inner
    flat = np.asarray(jax.vmap(job.chains.sampler.position)(job.chains.inner(state)))
    flat = flat.reshape(-1, layout.dim)
    found = {}
    for chain, x in enumerate(flat):
        sites = job.target.nonfinite_sites(layout.unravel(jnp.asarray(x)))
        if sites:
            found[chain] = sites
    where = (
        "; ".join(f"chain {c}: site(s) {s}" for c, s in found.items())
        or "the last good positions of all chains are finite at every site"
    )
    return NonFiniteError(
        f"{job.name} stopped at step {error.step}: a value that is not finite. At the last good state, {where}. Replay "
        f"key: {jax.random.key_data(error.key).tolist()}. Remedy: check the data and supports of these sites, or use "
        "64-bit floats.",
        step=error.step,
        key=error.key,
        state=error.state,
        records=error.records,
    )
