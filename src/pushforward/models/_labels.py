"""Names of dimensions and of what stands along them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from ._program import AbstractProgram, Site


def site_dims(sites: Iterable[Site], given: Mapping[str, tuple[str, ...]]) -> dict[str, tuple[str, ...]]:
    """Dimension names per site, one per axis of its value: plates, the user's names, else ``site_dim_i``."""
    out: dict[str, tuple[str, ...]] = {}
    for site in sites:
        rank = len(site.shape)
        names = [f"{site.name}_dim_{i}" for i in range(rank)]
        event = given.get(site.name, ())
        plate_axis = {rank + p.dim - site.event_dim: p for p in site.plates}
        free = [i for i in range(rank) if i not in plate_axis or site.shape[i] != plate_axis[i].size]
        for axis, plate in plate_axis.items():
            if 0 <= axis < rank and site.shape[axis] == plate.size:
                names[axis] = plate.name
        axes = range(rank) if len(event) == rank else free[len(free) - len(event) :]
        for axis, name in zip(axes, event, strict=False):
            names[axis] = name
        out[site.name] = tuple(names)
    return out


def plain_labels(values: Any) -> tuple[Any, ...]:
    """Labels as a tuple of Python objects, so that they can be static."""
    return tuple(values.tolist() if hasattr(values, "tolist") else values)


def check_labels(
    program: AbstractProgram,
    dims: Mapping[str, tuple[str, ...]],
    user_dims: Iterable[tuple[str, tuple[str, ...]]],
    user_coords: Iterable[tuple[str, tuple[Any, ...]]],
) -> None:
    """Refuse names and labels that do not fit the program.

    Raises:
        ValueError: naming the site or dimension.
    """
    sites = {s.name: s for s in program.sites}
    for name, names in user_dims:
        if name not in sites:
            raise ValueError(
                f"dims names the site '{name}', which the program does not have: expected one of {sorted(sites)}."
            )
        if len(names) > len(sites[name].shape):
            raise ValueError(
                f"dims['{name}'] gives {len(names)} names {names}, but the site has shape {sites[name].shape}: "
                f"expected at most {len(sites[name].shape)} names, rightmost axes first filled."
            )
    sizes: dict[str, int] = {p.name: p.size for p in program.plates}
    for name, axes in dims.items():
        sizes.update(dict(zip(axes, sites[name].shape, strict=True)))
    for dim, labels in user_coords:
        if dim in sizes and len(labels) != sizes[dim]:
            raise ValueError(f"coords['{dim}'] has {len(labels)} labels, but the dimension has length {sizes[dim]}.")
        if dim not in sizes:
            raise ValueError(f"coords names the dimension '{dim}', which no site has: expected one of {sorted(sizes)}.")
