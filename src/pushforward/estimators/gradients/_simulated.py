"""Joint draws of a model, densities of model and guide at them, and what must hold for a guide to learn from them."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from ...models import Target
from ...models._data_arguments import data_arguments, same_arguments, with_data
from ...models._marginal import MARGINAL
from ...models._numpyro import NumPyroProgram
from ...models._program import Site
from ...models._types import Batch, Key, Values
from ...models.guides import AbstractGuide, ProgramGuide
from ._dependence import dependence
from ._terms import guide_terms

Places = tuple[tuple[str, int, int], ...]
"""Per observed site: its name, and the numbers of the argument leaves of model and guide that carry its data."""
_PHASE = 'ForwardKL(phase="sleep")'


def simulate(key: Key, target: Target, batch: Batch | None) -> Values:
    """One joint draw of all sites, at minibatch size."""
    return _program(target).simulate(key, batch=batch)


def log_guide(
    guide: AbstractGuide, target: Target, places: Places, draw: Values, batch: Batch | None
) -> Float[Array, ""]:
    """Log q(z | x) of a joint draw, in the user's space, scales of minibatches included."""
    terms = guide_terms(_dreaming(guide, target, places, draw, batch).trace(batch, values=_latents(target, draw)))
    return -sum((jnp.sum(term.value) for term in terms.values()), jnp.zeros((), jnp.result_type(float)))


def log_joint(target: Target, places: Places, draw: Values, batch: Batch | None) -> Float[Array, ""]:
    """Log p(z, x) of a joint draw, in the user's space, scales of minibatches included."""
    numbers = {site: number for site, number, _ in places}
    program = with_data(_program(target), numbers, draw, _sites(target), batch)
    total = jnp.zeros((), jnp.result_type(float))
    for part in target._replace(program=program).factors(_latents(target, draw), batch):
        total = total + jnp.sum(part.log_prob * part.scale)
    return total


def find_places(named: dict[str, str], target: Target, guide: AbstractGuide) -> Places:
    """Which arguments of model and guide carry the data of each observed site.

    Raises:
        ValueError: naming the site, if that cannot be told.
    """
    model = _program(target)
    numbers = data_arguments(model, named)
    twins = numbers
    if isinstance(guide, ProgramGuide) and guide.program is not None and guide.given.value is not None:
        twins = same_arguments(model, guide.program, numbers)
    # A guide with arguments of its own may do without some of the data.
    return tuple((site, number, twins.get(site, -1)) for site, number in sorted(numbers.items()))


def check_model(target: Target, guide: AbstractGuide) -> None:
    """Refuse models that cannot be simulated with their data, and guides that cannot take it.

    Raises:
        ValueError: saying why, and what to use instead.
    """
    if not isinstance(target.program, NumPyroProgram):
        raise ValueError(
            f"{_PHASE} simulates latents and data of the model, and {target.program.source} cannot be simulated inside "
            "compiled code (it is no NumPyro program): expected a target of pf.from_numpyro, or the wake phase, "
            "pf.ForwardKL()."
        )
    if not isinstance(guide, ProgramGuide):
        raise ValueError(
            f"{_PHASE} trains q(z | x) on simulated data x, and {type(guide).__name__} does not take data: it would "
            "approach the prior. Expected pf.program_guide(fn) of a program that takes the data as argument, or the "
            "wake phase, pf.ForwardKL()."
        )
    program, source = target.program, target.program.source
    # An estimate of a marginal density scores sites that are simulated.
    factors = [s.name for s in program.sites if s.kind == "factor" and not s.name.startswith(MARGINAL)]
    if factors or target.weights:
        what = f"the factor(s) {factors}" if factors else f"the weights of the sites {sorted(target.weights)}"
        raise ValueError(
            f"{_PHASE} draws from the model's generative process, which {what} of {source} is no part of: the draws "
            "would belong to another model. Expected a model of sample sites only, unweighted, or the wake phase, "
            "pf.ForwardKL()."
        )
    if program.data or program.open_sites or not program.observed():
        raise ValueError(
            f"{_PHASE} puts simulated data in the place of the observed data, and {source} has "
            f"{'data that target.condition replaced' if program.data else 'no complete observed data'}: expected all "
            "data as arguments, from_numpyro(model, data) or target.rebind(data)."
        )
    plates = {p.name for p in program.plates if p.subsample_size is not None}
    outside = [
        site.name
        for site in program.sites
        if site.kind in ("latent", "discrete", "enumerated", "observed") and not plates <= {p.name for p in site.plates}
    ]
    if outside:
        raise ValueError(
            f"{_PHASE} simulates a minibatch of the plate(s) {sorted(plates)}, and the site(s) {outside} of {source} "
            "do not lie in all of them: a posterior given the minibatch alone is not the posterior given the data. "
            "Expected every site in the subsampled plates, or plates without subsample_size."
        )


