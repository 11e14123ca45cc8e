"""Pyro programs as targets. Torch and Pyro are imported when a model is compiled, not before."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np

from .._arguments import bind_arguments, program_name, unset_arguments
from .._target import Target
from ._host import Host
from ._program import ParamInfo, PyroProgram
from ._support import bijection, is_real


def from_pyro(
    model: Callable[..., Any],
    *args: Any,
    coords: Mapping[str, Any] | None = None,
    dims: Mapping[str, Any] | None = None,
    backend: Literal["jax", "callback"] = "jax",
    **kwargs: Any,
) -> Target:
    """Make a target of a Pyro program by compiling its log density to JAX.

    The model is run under Pyro's own handlers, its log-probability is traced to a graph of torch operations, and the
    graph is interpreted in JAX: values and gradients agree with torch to rounding and cost what JAX code costs. A
    position is ``{latent site: unconstrained array}``, in the same space as that of the NumPyro twin of the program.

    What is understood: constrained sites of every kind that NumPyro has a bijection for, bounds that depend on other
    sites, deterministic sites, factors, improper priors, plates with ``subsample_size`` (minibatches with given
    indices), discrete sites marked ``infer={"enumerate": "parallel"}`` (summed out exactly), ``pyro.param``,
    `PyroModule`, ``pyro.module`` and the weights of a model that is itself an ``nn.Module`` (learnable parameters),
    ``pyro.poutine`` handlers, masks and scales, in-place operations. Modules that are used without being registered are
    constants, as in Pyro.

    Args:
        model: a Pyro model, possibly wrapped in handlers, or a `PyroModule`.
        *args: the model's positional arguments. NumPy and JAX arrays become tensors; floating-point ones take torch's
            default dtype.
        coords: labels per dimension, ``{dim: labels}``; plate names are dimensions.
        dims: names of the axes that no plate owns, ``{site: names}``.
        backend: ``"jax"`` compiles. ``"callback"`` runs the model in torch at every evaluation: any model works, but it
            is hundreds of times slower, has first derivatives only, and a vectorised call runs torch once per element.
        **kwargs: the model's keyword arguments.

    Returns:
        A `Target`. Building it runs the model about ten times and compiles the density once, to compare value and
        gradient with torch at three draws. The model, Pyro's parameter store and random states are left as they were.

    Raises:
        ImportError: if torch or Pyro is not installed.
        ValueError: if arguments are missing, unknown or empty; if a discrete site is not marked for enumeration; if the
            model uses an operation without a lowering (see `register_lowering`), branches on the value of a latent
            site, or draws random numbers inside its density; if it is a float64 model and JAX's 64-bit types are off;
            if the compiled density differs from torch's by more than 1e-8 (float64) or 1e-4 (float32), relative.

    Example:
        >>> import pyro, pyro.distributions as dist, torch
        >>> def model(y):
        ...     mu = pyro.sample("mu", dist.Normal(0.0, 10.0))
        ...     with pyro.plate("n", len(y)):
        ...         pyro.sample("y", dist.Normal(mu, 1.0), obs=y)
        >>> from_pyro(model, torch.ones(3)).dim
        1
    """
    if not callable(model):
        raise ValueError(
            f"Expected a Pyro model (a callable), got {type(model).__name__}: pass the function itself, not its result."
        )
    if backend not in ("jax", "callback"):
        raise ValueError(
            f'Unknown backend {backend!r}: expected "jax" (compiled) or "callback" (torch at every evaluation, slow).'
        )
    try:
        import pyro as _  # noqa: F401
    except ImportError as error:
        raise ImportError(
            'Pyro models need torch and pyro-ppl: install them with pip install "pushforward[pyro]".'
        ) from error
    named = bind_arguments(model, args, kwargs)
    if backend == "callback":
        warnings.warn(
            f"The Pyro model '{program_name(model)}' runs in torch at every evaluation (backend=\"callback\"): expect "
            "it to be hundreds of "
            'times slower than backend="jax", and first derivatives only.',
            stacklevel=2,
        )
    program = build(model, args, kwargs, {}, latent=None, callback=backend == "callback")
    if not any(s.kind in ("observed", "factor") for s in program.sites):
        unset = unset_arguments(model, named)
        if unset:
            raise ValueError(
                f"The model '{program_name(model)}' has no observed site, and its argument(s) {unset} were left at "
                f"None: the posterior would be the prior. Expected the data, e.g. from_pyro({program_name(model)}, "
                f"..., {unset[-1]}=...)."
            )
    return Target(program, coords=coords, dims=dims)


def build(
    model: Callable[..., Any],
    args: tuple[Any, ...],
    kwargs: Mapping[str, Any],
    data: Mapping[str, Any],
    *,
    latent: set[str] | None,
    callback: bool,
) -> PyroProgram:
    """Compile a model into a program.

    Args:
        model: Pyro model.
        args: its positional arguments.
        kwargs: its keyword arguments.
        data: replacements for the data of observed sites.
        latent: names that are latent; None takes every unobserved site.
        callback: run the model in torch at every evaluation instead.
    """
    from ._compile import as_tensors, compile_model
    from ._simulate import as_torch

    args, kwargs = as_tensors(args), as_tensors(dict(kwargs))
    named = bind_arguments(model, args, kwargs)
    arrays = _array_arguments(named)
    for name, value in arrays.items():
        if value.size == 0:
            raise ValueError(
                f"Argument '{name}' of the model '{program_name(model)}' is an empty array of shape {value.shape}: "
                "expected at least one observation. Check how the data was loaded or filtered."
            )
    compiled = compile_model(model, args, kwargs, as_torch(data), latent=latent, callback=callback)
    structure = compiled.structure
    params, info = _unconstrained(structure.params)
    observed = {k: jnp.asarray(v.numpy()) for k, v in structure.observed.items()}
    host = Host(model, args, kwargs, data, latent)
    return PyroProgram(
        params=params,
        data=observed,
        buffers={
            str(i): jnp.asarray(m.get_buffer(k).detach().numpy()) for i, (m, k) in enumerate(compiled.density.buffers)
        },
        constant_arrays={k: jnp.asarray(v) for k, v in compiled.constants.items()},
        arguments={k: jnp.asarray(v) for k, v in arrays.items() if not _is_observed(v, observed)},
        param_info=info,
        full=compiled.full,
        minibatch=compiled.minibatch,
        supports=tuple((k, structure.supports[k]) for k in structure.latents),
        lifted=compiled.lifted,
        host=host,
        sites=structure.sites,
        plates=structure.plates,
        enumerated=structure.enumerated,
        source=f"pyro:{program_name(model)}",
    )


def fresh_params(host: Host, seed: int) -> dict[str, Any]:
    """Unconstrained initial values of the learnable parameters, drawn anew where the program draws them."""
    from ._discover import discover
    from ._simulate import as_torch

    model, args, kwargs, data = host.content
    structure = discover(model, args, kwargs, as_torch(data), seed=seed, latent=host.latent, num_draws=1)
    return _unconstrained(structure.params)[0]


def _unconstrained(params: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, ParamInfo]]:
    values: dict[str, Any] = {}
    info: dict[str, ParamInfo] = {}
    for name, param in params.items():
        value = jnp.asarray(param.value.numpy())
        bounds = tuple(jnp.asarray(b.numpy()) for b in param.bounds)
        info[name] = ParamInfo(param.support, bounds)
        values[name] = (
            value if is_real(param.support) else bijection(param.support, bounds, value.ndim, value.dtype).inv(value)
        )
    return values, info


def _array_arguments(named: Mapping[str, Any]) -> dict[str, np.ndarray[Any, Any]]:
    import torch

    out: dict[str, np.ndarray[Any, Any]] = {}
    for name, value in named.items():
        for path, leaf in jax.tree_util.tree_leaves_with_path(value):
            if isinstance(leaf, torch.Tensor):
                suffix = "".join(f".{getattr(k, 'key', getattr(k, 'idx', k))}" for k in path)
                out[name + suffix] = leaf.detach().cpu().numpy()
    return out


def _is_observed(value: np.ndarray[Any, Any], observed: Mapping[str, Any]) -> bool:
    return any(value.shape == o.shape and np.array_equal(value, np.asarray(o)) for o in observed.values())
