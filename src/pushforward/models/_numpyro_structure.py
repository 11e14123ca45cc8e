"""Discover the static structure of a NumPyro program: sites, plates, supports, learnable parameters."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from numpyro.distributions import biject_to
from numpyro.distributions import constraints as nc

from ._arguments import Arguments, array_arguments, bind_arguments, program_name
from ._numpyro_run import AUXILIARY, FREE, LOG_DET, Binding, PlateObserver, is_factor, run, site_term
from ._program import Plate, Site
from ._types import Key

_CONCRETE = (
    jax.errors.ConcretizationTypeError,
    jax.errors.TracerArrayConversionError,
    jax.errors.TracerIntegerConversionError,
    jax.errors.NonConcreteBooleanIndexError,
)


class Structure(NamedTuple):
    """What one seeded run of a program shows."""

    sites: tuple[Site, ...]
    plates: tuple[Plate, ...]
    enumerated: tuple[tuple[str, int, int], ...]
    params: dict[str, Any]
    constraints: dict[str, Any]
    arguments: Arguments
    open_sites: frozenset[str]
    """Observed sites without data (prediction)."""
    checked: frozenset[str] = frozenset()
    """Sites whose values are known to lie in their supports: latents by construction, data because it was looked at."""


def discover(
    model: Callable[..., Any],
    args: tuple[Any, ...],
    kwargs: Mapping[str, Any],
    arguments: Arguments,
    key: Key,
    *,
    latent: set[str] | None = None,
) -> Structure:
    """Run the program at full size and describe it.

    Args:
        model: NumPyro model.
        args: its positional arguments, as given.
        kwargs: its keyword arguments, as given.
        arguments: the same, lifted.
        key: key for the structural run and for random initial values of parameters.
        latent: names that are latent; None takes every unobserved continuous site. Given when data is left out for
            prediction: unobserved sites outside the set are then sites to predict.
    """
    binding = Binding()
    declared: dict[str, int] = {}
    trace = _structural_run(model, arguments, binding, key, declared)
    _check_observed_types(trace)
    plates = _plates(trace, declared)
    params, constraints = _learnable(trace)
    depth = max([0] + [-p.dim for p in plates.values()] + [len(s["fn"].batch_shape) for s in _samples(trace).values()])
    sites: list[Site] = []
    enumerated: list[tuple[str, int, int]] = []
    for name, site in trace.items():
        if site["type"] == "deterministic":
            shape = jnp.shape(site["value"])
            stack = tuple(plates[f.name] for f in site["cond_indep_stack"] if f.name in plates)
            sites.append(Site(name, "deterministic", shape, plates=stack))
        elif site["type"] == "sample":
            sites.append(_site(name, site, plates, latent))
            if sites[-1].kind == "enumerated":
                cardinality = int(site["fn"].enumerate_support(expand=False).shape[0])
                enumerated.append((name, -1 - depth - len(enumerated), cardinality))
    open_sites = frozenset(s.name for s in sites if s.kind == "observed" and not trace[s.name]["is_observed"])
    structure = Structure(
        tuple(sites), tuple(plates.values()), tuple(enumerated), params, constraints, arguments, open_sites
    )
    if latent is None:
        structure = _check_traceable(model, args, kwargs, structure, trace)
    return structure


def _samples(trace: Mapping[str, Any]) -> dict[str, Any]:
    return {k: v for k, v in trace.items() if v["type"] == "sample" and not k.startswith(LOG_DET)}


def _structural_run(
    model: Callable[..., Any], arguments: Arguments, binding: Binding, key: Key, declared: dict[str, int]
) -> dict[str, Any]:
    def observe_plate(msg: dict[str, Any]) -> None:
        size, subsample = msg["args"]
        if subsample is not None and subsample != size:
            declared[msg["name"]] = subsample

    try:
        return run(PlateObserver(model, observe_plate), arguments, binding, key=key, tolerate_improper=True)
    except _CONCRETE:
        raise
    except Exception as error:  # the model is the user's code: any exception type is possible
        args, kwargs = arguments.unpack()
        bad = [
            n
            for n, v in array_arguments(bind_arguments(model, args, kwargs)).items()
            if not bool(jnp.isfinite(v).all())
        ]
        if bad:
            raise ValueError(
                f"Running the model '{program_name(model)}' failed at or after site '{binding.last}': {error} "
                f"Argument(s) {bad} contain NaN or infinity. Expected finite data; remove, impute or mask such entries."
            ) from error
        if isinstance(error, ValueError) and str(error).startswith("pf."):
            raise  # a message of ours, which is complete
        shapes = {str(i): jnp.shape(a) for i, a in enumerate(args) if hasattr(a, "shape")}
        shapes.update({k: jnp.shape(v) for k, v in kwargs.items() if hasattr(v, "shape")})
        raise ValueError(
            f"Running the model '{program_name(model)}' failed at or after site '{binding.last}': "
            f"{type(error).__name__}: {error}. Expected arrays whose shapes fit the model; got shapes "
            f"{shapes or 'none'}."
        ) from error


def _plates(trace: Mapping[str, Any], declared: Mapping[str, int]) -> dict[str, Plate]:
    out: dict[str, Plate] = {}
    for site in trace.values():
        for frame in site.get("cond_indep_stack", ()):
            known = out.get(frame.name)
            if known is not None and (known.size, known.dim) != (frame.size, frame.dim):
                raise ValueError(
                    f"Plate '{frame.name}' is used with size {known.size} at dim {known.dim} and with size "
                    f"{frame.size} at dim {frame.dim}: expected one size and one dim per plate name. Rename one of "
                    "them."
                )
            out[frame.name] = Plate(frame.name, frame.size, frame.dim, declared.get(frame.name))
    return out


def _learnable(trace: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    params: dict[str, Any] = {}
    constraints: dict[str, Any] = {}
    for name, site in trace.items():
        if site["type"] != "param":
            continue
        value = site["value"]
        for leaf in jax.tree.leaves(value):
            if not jnp.issubdtype(jnp.asarray(leaf).dtype, jnp.floating):
                raise ValueError(
                    f"The learnable parameter '{name}' has dtype {jnp.asarray(leaf).dtype}: expected a floating-point "
                    "initial value, because it is moved along a gradient. Write e.g. 3.0 instead of 3, or make it a "
                    "plain argument."
                )
        if jax.tree.structure(value) == jax.tree.structure(0.0):  # type: ignore[operator]
            constraint = site["kwargs"].get("constraint", nc.real)
            constraints[name] = constraint
            params[name] = biject_to(constraint).inv(jnp.asarray(value))
        else:
            constraints[name] = FREE
            params[name] = jax.tree.map(jnp.asarray, value)
    return params, constraints


def _site(name: str, site: Mapping[str, Any], plates: Mapping[str, Plate], latent: set[str] | None) -> Site:
    fn = site["fn"]
    stack = tuple(plates[f.name] for f in site["cond_indep_stack"] if f.name in plates)
    support = str(getattr(fn, "support", "real"))
    event_dim = len(fn.event_shape)
    auxiliary = bool(site["infer"].get(AUXILIARY))
    if is_factor(site):
        return Site(name, "factor", jnp.shape(fn.log_prob(site["value"])), plates=stack)
    if site["is_observed"] or (latent is not None and name not in latent):
        return Site(name, "observed", jnp.shape(site["value"]), plates=stack, event_dim=event_dim, support=support)
    if fn.support.is_discrete:
        if site["infer"].get("enumerate") == "parallel" and fn.has_enumerate_support:
            return Site(name, "enumerated", fn.shape(), plates=stack, event_dim=event_dim, support=support)
        return Site(name, "discrete", tuple(fn.shape()), tuple(fn.shape()), stack, event_dim, support, auxiliary)
    try:
        unconstrained = biject_to(fn.support).inverse_shape(tuple(fn.shape()))
    except (NotImplementedError, KeyError) as error:
        raise ValueError(
            f"Site '{name}' has support {support}, for which NumPyro registers no bijection: expected a support that "
            "numpyro.distributions.biject_to knows. Reparametrise the site."
        ) from error
    return Site(name, "latent", tuple(fn.shape()), tuple(unconstrained), stack, event_dim, support, auxiliary)


def _check_traceable(
    model: Callable[..., Any],
    args: tuple[Any, ...],
    kwargs: Mapping[str, Any],
    structure: Structure,
    trace: Mapping[str, Any],
) -> Structure:
    """Trace the density abstractly, with data lifted if the model allows it; check observed shapes and supports."""
    _check_observed_shapes(trace, structure)
    position = {
        s.name: jnp.zeros(s.unconstrained_shape or (), int if s.kind == "discrete" else float)
        for s in structure.sites
        if s.kind in ("latent", "discrete")
    }
    fixed_support: set[str] = set()

    def density(position: Any, arguments: Arguments) -> Any:
        binding = Binding(
            position=position,
            params=_constrained(structure),
            plates={p.name: p for p in structure.plates},
            enumerated={n: d for n, d, _ in structure.enumerated},
        )
        out = run(model, arguments, binding)
        for name, site in _samples(out).items():
            if site["is_observed"] and not any(
                isinstance(x, jax.core.Tracer) for x in jax.tree.leaves(site["fn"].support)
            ):
                fixed_support.add(name)
        return {k: site_term(k, v).log_prob for k, v in _samples(out).items()}

    try:
        jax.eval_shape(density, position, structure.arguments)
    except _CONCRETE:
        structure = structure._replace(arguments=Arguments(args, kwargs, lift=False))
        try:
            jax.eval_shape(lambda p: density(p, structure.arguments), position)
        except _CONCRETE as error:
            raise ValueError(
                f"The model '{program_name(model)}' uses the value of a latent site in Python (a branch, a shape or a "
                f"NumPy call) and cannot be compiled: {str(error).splitlines()[0]} Expected jnp.where or jax.lax.cond "
                "instead of if, jnp instead of np."
            ) from error
    # Supports that depend on data only: traced with the arguments concrete, so that only latents are tracers.
    fixed_support.clear()
    jax.eval_shape(lambda p: density(p, structure.arguments), position)
    _check_supports(trace, structure, fixed_support)
    return structure._replace(
        checked=frozenset(fixed_support) | {s.name for s in structure.sites if s.kind in ("latent", "discrete")}
    )


def _constrained(structure: Structure) -> dict[str, Any]:
    return {
        k: v if structure.constraints[k] is FREE else biject_to(structure.constraints[k])(v)
        for k, v in structure.params.items()
    }


def _check_observed_types(trace: Mapping[str, Any]) -> None:
    for name, site in _samples(trace).items():
        value = site["value"]
        if not site["is_observed"] or is_factor(site):
            continue
        if (value if hasattr(value, "dtype") else np.asarray(value)).dtype.kind in "OUS":
            raise ValueError(
                f"The data of site '{name}' is {value!r:.60}: expected numbers. Encode categories as integers and "
                "leave out or mask missing entries."
            )
        if isinstance(value, list | tuple):
            raise ValueError(
                f"The data of site '{name}' is a {type(value).__name__}: expected an array. Pass jnp.asarray(...)."
            )


def _check_observed_shapes(trace: Mapping[str, Any], structure: Structure) -> None:
    for site in structure.sites:
        if site.kind != "observed":
            continue
        fn, value = trace[site.name]["fn"], trace[site.name]["value"]
        data_batch = jnp.shape(value)[: max(jnp.ndim(value) - len(fn.event_shape), 0)]
        got = site_term(site.name, trace[site.name]).log_prob.shape
        # A shorter axis of data would be counted once per plate element; only a true scalar may stand for all.
        if got != tuple(data_batch) and jnp.ndim(value) > 0:
            raise ValueError(
                f"Observed site '{site.name}': data of shape {jnp.shape(value)} and a distribution of shape "
                f"{tuple(fn.shape())} broadcast to {got}. Expected equal shapes: a stray axis (e.g. y[:, None]) or "
                "data shorter than its plate is the usual cause."
            )


def _check_supports(trace: Mapping[str, Any], structure: Structure, fixed: set[str]) -> None:
    for site in structure.sites:
        if site.kind != "observed" or site.name not in fixed:
            continue
        fn, value = trace[site.name]["fn"], trace[site.name]["value"]
        array = np.asarray(value)
        inside = np.asarray(fn.support(jnp.asarray(value)))
        # NaN and infinity are left to the starting-point search, which names site and step.
        finite = np.isfinite(array) if array.dtype.kind == "f" else np.ones(array.shape, bool)
        while finite.ndim > inside.ndim:
            finite = finite.all(-1)
        bad = ~inside & finite
        if bad.any() and _mask_free(fn):
            raise ValueError(
                f"The data of site '{site.name}' lies outside the support of {_base_name(fn)}: expected "
                f"{site.support}, got {array[np.nonzero(bad)][:3].tolist()} among {int(bad.sum())} such value(s). "
                "Correct the data or the distribution."
            )


def _mask_free(fn: Any) -> bool:
    while fn is not None:
        if type(fn).__name__ == "MaskedDistribution":
            return False
        fn = getattr(fn, "base_dist", None)
    return True


def _base_name(fn: Any) -> str:
    while type(fn).__name__ in ("ExpandedDistribution", "Independent", "MaskedDistribution"):
        fn = fn.base_dist
    return type(fn).__name__
