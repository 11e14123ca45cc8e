"""Compile a Pyro model: discover, trace, check. Imports torch and pyro: load only from inside a function."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import numpy as np
import torch

from .._arguments import program_name
from ._check import check
from ._convert import UnknownOperation
from ._density import Density
from ._discover import Structure, discover
from ._graph import Graph
from ._trace import BranchError, CompilationError, Recorder, trace


class Compiled(NamedTuple):
    """What `compile_model` hands to the program: plain data only, but for the density."""

    structure: Structure
    density: Density
    full: Graph | None
    minibatch: Graph | None
    constants: dict[str, np.ndarray[Any, Any]]
    lifted: frozenset[str]
    """Observed sites whose data is an input."""
    indices: dict[str, torch.Tensor] | None
    """Example indices of the subsampled plates."""


def as_tensors(tree: Any) -> Any:
    """NumPy and JAX arrays in (nested) arguments as tensors; floating-point ones take torch's default dtype."""
    if isinstance(tree, (np.ndarray, jax.Array)):
        array = np.asarray(tree)
        if array.dtype.kind not in "biufc":
            return tree
        tensor = torch.from_numpy(np.array(array))
        return tensor.to(torch.get_default_dtype()) if array.dtype.kind == "f" else tensor
    if isinstance(tree, Mapping) and type(tree) in (dict,):
        return {k: as_tensors(v) for k, v in tree.items()}
    if isinstance(tree, tuple) and hasattr(tree, "_fields"):
        return type(tree)(*[as_tensors(v) for v in tree])
    if type(tree) in (list, tuple):
        return type(tree)(as_tensors(v) for v in tree)
    return tree


def compile_model(
    model: Callable[..., Any],
    args: tuple[Any, ...],
    kwargs: Mapping[str, Any],
    data: Mapping[str, torch.Tensor],
    *,
    latent: set[str] | None,
    callback: bool,
) -> Compiled:
    """Compile a model with its arguments.

    Args:
        model: Pyro model.
        args: its positional arguments, as tensors.
        kwargs: its keyword arguments, as tensors.
        data: replacements for the data of observed sites.
        latent: names that are latent; None takes every unobserved site.
        callback: do not trace.

    Raises:
        ValueError: naming operation, site and remedy, if the model cannot be compiled or the result differs from torch.
    """
    with warnings.catch_warnings():
        # Tracing makes torch warn about constants and Python numbers; whether they matter is what the check finds out.
        warnings.simplefilter("ignore")
        structure = discover(model, args, kwargs, data, seed=0, latent=latent)
        density = Density(model, args, kwargs, data, structure)
        indices = _example_indices(structure)
        lift = _liftable(density, indices)
        if callback:
            return Compiled(structure, density, None, None, {}, frozenset(lift), indices)
        name = program_name(model)
        try:
            return _compile(density, structure, indices, lift)
        except BranchError:
            # Data may steer Python control flow; then it must be part of the program.
            try:
                return _compile(density, structure, indices, set())
            except CompilationError as error:
                raise ValueError(f"The model '{name}' cannot be compiled. {error}") from None
        except CompilationError as error:
            raise ValueError(f"The model '{name}' cannot be compiled. {error}") from None


def _compile(
    density: Density, structure: Structure, indices: dict[str, torch.Tensor] | None, lift: set[str]
) -> Compiled:
    full, constants = _trace(density, lift, None)
    lifted = frozenset(lift - density.computed)
    minibatch = None
    if indices is not None:
        minibatch, more = _trace(density, set(lifted), indices)
        constants = {**constants, **more}
    compiled = Compiled(structure, density, full, minibatch, constants, lifted, indices)
    _refuse_missing_x64(compiled)
    check(density, full, constants, lifted, None)
    if minibatch is not None:
        check(density, minibatch, constants, lifted, indices)
    return compiled


def _trace(
    density: Density, lift: set[str], indices: dict[str, torch.Tensor] | None
) -> tuple[Graph, dict[str, np.ndarray[Any, Any]]]:
    recorder = Recorder()
    inputs = density.inputs(0, lift=lift, indices=indices)
    try:
        return trace(lambda x: density(x, recorder), inputs, recorder)
    except UnknownOperation as error:
        listed = "; ".join(
            f"{op} at site '{origin.site}' ({origin.line or 'line unknown'})" for op, origin in error.found[:5]
        )
        first = error.found[0][0]
        raise CompilationError(
            f"No JAX lowering is known for {len(error.found)} operation(s): {listed}. Expected operations that "
            f'pushforward can translate. Register one, pf.register_lowering("{first}", fn) with fn the same operation '
            'in JAX, or pass backend="callback", which runs the model in torch at every evaluation (slow).'
        ) from None
    except CompilationError:
        raise
    except Exception as error:
        if recorder.error is not None:
            raise recorder.error from None
        if "vmap" in str(error) or "data-dependent" in str(error) or "GuardOnDataDependent" in type(error).__name__:
            raise BranchError(_unexpected(recorder, error)) from error
        raise CompilationError(_unexpected(recorder, error)) from error


def _unexpected(recorder: Recorder, error: Exception) -> str:
    first = str(error).strip().splitlines()
    return (
        f"Tracing it failed at or after site '{recorder.site}' with {type(error).__name__}: "
        f"{first[0] if first else ''} Expected a model "
        'whose density torch can trace; pass backend="callback" to run it in torch at every evaluation (slow).'
    )


def _example_indices(structure: Structure) -> dict[str, torch.Tensor] | None:
    generator = torch.Generator().manual_seed(0)
    out = {
        p.name: torch.randperm(p.size, generator=generator)[: p.subsample_size]
        for p in structure.plates
        if p.subsample_size is not None
    }
    return out or None


def _liftable(density: Density, indices: dict[str, torch.Tensor] | None) -> set[str]:
    """Observed sites whose minibatch is the full data at the indices, so that the data can be an input of its own."""
    structure = density.structure
    names = set(structure.observed)
    if indices is None:
        return names
    from ._run import Bind, Binding, Record, run, untouched

    inputs = density.inputs(0, lift=set(), indices=indices)
    latents = {k.partition("/")[2]: v for k, v in inputs.items() if k.startswith("latent/")}
    bind = Bind(Binding(latents=latents, indices=indices, start_improper=True, observed=density.data), Record())
    with untouched(structure.modules):
        torch.manual_seed(0)
        own = run(density.model, density.args, density.kwargs, bind).samples
    out: set[str] = set()
    for name in names:
        msg = own[name]
        chosen = bind._select(structure.observed[name], msg)
        value = torch.as_tensor(msg["value"])
        if value.shape == chosen.shape and torch.equal(
            torch.nan_to_num(value.float()), torch.nan_to_num(chosen.float())
        ):
            out.add(name)
    return out


def _refuse_missing_x64(compiled: Compiled) -> None:
    if jax.config.read("jax_enable_x64"):
        return
    for graph in (compiled.full, compiled.minibatch):
        where = None if graph is None else graph.float64_use()
        if where is not None:
            raise ValueError(double_precision_message(where))


def double_precision_message(where: str) -> str:
    """The error for a double-precision model in single-precision JAX."""
    return (
        f"The Pyro model computes in float64 ({where}), but JAX has 64-bit types switched off and would round every "
        "value to float32. Expected matching precision: call pf.enable_x64() before anything else, or make the model "
        "float32 (torch.set_default_dtype(torch.float32), data.float(), module.float())."
    )
