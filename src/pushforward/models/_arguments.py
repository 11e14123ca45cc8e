"""Arguments of a probabilistic program: checked once, arrays lifted to leaves, the rest kept static."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array


class Static:
    """A wrapper that makes any object a static, hashable part of a pytree. Equal only to itself."""

    def __init__(self, value: Any) -> None:
        self.value = value

    def __hash__(self) -> int:
        return id(self)

    def __eq__(self, other: object) -> bool:
        return self is other


class Arguments(eqx.Module):
    """Positional and keyword arguments of a program, with their arrays as leaves."""

    arrays: Any
    rest: Static = eqx.field(static=True)

    def __init__(self, args: tuple[Any, ...], kwargs: Mapping[str, Any], *, lift: bool = True) -> None:
        tree = jax.tree.map(_as_array, (args, dict(kwargs))) if lift else (args, dict(kwargs))
        arrays, rest = eqx.partition(tree, eqx.is_array if lift else (lambda _: False))
        self.arrays = arrays
        self.rest = Static(rest)

    def unpack(self) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """The arguments as the program takes them."""
        args, kwargs = eqx.combine(self.arrays, self.rest.value)
        return args, kwargs

    def replaced(self, values: Mapping[int, Any]) -> Arguments:
        """The arguments with some leaves of `unpack` replaced, by their number. For use within one trace."""
        leaves, treedef = jax.tree.flatten(self.unpack())
        for number, value in values.items():
            leaves[number] = value
        return Arguments(*jax.tree.unflatten(treedef, leaves), lift=False)


def bind_arguments(model: Callable[..., Any], args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """Match arguments with the program's signature and check them.

    Returns:
        Arguments by parameter name.

    Raises:
        ValueError: if an argument is missing, unknown or an empty array.
    """
    try:
        signature = inspect.signature(model)
    except (TypeError, ValueError):
        return {**{f"arg{i}": a for i, a in enumerate(args)}, **kwargs}
    try:
        bound = signature.bind(*args, **kwargs)
    except TypeError as error:
        raise ValueError(
            f"The arguments do not fit the model '{program_name(model)}{signature}': {error}. Expected every argument "
            f"of the model after the model itself, e.g. from_numpyro(model, x, y=y); got {len(args)} positional "
            f"argument(s) and keyword(s) {sorted(kwargs)}."
        ) from None
    named: dict[str, Any] = {}
    for name, value in bound.arguments.items():
        kind = signature.parameters[name].kind
        if kind is inspect.Parameter.VAR_POSITIONAL:
            named.update({f"{name}[{i}]": v for i, v in enumerate(value)})
        elif kind is inspect.Parameter.VAR_KEYWORD:
            named.update(value)
        else:
            named[name] = value
    for name, value in named.items():
        for leaf in jax.tree.leaves(value):
            if isinstance(leaf, (np.ndarray, jax.Array)) and leaf.size == 0:
                raise ValueError(
                    f"Argument '{name}' of the model '{program_name(model)}' is an empty array of shape {leaf.shape}: "
                    "expected at least one observation. Check how the data was loaded or filtered."
                )
    return named


def unset_arguments(model: Callable[..., Any], named: Mapping[str, Any]) -> list[str]:
    """Parameters that are None, given so or by default."""
    try:
        parameters = inspect.signature(model).parameters
    except (TypeError, ValueError):
        return []
    return [
        n for n, p in parameters.items() if (n in named and named[n] is None) or (n not in named and p.default is None)
    ][::-1]


def array_arguments(named: Mapping[str, Any]) -> dict[str, Array]:
    """The array arguments by name, nested ones as ``name.path``."""
    out: dict[str, Array] = {}
    for name, value in named.items():
        for path, leaf in jax.tree_util.tree_leaves_with_path(value):
            if isinstance(leaf, (np.ndarray, jax.Array)) and np.asarray(leaf).dtype.kind in "biuf":
                out[name + _suffix(path)] = jnp.asarray(leaf)
    return out


def leaf_numbers(model: Callable[..., Any], args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> dict[str, int]:
    """Number of each leaf of ``(args, kwargs)``, by the names of `array_arguments`."""
    leaves, treedef = jax.tree.flatten((args, dict(kwargs)))
    marked = jax.tree.unflatten(treedef, [Static(number) for number in range(len(leaves))])
    out: dict[str, int] = {}
    for name, value in bind_arguments(model, *marked).items():
        for path, mark in jax.tree_util.tree_leaves_with_path(value):
            out[name + _suffix(path)] = mark.value
    return out


def _suffix(path: Any) -> str:
    return "".join(f".{getattr(k, 'key', getattr(k, 'idx', k))}" for k in path)


def program_name(model: Callable[..., Any]) -> str:
    """A name for messages."""
    inner = getattr(model, "fn", None)
    if not hasattr(model, "__name__") and callable(inner):
        return program_name(inner)
    return str(getattr(model, "__name__", type(model).__name__))


def _as_array(leaf: Any) -> Any:
    if isinstance(leaf, np.ndarray) and leaf.dtype.kind in "biufc":
        return jnp.asarray(leaf)
    return leaf
