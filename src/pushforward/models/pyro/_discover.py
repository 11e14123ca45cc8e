"""Discover the static structure of a Pyro program by running it.

Imports torch and pyro: load only from inside a function.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import torch
from numpyro.distributions import biject_to
from torch.nn.modules.module import register_module_forward_pre_hook

from .._arguments import program_name
from .._program import Plate, Site
from ._describe import describe, distribution_support
from ._run import Bind, Binding, Record, is_delta, is_factor, run, untouched
from ._support import Support, constraint_of

_MAX_DIMS = 60
"""Torch refuses tensors of more than 64 axes."""


class Param(NamedTuple):
    """A learnable parameter, at full size."""

    value: torch.Tensor
    raw: torch.nn.Parameter | None
    """The module's own tensor, when the parameter is one: the model may reach it without a param statement."""
    support: Support
    bounds: tuple[torch.Tensor, ...]


class Structure(NamedTuple):
    """What the runs of a program showed."""

    sites: tuple[Site, ...]
    plates: tuple[Plate, ...]
    enumerated: tuple[tuple[str, int, int], ...]
    supports: dict[str, Support]
    draws: list[dict[str, torch.Tensor]]
    """Values of the latent sites, one entry per run."""
    observed: dict[str, torch.Tensor]
    predicted: dict[str, torch.Tensor]
    """Sites without data that are not latent (to be simulated), at one draw."""
    params: dict[str, Param]
    modules: list[torch.nn.Module]

    @property
    def latents(self) -> list[str]:
        """Latent sites in program order."""
        return [s.name for s in self.sites if s.kind == "latent"]


def discover(
    model: Callable[..., Any],
    args: tuple[Any, ...],
    kwargs: Mapping[str, Any],
    data: Mapping[str, torch.Tensor],
    seed: int,
    *,
    latent: set[str] | None = None,
    num_draws: int = 4,
) -> Structure:
    """Run the program at full size, with argument checks on, and describe it.

    Args:
        model: Pyro model.
        args: its positional arguments.
        kwargs: its keyword arguments.
        data: replacements for the data of observed sites.
        seed: for the draws of latent sites and random initial values of parameters.
        latent: names that are latent; None takes every unobserved site. Given when data is left out for prediction.
        num_draws: number of runs.

    Raises:
        ValueError: if the model fails, or has a site that cannot be part of a density on unconstrained space.
    """
    modules = _own_modules(model)
    records: list[Record] = []
    with untouched(modules), _watch(modules) as seen, untouched_after(seen, modules):
        for i in range(num_draws):
            torch.manual_seed(seed + i)
            bind = Bind(Binding(observed=data, start_improper=True), Record(), visit=_score)
            with torch.enable_grad():
                records.append(_run(model, args, kwargs, bind))
    first = records[0]
    plates = _plates(first)
    supports: dict[str, Support] = {}
    sites: list[Site] = []
    enumerated: list[tuple[str, int, int]] = []
    depth = max([0] + [-p.dim for p in plates.values()] + [len(m["fn"].batch_shape) for m in first.samples.values()])
    for name, msg in first.samples.items():
        stack = tuple(plates[f.name] for f in msg["cond_indep_stack"] if f.name in plates)
        site = _site(name, msg, stack, supports, latent)
        sites.append(site)
        if site.kind == "enumerated":
            cardinality = int(msg["fn"].enumerate_support(expand=False).shape[0])
            enumerated.append((name, -1 - depth - len(enumerated), cardinality))
    if depth + len(enumerated) > _MAX_DIMS:
        raise ValueError(
            f"The program '{program_name(model)}' marks {len(enumerated)} discrete sites for enumeration: expected at "
            f"most {_MAX_DIMS - depth}, because each takes an axis and torch allows 64. Put sites of one kind into a "
            "vectorised plate, or sum a chain out by hand with pyro.distributions.DiscreteHMM."
        )
    kinds = {s.name: s.kind for s in sites}
    return Structure(
        tuple(sites),
        tuple(plates.values()),
        tuple(enumerated),
        supports,
        [{k: m["value"].detach() for k, m in r.samples.items() if kinds.get(k) == "latent"} for r in records],
        {k: _tensor(m["value"]) for k, m in first.samples.items() if kinds[k] == "observed" and m["is_observed"]},
        {k: _tensor(m["value"]) for k, m in first.samples.items() if kinds[k] == "observed" and not m["is_observed"]},
        _params(first, model),
        modules,
    )


