"""Which arguments of a program carry its data, and programs with other data in these arguments."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from ._arguments import leaf_numbers, program_name
from ._numpyro import NumPyroProgram
from ._program import Site
from ._types import Batch, Values


def data_arguments(program: NumPyroProgram, named: Mapping[str, str]) -> dict[str, int]:
    """Number of the argument leaf that carries each observed site's data.

    Args:
        program: the model.
        named: ``{site: argument}`` where the user says so; other sites are matched by equal values.

    Raises:
        ValueError: naming the site, if no argument or several have its value.
    """
    args, kwargs = program.arguments.unpack()
    leaves, numbers = jax.tree.leaves((args, kwargs)), leaf_numbers(program.model, args, kwargs)
    observed, name = program.observed(), program_name(program.model)
    unknown = sorted(set(named) - set(observed))
    if unknown:
        raise ValueError(f"data names the site(s) {unknown}: expected observed sites of the model, {sorted(observed)}.")
    out: dict[str, int] = {}
    for site, value in observed.items():
        if site in named:
            chosen = [argument for argument in numbers if argument == named[site]]
            if not chosen or np.shape(leaves[numbers[chosen[0]]]) != value.shape:
                raise ValueError(
                    f"data={{'{site}': '{named[site]}'}}: expected an argument of '{name}' with the shape of the "
                    f"site's data, {value.shape}, among {_shapes(numbers, leaves)}."
                )
        else:
            chosen = [argument for argument, i in numbers.items() if _same(leaves[i], value)]
        if len(chosen) != 1:
            found = f"the arguments {chosen} all have" if chosen else "no argument has"
            raise ValueError(
                f"Simulated data of site '{site}' must reach the guide in the place of the observed data, and {found} "
                f"the value that '{name}' passes as obs=. Expected exactly one: pass the data to the model as it is "
                f"observed (transformed beforehand), or name the argument, data={{'{site}': 'argument'}}, among "
                f"{_shapes(numbers, leaves)}."
            )
        out[site] = numbers[chosen[0]]
    twice = sorted(site for site, i in out.items() if list(out.values()).count(i) > 1)
    if twice:
        raise ValueError(
            f"The observed sites {twice} of '{name}' have their data in one argument, which cannot hold different "
            "simulated values: expected one argument per observed site."
        )
    return out


def same_arguments(program: NumPyroProgram, other: NumPyroProgram, numbers: Mapping[str, int]) -> dict[str, int]:
    """Leaves of another program's own arguments that have the values of the numbered ones.

    Raises:
        ValueError: naming the site, if none or several have them.
    """
    leaves, others = (jax.tree.leaves(p.arguments.unpack()) for p in (program, other))
    out: dict[str, int] = {}
    for site, number in numbers.items():
        equal = [i for i, leaf in enumerate(others) if _same(leaf, jnp.asarray(leaves[number]))]
        if len(equal) > 1:
            raise ValueError(
                f"The guide '{program_name(other.model)}' has several arguments equal to the data of site '{site}', so "
                "that it is not known which is to be replaced by simulated data: expected one, or a guide without "
                "arguments of its own, which takes those of the model."
            )
        if equal:
            out[site] = equal[0]
    return out


def with_data(
    program: NumPyroProgram, numbers: Mapping[str, int], data: Values, sites: Mapping[str, Site], batch: Batch | None
) -> NumPyroProgram:
    """The program with other data in its arguments, at the minibatch's places where there is one. Traceable.

    Args:
        program: a model, or a guide that takes the data as arguments.
        numbers: argument leaf per site.
        data: values of the sites, at minibatch size.
        sites: the model's description of the sites.
        batch: minibatch indices.
    """
    leaves = jax.tree.leaves(program.arguments.unpack())
    new = {i: _scatter(leaves[i], data[site], sites[site], batch) for site, i in numbers.items()}
    return dataclasses.replace(program, arguments=program.arguments.replaced(new))


def _scatter(full: Any, part: Array, site: Site, batch: Batch | None) -> Array:
    """Values of a minibatch at their places in the full array."""
    full = jnp.asarray(full)
    part = part.astype(full.dtype)
    axes = {full.ndim + p.dim - site.event_dim: batch[p.name] for p in site.plates if batch and p.name in batch}
    if not axes:
        return jnp.reshape(part, full.shape)
    if len(axes) == 1:
        return full.at[tuple(axes.get(axis, slice(None)) for axis in range(full.ndim))].set(part)
    return full.at[jnp.ix_(*(axes.get(axis, jnp.arange(n)) for axis, n in enumerate(full.shape)))].set(part)


def _same(leaf: Any, value: Array) -> bool:
    if not isinstance(leaf, np.ndarray | jax.Array | int | float) or np.shape(leaf) != value.shape:
        return False
    return bool(np.array_equal(np.asarray(leaf), np.asarray(value), equal_nan=value.dtype.kind == "f"))


def _shapes(numbers: Mapping[str, int], leaves: list[Any]) -> dict[str, tuple[int, ...]]:
    return {name: np.shape(leaves[i]) for name, i in numbers.items()}
