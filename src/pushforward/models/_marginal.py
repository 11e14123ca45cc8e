"""Programs with some of their sites integrated out by importance sampling."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
from jaxtyping import Array
from numpyro import handlers

from ._auxiliary import from_noise, in_guide, noise_law
from ._numpyro_run import AUXILIARY, HIDDEN, LOG_DET, is_factor

MARGINAL = "marginal/"
"""Prefix of the factor that turns a joint density into an estimate of a marginal one."""


class Tagged(numpyro.primitives.Messenger):
    """Marks sites as auxiliary (the model has no twin for them) and renames them."""

    def __init__(self, fn: Callable[..., Any], names: Sequence[str] | None = None, suffix: str = "") -> None:
        self.names, self.suffix = names, suffix
        super().__init__(fn)

    def process_message(self, msg: dict[str, Any]) -> None:
        if msg["type"] == "sample" and (self.names is None or msg["name"] in self.names):
            msg["infer"] = {**msg["infer"], AUXILIARY: True}
            msg["name"] += self.suffix


class _Given(numpyro.primitives.Messenger):
    """Runs a model for the values of its sites: integrated-out sites are hidden, the others score nothing."""

    def __init__(self, fn: Callable[..., Any], over: Sequence[str]) -> None:
        self.over = over
        super().__init__(fn)

    def process_message(self, msg: dict[str, Any]) -> None:
        # The change of variables of a site, recorded on the way, is no site of the program.
        if msg["type"] != "sample" or msg["name"].startswith(LOG_DET):
            return
        if msg["infer"].get("enumerate") == "parallel":
            raise ValueError(
                f"Site '{msg['name']}' is enumerated inside a program that pf.marginal integrates by importance "
                "sampling: expected it outside that program."
            )
        if msg["name"] in self.over:
            msg["infer"] = {**msg["infer"], HIDDEN: True}
        else:
            msg["fn"] = msg["fn"].mask(mask=False)


class Marginal:
    """A program with sites integrated out. Built by `marginal`; call it inside a guide or a model."""

    def __init__(
        self,
        program: Callable[..., Any],
        over: tuple[str, ...],
        proposal: Callable[..., Any] | None,
        num_particles: int,
    ) -> None:
        self.program, self.over, self.proposal, self.num_particles = program, over, proposal, num_particles
        functools.update_wrapper(self, program)

    def __call__(self, *args: Any, **kwargs: Any) -> dict[str, Array]:
        """Draw the program's sites and record the estimate of the marginal density; returns the values it keeps."""
        return (self._in_guide if in_guide() else self._in_model)(args, kwargs)

    def _in_model(self, args: Any, kwargs: Any) -> dict[str, Array]:
        """The sites kept have values already (or draw them); all particles come from the proposal, by noise sites."""
        drawn = handlers.trace(_Given(self.program, self.over)).get_trace(*args, **kwargs)
        sites = {
            k: v for k, v in drawn.items() if v["type"] == "sample" and not k.startswith(LOG_DET) and not is_factor(v)
        }
        self._check_names(sites)
        kept = {k: v["value"] for k, v in sites.items() if k not in self.over}
        data = {k: v for k, v in kept.items() if sites[k]["is_observed"]}
        program = handlers.condition(self._bound(self.program, args, kwargs), data=data)
        proposal = self._reverse(kept, args, kwargs)
        frames: frozenset[int] | None = None
        ratios = []
        for i in range(self.num_particles):
            values = self._push(proposal, i)
            density, reverse = density_trace(program, {**kept, **values}), density_trace(proposal, values, self.over)
            if frames is None:
                frames = _outer_frames(sites, density, self.over)
                _check_supports(sites, density, kept)
            ratios.append(joint(density, frames) - joint(reverse, frames))
        estimate = jax.nn.logsumexp(jnp.stack(ratios), axis=0) - math.log(self.num_particles)
        numpyro.factor(MARGINAL + "+".join(self.over), estimate)
        return kept

    def _push(self, proposal: Callable[[], Any], index: int) -> dict[str, Array]:
        """One draw of the proposal as a function of standard normal noise, which is a site of the model."""
        values: dict[str, Array] = {}

        def push(site: dict[str, Any]) -> Any:
            name, fn = site["name"], site["fn"]
            if site["type"] != "sample" or site["is_observed"] or name not in self.over:
                return None
            law = noise_law(tuple(fn.shape()), len(fn.event_shape))
            eps = numpyro.sample(f"{name}@{index}", law, infer={AUXILIARY: True})
            values[name] = from_noise(name, fn, eps)
            return values[name]

        with handlers.block(hide_fn=lambda msg: msg["type"] == "sample" and msg["name"] in self.over):
            handlers.substitute(proposal, substitute_fn=push)()
        absent = sorted(set(self.over) - set(values))
        if absent:
            raise ValueError(f"The proposal of pf.marginal does not draw {absent}: expected all of {list(self.over)}.")
        return values

    def _check_names(self, sites: Mapping[str, Any]) -> None:
        missing = sorted(set(self.over) - set(sites))
        if missing:
            raise ValueError(
                f"pf.marginal(over={list(self.over)}): the program draws no site {missing}. Expected names among "
                f"{sorted(sites)}."
            )

    def _in_guide(self, args: Any, kwargs: Any) -> dict[str, Array]:
        """The first particle is drawn with the sites kept, the others come from the proposal."""
        drawn = handlers.trace(Tagged(self.program, self.over)).get_trace(*args, **kwargs)
        sites = {k: v for k, v in drawn.items() if v["type"] == "sample"}
        self._check_names(sites)
        kept = {k: v["value"] for k, v in sites.items() if k not in self.over}
        own = {k: sites[k]["value"] for k in self.over}
        program, proposal = self._bound(self.program, args, kwargs), self._reverse(kept, args, kwargs)
        frames = _outer_frames(sites, density_trace(program, {**kept, **own}), self.over)
        first = joint(density_trace(program, {**kept, **own}), frames)
        ratios = [first - joint(density_trace(proposal, own, self.over), frames)]
        spent = first
        for i in range(1, self.num_particles):
            other = handlers.trace(Tagged(proposal, suffix=f"@{i}")).get_trace()
            values = {k: other[f"{k}@{i}"]["value"] for k in self.over}
            reverse = joint({k: v for k, v in other.items() if v["type"] == "sample"}, frames)
            ratios.append(joint(density_trace(program, {**kept, **values}), frames) - reverse)
            spent = spent + reverse
        estimate = jax.nn.logsumexp(jnp.stack(ratios), axis=0) - math.log(self.num_particles)
        numpyro.factor(MARGINAL + "+".join(self.over), estimate - spent)
        return kept

    def _bound(self, program: Callable[..., Any], args: Any, kwargs: Any) -> Callable[[], Any]:
        return lambda: program(*args, **kwargs)

    def _reverse(self, kept: Mapping[str, Array], args: Any, kwargs: Any) -> Callable[[], Any]:
        if self.proposal is not None:
            return lambda: self.proposal(dict(kept), *args, **kwargs)  # type: ignore[misc]
        hidden = handlers.block(
            handlers.substitute(self._bound(self.program, args, kwargs), data=dict(kept)),
            hide_fn=lambda msg: (
                msg["type"] == "sample" and msg["name"] not in self.over and not msg["infer"].get(AUXILIARY)
            ),
        )
        return lambda: hidden()


