"""Guides written as NumPyro programs."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpyro
from jaxtyping import Array, Float

from .._arguments import Static, program_name
from .._auxiliary import AsGuide
from .._numpyro import NumPyroProgram, build_program
from .._numpyro_run import Binding, run, site_term
from .._program import AbstractProgram, Plate, Site
from .._target import Target
from .._types import Batch, Key, Position, Values
from ._base import AbstractGuide, bound

Choose = Callable[[str, Any], Any]


class _Choose(numpyro.primitives.Messenger):
    """Lets the caller draw the sites. Sites inside a scan are left alone: they are met once for all time steps."""

    def __init__(self, fn: Callable[..., Any], choose: Choose) -> None:
        self.choose = choose
        super().__init__(fn)

    def process_message(self, msg: dict[str, Any]) -> None:
        drawn = msg["type"] == "sample" and not msg["is_observed"] and not msg.get("_control_flow_done", False)
        if drawn and msg["value"] is None:
            msg["value"] = self.choose(msg["name"], msg["fn"])


class ProgramGuide(AbstractGuide):
    """A variational family written as a NumPyro program. Built by `program_guide`.

    The guide's sample sites are matched with the model's latent sites by name; its ``numpyro.param`` sites are the
    variational parameters. Plates with a ``subsample_size`` take the very indices of the model's plates of that name.
    """

    params: dict[str, Any] | None
    program: NumPyroProgram | None
    model: AbstractProgram | None
    function: Callable[..., Any] = eqx.field(static=True)
    given: Static = eqx.field(static=True)
    """The guide's own arguments, or None to use those of the model."""

    def bind(self, target: Target) -> ProgramGuide:
        """Attach the guide to a model; checks sites, shapes, plates and minibatch scales.

        Raises:
            ValueError: naming the site or plate, if the guide and the model do not fit.
        """
        if self.given.value is not None:
            args, kwargs = self.given.value
        elif isinstance(target.program, NumPyroProgram):
            args, kwargs = target.program.arguments.unpack()
        else:
            args, kwargs = (), {}
        _check_arguments(self, target, args, kwargs)
        noise = [site for site in target.program.latents if site.auxiliary]
        program = build_program(AsGuide(self.function, noise), args, kwargs, jax.random.key(0))
        check_guide(program, target.program, program_name(self.function))
        return ProgramGuide(program.params, program, target.program, self.function, self.given)

    def sample_and_log_prob(self, key: Key, batch: Batch | None = None) -> tuple[Position, Float[Array, ""]]:
        """See `AbstractGuide.sample_and_log_prob`. The minibatch's scale is part of log q, as it is part of log p."""
        values, log_q = self._run(Binding(**self._binding(batch)), key)
        latent = {site.name: values[site.name] for site in self.model.latents}
        position, log_dets = self.model.invert(latent, batch)
        for log_det in log_dets.values():
            log_q = log_q + log_det
        return self.model.embed(position, batch), log_q

    def log_prob(self, position: Position, batch: Batch | None = None) -> Float[Array, ""]:
        """See `AbstractGuide.log_prob`.

        Raises:
            ValueError: if the guide integrates sites out: then only the draws it made itself have a known density.
        """
        hidden = [site.name for site in self.program.sites if site.auxiliary]
        if hidden:
            raise ValueError(
                f"The guide '{program_name(self.function)}' integrates {hidden} out, so that its density at a given "
                "position is only estimated: expected guide.sample_and_log_prob(key), which estimates it with the draw."
            )
        evaluation = self.model.evaluate(position, batch)
        _, log_q = self._run(Binding(**self._binding(batch), values=evaluation.values, values_in_batch=True), None)
        for log_det in evaluation.log_dets.values():
            log_q = log_q + log_det
        return log_q

    def trace(
        self,
        batch: Batch | None = None,
        *,
        key: Key | None = None,
        values: Values | None = None,
        choose: Choose | None = None,
    ) -> dict[str, Any]:
        """Run the guide once and return NumPyro's trace.

        Args:
            batch: minibatch indices.
            key: draws what has no value; None makes a site without a value an error.
            values: values of sites, at minibatch size.
            choose: ``choose(name, distribution) -> value``, asked for every site that ``values`` does not name; None
                from it leaves the draw to NumPyro.
        """
        binding = Binding(**self._binding(batch), values=values or {}, values_in_batch=True)
        program = bound(self, self.program)
        function = program.model if choose is None else _Choose(program.model, choose)
        return run(function, program.arguments, binding, key=key)

    def trainable(self) -> Any:
        """See `AbstractGuide.trainable`: the program's parameters only."""
        none = jax.tree.map(lambda _: False, self)
        return eqx.tree_at(
            lambda g: g.params, none, jax.tree.map(eqx.is_inexact_array, self.params), is_leaf=lambda x: x is None
        )

    def fresh(self, key: Key) -> ProgramGuide:
        """The guide with new initial parameters where their start is random."""
        return eqx.tree_at(lambda g: g.params, self, bound(self, self.program).initial_params(key))

    def param_values(self) -> dict[str, Any]:
        """The variational parameters in the user's space."""
        return bound(self, self.program).with_params(self.params).param_values()

    def _binding(self, batch: Batch | None) -> dict[str, Any]:
        program = bound(self, self.program)
        return {
            "params": program.with_params(self.params).param_values(),
            "batch": {p.name: batch[p.name] for p in program.plates if p.subsample_size is not None} if batch else None,
            "plates": {p.name: p for p in program.plates},
        }

    def _run(self, binding: Binding, key: Key | None) -> tuple[Values, Array]:
        trace = run(self.program.model, self.program.arguments, binding, key=key)
        values: Values = {}
        log_q = jnp.zeros((), jnp.result_type(float))
        for name, site in trace.items():
            if site["type"] == "sample":
                term = site_term(name, site)
                log_q = log_q + jnp.sum(term.log_prob * term.scale)
                values[name] = site["value"]
        return values, log_q