def _score(msg: dict[str, Any]) -> None:
    """Check values against supports, and let distributions fill their caches before tensors are traced."""
    if not msg["infer"].get("_deterministic"):
        msg["fn"].log_prob(msg["value"], *msg["args"], **msg["kwargs"])


def _tensor(value: Any) -> torch.Tensor:
    return torch.as_tensor(value).detach().clone()


def _run(model: Callable[..., Any], args: tuple[Any, ...], kwargs: Mapping[str, Any], bind: Bind) -> Record:
    try:
        return run(model, args, kwargs, bind, validate=True)
    except Exception as error:
        shapes = {str(i): tuple(a.shape) for i, a in enumerate(args) if hasattr(a, "shape")}
        shapes.update({k: tuple(v.shape) for k, v in kwargs.items() if hasattr(v, "shape")})
        reason = str(error).split("\n Trace Shapes")[0].strip().splitlines()
        raise ValueError(
            f"Running the model '{program_name(model)}' failed at or after site '{bind.record.last}': "
            f"{reason[0] if reason else type(error).__name__} Expected arguments whose shapes and values fit the "
            f"model; got shapes {shapes}."
        ) from error


def _own_modules(model: Callable[..., Any]) -> list[torch.nn.Module]:
    owner = model if isinstance(model, torch.nn.Module) else getattr(model, "__self__", None)
    found = list(owner.modules()) if isinstance(owner, torch.nn.Module) else []
    for cell in getattr(model, "__closure__", None) or ():
        with contextlib.suppress(ValueError):
            if isinstance(cell.cell_contents, torch.nn.Module):
                found.extend(cell.cell_contents.modules())
    return found


@contextlib.contextmanager
def _watch(modules: list[torch.nn.Module]) -> Iterator[dict[int, tuple[torch.nn.Module, dict[str, torch.Tensor]]]]:
    """Notice every module that is called, with its buffers as they were before the call."""
    seen: dict[int, tuple[torch.nn.Module, dict[str, torch.Tensor]]] = {}

    def note(module: torch.nn.Module, inputs: Any) -> None:
        if id(module) not in seen:
            seen[id(module)] = (module, {k: b.detach().clone() for k, b in module._buffers.items() if b is not None})

    handle = register_module_forward_pre_hook(note)
    try:
        yield seen
    finally:
        handle.remove()


@contextlib.contextmanager
def untouched_after(
    seen: dict[int, tuple[torch.nn.Module, dict[str, torch.Tensor]]], modules: list[torch.nn.Module]
) -> Iterator[None]:
    """Restore the buffers of modules that were found on the way, and add these to the list."""
    try:
        yield
    finally:
        known = {id(m) for m in modules}
        for module, buffers in seen.values():
            with torch.no_grad():
                for key, content in buffers.items():
                    module._buffers[key].copy_(content)  # type: ignore[union-attr]
            if id(module) not in known:
                modules.append(module)


def _plates(record: Record) -> dict[str, Plate]:
    out: dict[str, Plate] = {}
    for msg in record.samples.values():
        for frame in msg["cond_indep_stack"]:
            if frame.dim is None:
                if frame.name in record.declared:
                    raise ValueError(
                        f"Plate '{frame.name}' is a sequential plate (for ... in pyro.plate) with subsample_size: its "
                        "minibatch would steer a Python loop. Expected a vectorised plate, `with pyro.plate(...) as "
                        "indices:`."
                    )
                continue
            known = out.get(frame.name)
            if known is not None and (known.size, known.dim) != (frame.size, frame.dim):
                raise ValueError(
                    f"Plate '{frame.name}' is used with size {known.size} at dim {known.dim} and with size "
                    f"{frame.size} at dim {frame.dim}: expected one size and one dim per plate name. Rename one of "
                    "them."
                )
            out[frame.name] = Plate(frame.name, int(frame.size), int(frame.dim), record.declared.get(frame.name))
    return out