def density_trace(
    program: Callable[[], Any], values: Mapping[str, Array], names: Sequence[str] | None = None
) -> dict[str, Any]:
    """Sample sites of a program at given values, kept from the handlers around it; parameters and plates are shared.

    Raises:
        ValueError: if the program draws a site that has no value.
    """

    def missing(site: dict[str, Any]) -> Any:
        if site["type"] != "sample" or site["is_observed"]:
            return None
        if site["name"] not in values:
            raise ValueError(
                f"Site '{site['name']}' has no value in a density that pf.marginal or pf.normalize evaluates: expected "
                f"the sites {sorted(values)} only. A proposal draws the sites in `over` and no others."
            )
        return values[site["name"]]

    inner = handlers.trace(handlers.substitute(program, substitute_fn=missing))
    with handlers.block(hide_fn=lambda msg: msg["type"] in ("sample", "deterministic")):
        trace = inner.get_trace()
    sites = {k: v for k, v in trace.items() if v["type"] == "sample"}
    absent = sorted(set(names or ()) - set(sites))
    if absent:
        raise ValueError(f"The proposal of pf.marginal does not draw {absent}: expected all of {list(names or ())}.")
    return sites


def joint(sites: Mapping[str, Any], frames: frozenset[int]) -> Array:
    """Log joint density of sample sites, summed over all axes but those of the given plate dims."""
    total = jnp.zeros((), jnp.result_type(float))
    for name, site in sites.items():
        if site["scale"] is not None and not frames:
            raise ValueError(
                f"Site '{name}' is scaled (a minibatch plate or a scale handler) inside a program that is integrated "
                "out: the logarithm of an average of minibatch estimates is biased. Expected pf.marginal to be called "
                "inside the plate, so that it integrates per plate element."
            )
        log_prob = jnp.asarray(site["fn"].log_prob(site["value"]))
        rank, depth = log_prob.ndim, -min(frames, default=0)
        axes = tuple(i for i in range(rank) if i - rank not in frames)
        log_prob = jnp.sum(log_prob, axis=axes, keepdims=True)
        total = total + jnp.reshape(log_prob, log_prob.shape[max(rank - depth, 0) :])
    return total


