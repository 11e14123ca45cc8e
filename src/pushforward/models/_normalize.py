"""Inference inside a guide: a program's normalised law, sampled by importance resampling."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpyro
import numpyro.distributions as dist
from jaxtyping import Array
from numpyro import handlers

from ._marginal import Tagged, density_trace, joint
from ._numpyro_run import AUXILIARY

NORMALIZE = "normalize/"
"""Prefix of the discrete site that picks a particle, and of the factor that corrects the density."""


class _Chosen(dist.Delta):
    """A value picked elsewhere, where its density is accounted for."""

    def log_prob(self, value: Any) -> Any:
        """Zero: the value is a copy. What depends on the particle picked is to be seen to depend on it, however."""
        event = tuple(range(-self.event_dim, 0))
        return jnp.sum(jnp.where(self.v > 0, 0.0, jnp.zeros(())), axis=event).astype(jnp.result_type(float))


class Normalized:
    """A program's posterior as a program. Built by `normalize`; call it inside a guide."""

    def __init__(self, program: Callable[..., Any], proposal: Callable[..., Any], num_particles: int) -> None:
        self.program, self.proposal, self.num_particles = program, proposal, num_particles
        functools.update_wrapper(self, program)

    def __call__(self, *args: Any, **kwargs: Any) -> dict[str, Array]:
        """Draw the particles, pick one by its weight and return its sites' values."""
        draws, targets, proposals = [], [], []
        fns: dict[str, Any] = {}
        frames: frozenset[int] = frozenset()
        for i in range(self.num_particles):
            trace = handlers.trace(Tagged(self.proposal, suffix=f"@{i}")).get_trace(*args, **kwargs)
            sites = {k.removesuffix(f"@{i}"): v for k, v in trace.items() if v["type"] == "sample"}
            values = {k: v["value"] for k, v in sites.items()}
            fns = {k: v["fn"] for k, v in sites.items()}
            density = density_trace(lambda: self.program(*args, **kwargs), values, tuple(values))
            own = {f.name for site in density.values() for f in site["cond_indep_stack"]}
            frames = frozenset(f.dim for s in sites.values() for f in s["cond_indep_stack"] if f.name not in own)
            draws.append(values)
            targets.append(joint(density, frames))
            proposals.append(joint(sites, frames))
        target, proposal = jnp.stack(targets, axis=-1), jnp.stack(proposals, axis=-1)
        weights = target - proposal
        name = NORMALIZE + "+".join(sorted(draws[0]))
        law = dist.Categorical(logits=weights)
        pick = numpyro.sample(name, law, infer={AUXILIARY: True})
        chosen = {}
        for site, fn in fns.items():
            stacked = jnp.stack([values[site] for values in draws])
            index = jnp.reshape(pick, (*pick.shape, *(1,) * fn.event_dim))
            value = jnp.take_along_axis(stacked, jnp.broadcast_to(index, stacked.shape[1:])[None], axis=0)[0]
            chosen[site] = numpyro.sample(site, _Chosen(value, event_dim=fn.event_dim))
        mine = jnp.take_along_axis(target, pick[..., None], axis=-1)[..., 0]
        evidence = jax.nn.logsumexp(weights, axis=-1) - math.log(self.num_particles)
        spent = jnp.sum(proposal, axis=-1) + law.log_prob(pick)
        numpyro.factor(name + "/density", mine - evidence - spent)
        return chosen


def normalize(program: Callable[..., Any], *, proposal: Callable[..., Any], num_particles: int = 10) -> Normalized:
    """The normalised law of a program with observations or factors, as something that a guide can draw from.

    Sampling importance resampling: M particles from the proposal, one picked by its weight w_i = p(z_i) / r(z_i). The
    density that goes with it, p(z) / ((1/M) sum_i w_i), has an unbiased reciprocal, so that lower bounds stay bounds.
    With the model itself as program the ELBO becomes the IWELBO with M draws of the proposal.

    Args:
        program: a NumPyro program; its sample sites without data are the sites that are drawn.
        proposal: a NumPyro program that draws the same sites, with ``numpyro.param`` for what is learned. Particle i
            draws sites named ``z@i``.
        num_particles: M, at least 2.

    Returns:
        A program, to be given to `program_guide` or called inside one. The pick is a discrete site named
        ``normalize/<sites>``, which needs a strategy, e.g. ``gradient={"normalize/z": pf.Enumerate()}``.

    Cost: M densities of program and proposal. Reference: Cusumano-Towner and Mansinghka, AIDE, arXiv:1705.07224,
    section 3; Becker et al., Probabilistic programming with programmable variational inference, PLDI 2024.
    """
    if not callable(program) or not callable(proposal):
        raise ValueError("pf.normalize: expected two NumPyro programs, the law to sample and its proposal.")
    if not isinstance(num_particles, int) or num_particles < 2:
        raise ValueError(
            f"pf.normalize(num_particles={num_particles}): expected at least 2; with one particle the proposal itself "
            "is the guide."
        )
    return Normalized(program, proposal, num_particles)
