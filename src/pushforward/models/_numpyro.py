"""NumPyro programs as targets."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp
import numpyro
from jaxtyping import Array
from numpyro import handlers
from numpyro.distributions import biject_to

from ._arguments import Arguments, Static, array_arguments, bind_arguments, program_name, unset_arguments
from ._normalize import NORMALIZE
from ._numpyro_run import FREE, LOG_DET, Binding, is_factor, run, site_term
from ._numpyro_structure import Structure, discover
from ._program import AbstractProgram, Evaluation, Plate, Site, Term
from ._target import Target
from ._types import Batch, Key, Position, Values


class NumPyroProgram(AbstractProgram):
    """A NumPyro model with its arguments. Built by `from_numpyro`."""

    params: dict[str, Any]
    arguments: Arguments
    data: dict[str, Array]
    """Replacements for the data of observed sites; empty unless `condition` was used."""
    model: Callable[..., Any] = eqx.field(static=True)
    sites: tuple[Site, ...] = eqx.field(static=True)
    plates: tuple[Plate, ...] = eqx.field(static=True)
    enumerated: tuple[tuple[str, int, int], ...] = eqx.field(static=True)
    constraints: Static = eqx.field(static=True)
    """Constraint of each learnable parameter."""
    open_sites: frozenset[str] = eqx.field(static=True)
    """Observed sites without data, to be predicted; empty unless `rebind` left data out."""
    checked: frozenset[str] = eqx.field(static=True)
    """Sites whose values need no support check in the density."""
    source: str = eqx.field(static=True)
    traceable_simulation: ClassVar[bool] = True

    def evaluate(self, position: Position, batch: Batch | None = None) -> Evaluation:
        """See `AbstractProgram.evaluate`."""
        binding = Binding(
            position=dict(position),
            params=self.param_values(),
            batch=self._check_batch(batch),
            plates={p.name: p for p in self.plates},
            enumerated={name: dim for name, dim, _ in self.enumerated},
            data=self.data,
        )
        return self._evaluate(binding, position)

    def evaluate_values(self, values: Values, batch: Batch | None = None) -> Evaluation:
        """See `AbstractProgram.evaluate_values`: without bijections."""
        binding = Binding(
            values=values,
            values_in_batch=True,
            params=self.param_values(),
            batch=self._check_batch(batch),
            plates={p.name: p for p in self.plates},
            enumerated={name: dim for name, dim, _ in self.enumerated},
            data=self.data,
        )
        return self._evaluate(binding, values)

    def _evaluate(self, binding: Binding, latent: Mapping[str, Any]) -> Evaluation:
        # Data left out for prediction is drawn and thrown away: only latents and deterministics are read then.
        trace = run(self.model, self.arguments, binding, key=jax.random.key(0) if self.open_sites else None)
        values: Values = {}
        deterministics: Values = {}
        terms: dict[str, Term] = {}
        log_dets: dict[str, Array] = {}
        for name, site in trace.items():
            if site["type"] == "deterministic":
                deterministics[name] = jnp.asarray(site["value"])
            elif site["type"] == "sample" and name.startswith(LOG_DET):
                log_det = site["fn"].log_prob(site["value"])
                log_dets[name[len(LOG_DET) :]] = jnp.sum(log_det * (1.0 if site["scale"] is None else site["scale"]))
            elif site["type"] == "sample" and name not in self.open_sites:
                terms[name] = site_term(name, site, inside=name in self.checked and name not in self.data)
                if name in latent:
                    values[name] = site["value"]
        return Evaluation(values, deterministics, terms, log_dets)

    def unconstrain(self, values: Mapping[str, Any]) -> Position:
        """See `AbstractProgram.unconstrain`."""
        latents = {s.name: s for s in self.latents}
        given = check_latent_values(latents, values)
        binding = Binding(
            values=given, params=self.param_values(), plates={p.name: p for p in self.plates}, data=self.data
        )
        with numpyro.validation_enabled(False):
            trace = run(self.model, self.arguments, binding, key=jax.random.key(0))
        for name in latents:
            if not bool(jnp.all(trace[name]["fn"].support(given[name]))):
                raise ValueError(
                    f"The value of site '{name}' lies outside its support: expected {latents[name].support}, got "
                    f"values between {float(jnp.min(given[name])):.6g} and {float(jnp.max(given[name])):.6g}. Pass a "
                    "value inside the support."
                )
        return self.invert(given)[0]

    def invert(self, values: Values, batch: Batch | None = None) -> tuple[Position, dict[str, Array]]:
        """See `AbstractProgram.invert`."""
        binding = Binding(
            values=values,
            values_in_batch=True,
            params=self.param_values(),
            batch=self._check_batch(batch),
            plates={p.name: p for p in self.plates},
            enumerated={name: dim for name, dim, _ in self.enumerated},
            data=self.data,
        )
        trace = run(self.model, self.arguments, binding, key=jax.random.key(0) if self.open_sites else None)
        position: dict[str, Array] = {}
        log_dets: dict[str, Array] = {}
        for name, value in values.items():
            fn, scale = trace[name]["fn"], trace[name]["scale"]
            if fn.support.is_discrete:
                position[name] = value
                continue
            transform = biject_to(fn.support)
            position[name] = transform.inv(value)
            log_det = transform.log_abs_det_jacobian(position[name], value)
            log_dets[name] = jnp.sum(log_det) * (1.0 if scale is None else scale)
        return position, log_dets

    def simulate(self, key: Key, values: Values | None = None, batch: Batch | None = None) -> Values:
        """See `AbstractProgram.simulate`. Enumerated sites are drawn, not summed.

        With a batch, sites inside a subsampled plate are drawn, and given, at minibatch size.
        """
        integrated = [s.name for s in self.sites if s.auxiliary]
        if values and integrated:
            raise ValueError(
                f"{self.source} integrates sites out (noise {integrated}), and its data cannot be simulated at given "
                "values of the others without them: expected these sites as latents of the model for predictions."
            )
        binding = Binding(
            values=dict(values or {}),
            values_in_batch=True,
            params=self.param_values(),
            batch=self._check_batch(batch),
            plates={p.name: p for p in self.plates},
        )
        try:
            trace = run(handlers.uncondition(self.model), self.arguments, binding, key=key)
        except NotImplementedError as error:
            improper = [s.name for s in self.latents if s.name not in binding.values]
            raise ValueError(
                f"{self.source} cannot be simulated: a site has no sampler (an improper prior among {improper}). "
                "Expected proper distributions for every site that is drawn; hold the improper sites fixed by passing "
                "their values."
            ) from error
        return {
            name: jnp.asarray(site["value"])
            for name, site in trace.items()
            if site["type"] in ("sample", "deterministic") and not is_factor(site) and not name.startswith(LOG_DET)
        }

    def param_values(self) -> dict[str, Any]:
        """See `AbstractProgram.param_values`."""
        constraints = self.constraints.value
        return {
            name: value if constraints[name] is FREE else biject_to(constraints[name])(value)
            for name, value in self.params.items()
        }

    def initial_params(self, key: Key) -> dict[str, Any]:
        """See `AbstractProgram.initial_params`."""
        return self._discover(key).params if self.params else {}

    def with_params(self, params: dict[str, Any]) -> NumPyroProgram:
        """See `AbstractProgram.with_params`."""
        return eqx.tree_at(lambda p: p.params, self, params)

    def observed(self) -> Values:
        """See `AbstractProgram.observed`."""
        binding = Binding(params=self.param_values(), plates={p.name: p for p in self.plates}, data=self.data)
        trace = run(self.model, self.arguments, binding, key=jax.random.key(0), tolerate_improper=True)
        return {
            s.name: jnp.asarray(trace[s.name]["value"])
            for s in self.sites
            if s.kind == "observed" and s.name not in self.open_sites
        }

    def constants(self, observed: Values) -> Values:
        """See `AbstractProgram.constants`."""
        args, kwargs = self.arguments.unpack()
        named = array_arguments(bind_arguments(self.model, args, kwargs))
        return {
            k: v
            for k, v in named.items()
            if not any(v.shape == o.shape and bool(jnp.array_equal(v, o)) for o in observed.values())
        }

    def condition(self, values: Mapping[str, Any]) -> NumPyroProgram:
        """See `AbstractProgram.condition`."""
        return eqx.tree_at(
            lambda p: p.data,
            self,
            {**self.data, **check_observed_values(self, values)},
            is_leaf=lambda x: x is self.data,
        )

    def rebind(self, *args: Any, **kwargs: Any) -> NumPyroProgram:
        """See `AbstractProgram.rebind`."""
        bind_arguments(self.model, args, kwargs)
        latent = {s.name for s in self.latents}
        fresh = build_program(self.model, args, kwargs, jax.random.key(0), latent=latent)
        return fresh.with_params(self.params)

    def _discover(self, key: Key) -> Structure:
        args, kwargs = self.arguments.unpack()
        return discover(self.model, args, kwargs, self.arguments, key)

    def _check_batch(self, batch: Batch | None) -> dict[str, Array] | None:
        return None if batch is None else check_batch(self.plates, batch)


def from_numpyro(
    model: Callable[..., Any],
    *args: Any,
    coords: Mapping[str, Any] | None = None,
    dims: Mapping[str, Any] | None = None,
    **kwargs: Any,
) -> Target:
    """Make a target of a NumPyro program.

    Every constrained site is mapped to unconstrained space by NumPyro's own bijections; deterministic sites are
    reported, improper priors and factors are allowed, plates that declare a ``subsample_size`` become minibatches,
    discrete sites marked ``infer={"enumerate": "parallel"}`` are summed out exactly (others need a program guide that
    draws them), and ``numpyro.param`` and
    neural-network modules become learnable parameters.

    Args:
        model: a NumPyro model, possibly wrapped in handlers.
        *args: the model's positional arguments. Arrays become leaves of the target; everything else is static.
        coords: labels per dimension, ``{dim: labels}``; plate names are dimensions.
        dims: names of the axes that no plate owns, ``{site: names}``.
        **kwargs: the model's keyword arguments.

    Returns:
        A `Target`. Building it runs the model three times; nothing is compiled.

    Raises:
        ValueError: if arguments are missing, unknown or empty; if shapes do not fit; if data lies outside the support
            of its site; if the model branches on the value of a latent site.

    Example:
        >>> import numpyro, numpyro.distributions as dist
        >>> def model(y):
        ...     mu = numpyro.sample("mu", dist.Normal(0.0, 10.0))
        ...     numpyro.sample("y", dist.Normal(mu, 1.0), obs=y)
        >>> from_numpyro(model, jax.numpy.ones(3)).dim
        1
    """
    if not callable(model):
        raise ValueError(
            f"Expected a NumPyro model (a callable), got {type(model).__name__}: pass the function itself, not its "
            "result."
        )
    named = bind_arguments(model, args, kwargs)
    program = build_program(model, args, kwargs, jax.random.key(0))
    picks = [s.name for s in program.sites if s.auxiliary and s.name.startswith(NORMALIZE)]
    if picks:
        raise ValueError(
            f"The model '{program_name(model)}' samples {picks} with pf.normalize, whose density is an estimate with "
            "an unbiased reciprocal: expected it in guides only, where lower bounds stay bounds. To integrate sites of "
            "a model out use pf.marginal, or keep them as latents and let a guide draw them."
        )
    if not any(s.kind in ("observed", "factor") for s in program.sites):
        unset = unset_arguments(model, named)
        if unset:
            raise ValueError(
                f"The model '{program_name(model)}' has no observed site, and its argument(s) {unset} were left at "
                f"None: the posterior would be the prior. Expected the data, e.g. from_numpyro({program_name(model)}, "
                f"..., {unset[-1]}=...)."
            )
    return Target(program, coords=coords, dims=dims)


def build_program(
    model: Callable[..., Any],
    args: tuple[Any, ...],
    kwargs: Mapping[str, Any],
    key: Key,
    *,
    latent: set[str] | None = None,
) -> NumPyroProgram:
    """Describe a model with its arguments; see `discover` for ``key`` and ``latent``."""
    arguments = Arguments(args, kwargs)
    structure = discover(model, args, kwargs, arguments, key, latent=latent)
    return NumPyroProgram(
        params=structure.params,
        arguments=structure.arguments,
        data={},
        model=model,
        sites=structure.sites,
        plates=structure.plates,
        enumerated=structure.enumerated,
        constraints=Static(structure.constraints),
        open_sites=structure.open_sites,
        checked=structure.checked,
        source=f"numpyro:{program_name(model)}",
    )


def check_latent_values(latents: Mapping[str, Site], values: Mapping[str, Any]) -> Values:
    """Latent values as arrays of the right shape, or an error that names the site."""
    missing = sorted(set(latents) - set(values))
    unknown = sorted(set(values) - set(latents))
    if missing or unknown:
        raise ValueError(
            f"Expected one value per latent site {sorted(latents)}; missing {missing}, unknown {unknown}. "
            "Deterministic and observed sites have no place in a position."
        )
    out: Values = {}
    for name, site in latents.items():
        value = jnp.asarray(values[name])
        if value.shape != site.shape:
            raise ValueError(f"The value of site '{name}' has shape {value.shape}: expected {site.shape}.")
        out[name] = value if site.kind == "discrete" else value.astype(jnp.result_type(float))
    return out


def check_observed_values(program: AbstractProgram, values: Mapping[str, Any]) -> Values:
    """Replacement data as arrays of the right shape and dtype, or an error that names the site."""
    observed = program.observed()
    out: Values = {}
    for name, value in values.items():
        if name not in observed:
            raise ValueError(
                f"'{name}' is not an observed site of {program.source}: expected one of {sorted(observed)}."
            )
        array = jnp.asarray(value)
        if array.shape != observed[name].shape:
            raise ValueError(f"The data for site '{name}' has shape {array.shape}: expected {observed[name].shape}.")
        out[name] = array.astype(observed[name].dtype)
    return out


def check_batch(plates: tuple[Plate, ...], batch: Batch) -> dict[str, Array]:
    """A minibatch whose plates and sizes are those the program declares, or an error that names the plate."""
    declared = {p.name: p for p in plates if p.subsample_size is not None}
    if set(batch) != set(declared):
        raise ValueError(
            f"The minibatch has indices for plates {sorted(batch)}: expected exactly the subsampled plates "
            f"{sorted(declared)}. Draw it with target.minibatch(key)."
        )
    for name, indices in batch.items():
        if indices.shape != (declared[name].subsample_size,):
            raise ValueError(
                f"The minibatch of plate '{name}' has indices of shape {indices.shape}: expected "
                f"({declared[name].subsample_size},), the subsample_size that the program declares. Draw it with "
                "target.minibatch(key)."
            )
    return dict(batch)