def program_guide(fn: Callable[..., Any], *args: Any, **kwargs: Any) -> ProgramGuide:
    """Use a NumPyro program as a guide.

    Args:
        fn: a NumPyro program whose sample sites are the model's latent sites, with ``numpyro.param`` for what is
            learned.
        *args: its arguments; none given means the model's own arguments.
        **kwargs: likewise.

    Returns:
        An unbound guide; `pf.fit` binds it to the model and checks that sites, shapes, plates and minibatch scales
        agree.

    Example:
        >>> import numpyro, numpyro.distributions as dist
        >>> def guide(y):
        ...     loc = numpyro.param("loc", 0.0)
        ...     numpyro.sample("mu", dist.Normal(loc, 0.5))
        >>> guide = program_guide(guide)
    """
    if not callable(fn):
        raise ValueError(f"Expected a NumPyro program (a callable) as guide, got {type(fn).__name__}.")
    return ProgramGuide(None, None, None, fn, Static((args, kwargs) if args or kwargs else None))


def _check_arguments(guide: ProgramGuide, target: Target, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    try:
        signature = inspect.signature(guide.function)
    except (TypeError, ValueError):
        return  # a callable without one: it is tried as it is
    try:
        signature.bind(*args, **kwargs)
    except TypeError as error:
        name = program_name(guide.function)
        whose = "its own arguments" if guide.given.value is not None else f"the arguments of {target.program.source}"
        raise ValueError(
            f"The guide '{name}{signature}' is called with {whose} ({len(args)} positional, keywords "
            f"{sorted(kwargs)}), which do not fit: {error}. Expected the model's signature (or def "
            f"{name}(*args, **kwargs)), or the guide's own arguments in pf.program_guide({name}, *own_args)."
        ) from None


def check_guide(guide: AbstractProgram, model: AbstractProgram, name: str) -> None:
    """Refuse a guide whose sites, shapes, plates or minibatches differ from the model's."""
    q = {
        s.name: s for s in guide.sites if s.kind in ("latent", "discrete", "observed", "enumerated") and not s.auxiliary
    }
    p = {s.name: s for s in model.latents}
    missing, extra = sorted(set(p) - set(q)), sorted(set(q) - set(p))
    if missing or extra:
        raise ValueError(
            f"The guide '{name}' and {model.source} have different latent sites: the guide lacks {missing} and has "
            f"extra {extra}. Expected exactly the model's latent sites {sorted(p)}, under the same names."
        )
    model_plates = {plate.name: plate for plate in model.plates}
    for plate in guide.plates:
        twin = model_plates.get(plate.name)
        if plate.subsample_size is not None and (twin is None or twin.subsample_size is None):
            raise ValueError(
                f"The guide '{name}' subsamples the plate '{plate.name}', which the model does not: their minibatch "
                "scales would disagree. Expected a plate of the same name, size and subsample_size in the model."
            )
        if twin is not None and (twin.size, twin.subsample_size) != (plate.size, plate.subsample_size):
            raise ValueError(
                f"Plate '{plate.name}' has size {plate.size} and subsample_size {plate.subsample_size} in the guide "
                f"'{name}', but size {twin.size} and subsample_size {twin.subsample_size} in the model: the minibatch "
                "scales disagree. Use the same numbers."
            )
    for site_name, site in p.items():
        _check_site(q[site_name], site, name)


def _check_site(q: Site, p: Site, name: str) -> None:
    if q.shape != p.shape:
        raise ValueError(
            f"Site '{p.name}' has shape {q.shape} in the guide '{name}' and {p.shape} in the model: expected equal "
            "shapes."
        )

    def subsampled(site: Site) -> set[Plate]:
        return {plate for plate in site.plates if plate.subsample_size is not None}

    if {x.name for x in subsampled(q)} != {x.name for x in subsampled(p)}:
        raise ValueError(
            f"Site '{p.name}' lies in the subsampled plate(s) {sorted(x.name for x in subsampled(p))} in the model and "
            f"in {sorted(x.name for x in subsampled(q))} in the guide '{name}': the minibatch scales of log p and log "
            "q would disagree. Put the site inside a plate of the same name, size and subsample_size."
        )