def check_guide(target: Target, guide: AbstractGuide, places: Places) -> None:
    """Refuse guides without a density, guides that do not read the data, and models that read it elsewhere.

    Raises:
        ValueError: naming the site, and what to use instead.
    """
    assert isinstance(guide, ProgramGuide)
    assert guide.program is not None
    hidden = [s.name for s in guide.program.sites if s.auxiliary or s.kind in ("factor", "observed")]
    if hidden:
        raise ValueError(
            f"{_PHASE} evaluates log q at draws of the model, and the guide integrates out or scores {hidden}, so that "
            "its density at a given value is only estimated: expected a guide of sample sites only, or the wake phase, "
            "pf.ForwardKL()."
        )
    batch = target.minibatch(jax.random.key(0)) if target.subsampled else None
    draw = simulate(jax.random.key(1), target, batch)
    observed, model = target.program.observed(), _program(target)
    _check_scales(target, draw, batch)
    simulated = model.simulate(jax.random.key(2))
    for site, number, _ in places:
        new = simulated[site].astype(observed[site].dtype)
        follows = new.shape == observed[site].shape
        if follows:
            one = with_data(model, {site: number}, {site: new}, _sites(target), None)
            follows = bool(np.array_equal(np.asarray(one.observed()[site]), np.asarray(new)))
        if not follows:
            raise ValueError(
                f"{_PHASE}: the site '{site}' of {model.source} does not observe simulated data of shape {new.shape} "
                f"when that takes the place of its argument, of shape {observed[site].shape}. Expected the argument "
                "itself as obs=, one entry per draw of the site (transform data before it is passed)."
            )
    leaves = jax.tree.leaves(model.arguments.unpack())
    given = {site: jnp.asarray(leaves[number]) for site, number, _ in places}

    def drawn(data: Values) -> Values:
        moved = with_data(model, {s: n for s, n, _ in places}, data, _sites(target), None)
        sites = moved.simulate(jax.random.key(0), batch=batch)
        return {name: sites[name] for name in [*_latents(target, sites), *data]}

    readers = sorted(site for site, sources in _traced(drawn, given, model.source).items() if sources)
    if readers:
        raise ValueError(
            f"{_PHASE}: the site(s) {readers} of {model.source} are drawn from laws that depend on the data itself, so "
            "that simulated data has no law of its own. Expected the data as obs= only (pass summaries or lags of it "
            "as other arguments), or the wake phase, pf.ForwardKL()."
        )
    _check_reads(target, guide, places, draw, batch)


def _check_reads(target: Target, guide: ProgramGuide, places: Places, draw: Values, batch: Batch | None) -> None:
    """Every site of the guide looks at the data or at another site, and at no data outside the minibatch."""
    latents = _latents(target, draw)

    def laws(inputs: Values) -> dict[str, Array]:
        data = {site: inputs[f"data:{site}"] for site, _, _ in places}
        values = {name: inputs[name] for name in latents}
        terms = guide_terms(_dreaming(guide, target, places, data, batch).trace(batch, values=values))
        return {name[2:]: term.value for name, term in terms.items()}

    inputs = {**latents, **{f"data:{site}": draw[site] for site, _, _ in places}}
    auxiliary = {site.name for site in target.program.sites if site.auxiliary}
    sources = _traced(laws, inputs, target.program.source)
    blind = sorted(name for name, found in sources.items() if not found - {name} and name not in auxiliary)
    if blind:
        raise ValueError(
            f"{_PHASE} trains q(z | x) on simulated data x, and the site(s) {blind} of the guide look at no data: they "
            "would approach the prior. Expected a guide whose sites depend on the data it takes as argument (an "
            "encoder), or the wake phase, pf.ForwardKL()."
        )
    if batch is None:
        return
    elsewhere = _emptied(guide, places)
    first = float(log_guide(guide, target, places, draw, batch))
    if not math.isclose(first, float(log_guide(elsewhere, target, places, draw, batch)), rel_tol=1e-5, abs_tol=1e-5):
        raise ValueError(
            f"{_PHASE} simulates a minibatch, and the guide reads data outside it, which is not simulated: expected a "
            "guide that reads the minibatch only (numpyro.subsample, or indexing with the plate's indices)."
        )


def _emptied(guide: ProgramGuide, places: Places) -> ProgramGuide:
    """The guide with zeros for data."""
    program = guide.program
    assert program is not None
    leaves = jax.tree.leaves(program.arguments.unpack())
    zeros = {number: jnp.zeros_like(leaves[number]) for _, _, number in places if number >= 0}
    return dataclasses.replace(guide, program=dataclasses.replace(program, arguments=program.arguments.replaced(zeros)))


def _check_scales(target: Target, draw: Values, batch: Batch | None) -> None:
    evaluation = target.program.evaluate_values(_latents(target, draw), batch)
    sites = _sites(target)
    for name, term in evaluation.terms.items():
        plates = [p for p in sites[name].plates if batch and p.name in batch]
        expected = math.prod(p.size / (p.subsample_size or p.size) for p in plates)
        if not np.allclose(np.asarray(term.scale), expected, rtol=1e-5):
            raise ValueError(
                f"{_PHASE} draws from the model's generative process, and site '{name}' of {target.program.source} is "
                "scaled by a handler, so that the draws would belong to another model: expected no scale but that of "
                "minibatch plates, or the wake phase, pf.ForwardKL()."
            )


def _traced(function: Any, inputs: Values, source: str) -> dict[str, frozenset[str]]:
    try:
        return dependence(function, inputs)
    except jax.errors.JAXTypeError as error:
        raise ValueError(
            f"{_PHASE}: model or guide of {source} uses the value of its data in Python (a branch, a shape or a NumPy "
            f"call), so that simulated data cannot be put in its place: {str(error).splitlines()[0]} Expected "
            "jnp.where or jax.lax.cond instead of if, jnp instead of np."
        ) from error


def _dreaming(guide: AbstractGuide, target: Target, places: Places, draw: Values, batch: Batch | None) -> ProgramGuide:
    """The guide with the draw's data in its arguments."""
    assert isinstance(guide, ProgramGuide)
    assert guide.program is not None
    numbers = {site: number for site, _, number in places if number >= 0}
    return dataclasses.replace(guide, program=with_data(guide.program, numbers, draw, _sites(target), batch))


def _latents(target: Target, draw: Values) -> Values:
    return {site.name: draw[site.name] for site in target.program.latents}


def _sites(target: Target) -> dict[str, Site]:
    return {site.name: site for site in target.program.sites}


def _program(target: Target) -> NumPyroProgram:
    assert isinstance(target.program, NumPyroProgram)
    return target.program