def _outer_frames(drawn: Mapping[str, Any], inner: Mapping[str, Any], names: Sequence[str]) -> frozenset[int]:
    """Dims of the plates around the call."""
    own = {frame.name for site in inner.values() for frame in site["cond_indep_stack"]}
    return frozenset(f.dim for name in names for f in drawn[name]["cond_indep_stack"] if f.name not in own)


def _check_supports(drawn: Mapping[str, Any], density: Mapping[str, Any], kept: Mapping[str, Array]) -> None:
    """A latent's support may not move with what is integrated out: its unconstrained coordinates would."""
    for name in kept:
        if drawn[name]["is_observed"]:
            continue
        ends = [jax.tree.leaves(trace[name]["fn"].support) for trace in (drawn, density)]
        known = not any(isinstance(x, jax.core.Tracer) for x in [*ends[0], *ends[1]])
        if known and not all(np.array_equal(a, b) for a, b in zip(*ends, strict=True)):
            raise ValueError(
                f"The support of the latent site '{name}' depends on the sites that pf.marginal integrates out of the "
                "model, so that its unconstrained coordinates have no meaning. Expected a fixed support."
            )


def marginal(
    program: Callable[..., Any],
    *,
    over: str | Sequence[str],
    proposal: Callable[..., Any] | None = None,
    num_particles: int = 1,
) -> Marginal:
    """Integrate some sites of a program out by importance sampling, with a reverse kernel as proposal.

    In a guide, with u the sites in ``over``, z the others, r the proposal and M particles, log q(z) is replaced by
    log (1/M) sum_i q(z, u_i) / r(u_i | z), u_1 drawn with z from the program and the others from r. Its reciprocal is
    an unbiased estimate of 1 / q(z), so that every lower bound stays one: with M = 1 it is hierarchical variational
    inference, with more particles IWHVI, and under `IWELBO` with K draws DIWHVI. Where r is the exact conditional of u
    the estimate has no error at M = 1.

    In a model log p(z, x) is replaced by log (1/M) sum_i p(z, x, u_i) / r(u_i | z, x), all u_i from r: an unbiased
    estimate of the density, so that lower bounds on log p(x) stay lower bounds (and `CUBO` an upper one), looser by
    about var(weights) / 2M nats. The u_i are functions of standard normal sites ``u@i`` of the model, which program
    guides draw by themselves and other guides and samplers move on as on any latent: the density is a fixed function of
    them whose marginal over them is exact, so that samplers sample the exact posterior of z (pseudo-marginal).

    Args:
        program: a NumPyro program, called with the arguments that the result is called with.
        over: names of the sites to integrate out.
        proposal: a NumPyro program ``proposal(kept, *args)`` that draws the sites in ``over`` given the values of the
            others, in a model the observed ones too; None takes the program's own conditionals. Its ``numpyro.param``
            are learned with those around it. In a model its sites need an inverse distribution function.
        num_particles: M. Particle i draws sites named ``u@i``.

    Returns:
        A program, to be given to `program_guide` or `from_numpyro` or called inside one. Inside a plate it integrates
        per plate element.

    Raises:
        ValueError: when run, if a name is no site of the program or the proposal draws other sites.

    Cost: M densities of program and proposal. References: Ranganath et al., Hierarchical variational models,
    arXiv:1511.02386; Sobolev and Vetrov, Importance weighted hierarchical variational inference, arXiv:1905.03290,
    eq. 6; Burda et al., arXiv:1509.00519, eq. 8.

    Example:
        >>> import numpyro, numpyro.distributions as dist
        >>> def ring():
        ...     u = numpyro.sample("u", dist.Uniform())
        ...     numpyro.sample("x", dist.Normal(u, 0.1))
        >>> guide = marginal(ring, over="u")
    """
    names = (over,) if isinstance(over, str) else tuple(over)
    if not callable(program) or (proposal is not None and not callable(proposal)):
        raise ValueError("pf.marginal: expected a NumPyro program, and a NumPyro program or None as proposal.")
    if not names:
        raise ValueError("pf.marginal(over=[]): expected at least one site name.")
    if not isinstance(num_particles, int) or num_particles < 1:
        raise ValueError(f"pf.marginal(num_particles={num_particles}): expected a positive integer.")
    return Marginal(program, names, proposal, num_particles)
