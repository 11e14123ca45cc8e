"""Errors for arguments that an entry point or a constructor does not have."""

from __future__ import annotations

import difflib
import functools
import inspect
from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar

P = ParamSpec("P")
R = TypeVar("R")

_ELSEWHERE = {
    "lr": "optimizer=optax.adam(learning_rate)",
    "learning_rate": "optimizer=optax.adam(learning_rate)",
    "step_size": "optimizer=optax.adam(learning_rate) for a fit, pf.HMC(step_size=...) for a sampler",
    "seed": "key=jax.random.key(seed)",
    "rng_key": "key=jax.random.key(seed)",
    "num_samples": "num_steps for a sampler, num_draws for a fit",
    "num_iterations": "num_steps",
    "warmup": "num_warmup",
    "chains": "num_chains",
    "progress_bar": "progress",
    "num_elbo_samples": "num_particles",
    "num_particles": "num_particles of pf.fit",
    "loss": "objective",
}
"""What other libraries call it, and where it is here."""


def explain_keywords(function: Callable[P, R]) -> Callable[P, R]:
    """Turn an unknown or a missing keyword into a ``ValueError`` that names it and what to write instead."""
    signature = inspect.signature(function)
    name, own = function.__name__, list(signature.parameters.values())
    if name == "__init__":
        name, own = function.__qualname__.split(".")[-2], own[1:]
    shown = signature.replace(parameters=own, return_annotation=inspect.Signature.empty)
    required = [
        p.name for p in own if p.default is inspect.Parameter.empty and p.kind is not inspect.Parameter.VAR_KEYWORD
    ]

    @functools.wraps(function)
    def checked(*args: P.args, **kwargs: P.kwargs) -> R:
        try:
            signature.bind(*args, **kwargs)
        except TypeError as error:
            given = args[len(signature.parameters) - len(own) :]
            raise ValueError(_explain(name, shown, required, given, kwargs, error)) from None
        return function(*args, **kwargs)

    return checked


def _explain(
    name: str,
    signature: inspect.Signature,
    required: list[str],
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    error: TypeError,
) -> str:
    known = list(signature.parameters)
    unknown = [k for k in kwargs if k not in known]
    if unknown:
        close = difflib.get_close_matches(unknown[0], known, n=1)
        hint = _ELSEWHERE.get(unknown[0]) or (close[0] if close else None)
        instead = f" Did you mean {hint}?" if hint else ""
        among = f"arguments among {known}" if known else f"no arguments, {name}()"
        return f"pf.{name} has no argument '{unknown[0]}'.{instead} Expected {among}."
    if not known:
        listed = ", ".join(repr(a) for a in args)
        hint = f" A number of draws is num_particles={listed} of pf.fit." if isinstance(args[0], int) else ""
        return f"pf.{name}({listed}): expected no arguments, {name}().{hint}"
    missing = [k for i, k in enumerate(required) if k not in kwargs and (k == "key" or i >= len(args))]
    if "key" in missing:
        return f"pf.{name} needs key=jax.random.key(0) (any seed): random numbers come from an explicit key only."
    return f"pf.{name}: {error}. Expected {name}{signature}."