def _site(
    name: str, msg: dict[str, Any], plates: tuple[Plate, ...], supports: dict[str, Support], latent: set[str] | None
) -> Site:
    fn, value = msg["fn"], torch.as_tensor(msg["value"])
    shape = tuple(value.shape)
    if msg["infer"].get("_deterministic"):
        return Site(name, "deterministic", shape, plates=plates)
    if is_factor(fn):
        return Site(name, "factor", tuple(fn.log_prob(value).shape), plates=plates)
    text = str(getattr(fn, "support", "real"))
    if msg["is_observed"] or (latent is not None and name not in latent):
        return Site(name, "observed", shape, plates=plates, event_dim=fn.event_dim, support=text)
    if is_delta(fn):
        return Site(name, "deterministic", shape, plates=plates, event_dim=fn.event_dim)
    if fn.support.is_discrete:
        if msg["infer"].get("enumerate") == "parallel" and fn.has_enumerate_support:
            return Site(name, "enumerated", shape, plates=plates, event_dim=fn.event_dim, support=text)
        remedy = (
            'mark it with infer={"enumerate": "parallel"} or wrap the model in '
            'pyro.infer.config_enumerate(model, default="parallel") to sum it out exactly'
            if fn.has_enumerate_support
            else "it has no finite enumeration and cannot be summed out: marginalise it or use a continuous site"
        )
        raise ValueError(
            f"Site '{name}' ({type(fn).__name__}) is a discrete latent variable: expected continuous latents, or "
            f"finite discrete ones marked for enumeration; {remedy}. If it is data, pass it as obs=."
        )
    bounds: list[torch.Tensor] = []
    try:
        support = distribution_support(fn, bounds)
    except (ValueError, NotImplementedError) as error:
        raise ValueError(
            f"Site '{name}' ({type(fn).__name__}) cannot be a latent site: {error}. Expected a support that "
            "numpyro.distributions.biject_to knows; reparametrise the site (pyro.poutine.reparam) or choose another "
            "distribution."
        ) from error
    if not value.is_floating_point():
        raise ValueError(
            f"Site '{name}' has dtype {value.dtype}: expected floating-point values at a continuous latent site."
        )
    supports[name] = _with_text(support, bounds)
    constraint = constraint_of(support, [b.detach().numpy() for b in bounds], len(shape), value.detach().numpy().dtype)
    unconstrained = tuple(biject_to(constraint).inverse_shape(shape))
    return Site(name, "latent", shape, unconstrained, plates, fn.event_dim, str(supports[name]))


def _with_text(support: Support, bounds: list[torch.Tensor]) -> Support:
    """Fill in how each bound looks: its number if it has only one."""

    def fill(item: Any) -> Any:
        if isinstance(item, Support):
            return Support(item.kind, tuple(fill(a) for a in item.args))
        if hasattr(item, "index") and hasattr(item, "text"):
            bound = bounds[item.index].detach().reshape(-1)
            same = bound.numel() > 0 and bool((bound == bound[0]).all())
            return item._replace(text=f"{bound[0].item():g}" if same else "...")
        return tuple(fill(a) for a in item) if isinstance(item, tuple) else item

    out = fill(support)
    assert isinstance(out, Support)
    return out


def _params(record: Record, model: Callable[..., Any]) -> dict[str, Param]:
    out: dict[str, Param] = {}
    raws: set[int] = set()
    for name, msg in record.params.items():
        bounds: list[torch.Tensor] = []
        raw = next((a for a in msg["args"] if isinstance(a, torch.nn.Parameter)), None)
        if raw is None and isinstance(msg["value"], torch.nn.Parameter):
            raw = msg["value"]
        if isinstance(raw, torch.nn.Parameter) and not raw.requires_grad:
            continue
        try:
            support = describe(msg["constraint"], bounds)
        except ValueError as error:
            raise ValueError(
                f"The learnable parameter '{name}' cannot be optimised: {error}. Expected a constraint that "
                "numpyro.distributions.biject_to knows."
            ) from error
        if not torch.as_tensor(msg["value"]).is_floating_point():
            raise ValueError(
                f"The learnable parameter '{name}' has dtype {msg['value'].dtype}: expected a floating-point initial "
                "value, because it is moved along a gradient. Write e.g. torch.tensor(3.0) instead of torch.tensor(3), "
                "or make it a plain argument."
            )
        value = raw if raw is not None and raw.shape == msg["value"].shape else msg["value"]
        out[name] = Param(value.detach(), raw, support, tuple(b.detach() for b in bounds))
        if raw is not None:
            raws.add(id(raw))
    owner = model if isinstance(model, torch.nn.Module) else getattr(model, "__self__", None)
    if isinstance(owner, torch.nn.Module) and not _is_pyro_module(owner):
        for name, parameter in owner.named_parameters():
            if parameter.requires_grad and id(parameter) not in raws:
                out[name] = Param(parameter.detach(), parameter, Support("real"), ())
    return out


def _is_pyro_module(module: torch.nn.Module) -> bool:
    from pyro.nn import PyroModule

    return isinstance(module, PyroModule)
