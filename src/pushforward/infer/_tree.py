"""Write draws into an ``xarray.DataTree`` that follows the ArviZ schema."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import PyTree

from ._provenance import library_attrs

if TYPE_CHECKING:
    import xarray as xr

    from ..models import Target
    from ..models._layout import Layout

SAMPLE_DIMS = ("chain", "draw")
_SCALARS_PER_BLOCK = 512


class Labels:
    """Names of variables, dims and coordinates of one target, made fit for a file.

    Two rules of the schema are enforced here: a variable never shares the name of a dim (the dim gets the suffix
    ``_dim``), and names hold no ``/`` (which separates groups; scoped sites ``scope/x`` become ``scope.x``).
    """

    def __init__(self, target: Target, names: Sequence[str]) -> None:
        self._target = target
        self._variables = {clean_name(name) for name in names} | {clean_name(site) for site in target.dims}
        self._variables |= {clean_name(site.name) for site in target.program.sites}

    def dim(self, name: str) -> str:
        name = clean_name(name)
        while name in self._variables or name in SAMPLE_DIMS:
            name = f"{name}_dim"
        return name

    def dims(self, site: str, shape: Sequence[int]) -> tuple[str, ...]:
        """Dims of a value of ``site``; a value with fewer axes (pointwise log-likelihood) keeps the leading ones."""
        known = tuple(self._target.dims.get(site, ()))
        if len(known) < len(shape):
            # A site the target does not describe, or one whose value has extra axes.
            known += tuple(f"{site}_dim_{axis}" for axis in range(len(known), len(shape)))
        return tuple(self.dim(name) for name in known[: len(shape)])

    def coords(self, sizes: Mapping[str, int]) -> dict[str, Any]:
        """Coordinate values of the dims in use: the user's where their length fits, else 0, 1, 2, ..."""
        given = {self.dim(name): coordinate_values(values) for name, values in self._target.coords.items()}
        return {
            name: given[name] if name in given and len(given[name]) == size else np.arange(size)
            for name, size in sizes.items()
        }


def clean_name(name: str) -> str:
    """A variable name that can live in a group of a file."""
    return name.replace("/", ".")


def coordinate_values(values: Any) -> np.ndarray:
    """Coordinate labels as an array that netCDF can hold."""
    array = np.asarray(values)
    if array.dtype.kind == "O":
        return np.asarray([str(value) for value in values])
    return array


def host_array(value: Any) -> np.ndarray:
    """A NumPy array with a dtype that netCDF knows; typed keys become their integers."""
    if isinstance(value, jax.Array):
        if jnp.issubdtype(value.dtype, jax.dtypes.prng_key):
            value = jax.random.key_data(value)
        elif value.dtype == jnp.bfloat16:
            value = value.astype(jnp.float32)
    array = np.asarray(value)
    if array.dtype == np.float16:
        return array.astype(np.float32)
    return array


def build_dataset(
    values: Mapping[str, Any],
    labels: Labels,
    *,
    sample_shape: tuple[int, ...] = (),
    sample_coords: Mapping[str, Any] | None = None,
    dims: Mapping[str, Sequence[str]] | None = None,
) -> xr.Dataset:
    """Build one group.

    Args:
        values: arrays by site, of shape ``sample_shape + value shape``.
        labels: names of dims and coordinates.
        sample_shape: (chain, draw), or () for data.
        sample_coords: labels of chain and draw; 0, 1, 2, ... where absent.
        dims: dims of a value by site, where they are not those of the target.

    Raises:
        ValueError: if two sites get the same name, or the same dim has two sizes.
    """
    import xarray as xr

    num_sample = len(sample_shape)
    variables: dict[str, tuple[tuple[str, ...], np.ndarray]] = {}
    sizes: dict[str, int] = {}
    for site, value in values.items():
        array = host_array(value)
        if array.shape[:num_sample] != sample_shape:
            raise ValueError(f"{site!r} must begin with the axes (chain, draw) = {sample_shape}, got {array.shape}.")
        shape = array.shape[num_sample:]
        names = tuple(labels.dim(d) for d in dims[site]) if dims and site in dims else labels.dims(site, shape)
        if array.dtype.kind == "c":
            # netCDF has no complex numbers.
            array, names = np.stack([array.real, array.imag], axis=-1), (*names, "real_imag")
            shape = (*shape, 2)
        # xarray allows a dim only once per variable: a square matrix over one plate needs a second name.
        names = tuple(name if name not in names[:axis] else f"{name}_{axis}" for axis, name in enumerate(names))
        for axis, name in enumerate(names):
            if sizes.setdefault(name, shape[axis]) != shape[axis]:
                names = (*names[:axis], labels.dim(f"{clean_name(site)}_dim_{axis}"), *names[axis + 1 :])
                sizes[names[axis]] = shape[axis]
        name = clean_name(site)
        if name in variables:
            raise ValueError(f"Two sites are called {name!r} in the result (a slash is stored as a dot): rename one.")
        variables[name] = ((*SAMPLE_DIMS[:num_sample], *names), array)
    coords = labels.coords(sizes)
    for axis, name in enumerate(SAMPLE_DIMS[:num_sample]):
        coords[name] = (sample_coords or {}).get(name, np.arange(sample_shape[axis]))
    return xr.Dataset(variables, coords=coords, attrs=library_attrs())


def position_names(position: PyTree) -> PyTree:
    """Replace each leaf of a position by the name of its variable in ``unconstrained_posterior``."""
    paths, structure = jax.tree.flatten_with_path(position)
    names = [clean_name(jax.tree_util.keystr(path, simple=True, separator=".")) or "position" for path, _ in paths]
    return jax.tree.unflatten(structure, names)


def unconstrained_dataset(
    target: Target, positions: PyTree, labels: Labels, sample_shape: tuple[int, ...]
) -> xr.Dataset:
    """The draws as the algorithm saw them. A site whose shape the constraint changes gets dims of its own."""
    names = jax.tree.leaves(position_names(positions))
    values = dict(zip(names, jax.tree.leaves(positions), strict=True))
    sites = {clean_name(site.name): site for site in target.program.sites}
    dims: dict[str, tuple[str, ...]] = {}
    for name, value in values.items():
        shape = np.shape(value)[len(sample_shape) :]
        site = sites.get(name)
        if site is not None and tuple(site.shape) == shape:
            dims[name] = labels.dims(site.name, shape)
        else:
            dims[name] = tuple(f"{name}_unconstrained_dim_{axis}" for axis in range(len(shape)))
    return build_dataset(values, labels, sample_shape=sample_shape, dims=dims)


def optimization_dataset(entries: Mapping[str, tuple[Sequence[str], Any]]) -> xr.Dataset:
    """The record of an optimisation: ``{name: (dims, array)}``. A variable named as its only dim labels that dim."""
    import xarray as xr

    coords = {name: value for name, value in entries.items() if tuple(value[0]) == (name,)}
    variables = {
        name: (tuple(dims), host_array(array)) for name, (dims, array) in entries.items() if name not in coords
    }
    return xr.Dataset(
        variables,
        coords={name: (tuple(dims), coordinate_values(array)) for name, (dims, array) in coords.items()},
        attrs=library_attrs(),
    )


def unravel_draws(layout: Layout, flat: np.ndarray) -> PyTree:
    """Positions, leaves of shape (chain, draw, ...), from flat ones of shape (chain, draw, dim)."""
    return jax.vmap(jax.vmap(layout.unravel))(jnp.asarray(flat))


def group(tree: xr.DataTree, name: str) -> xr.Dataset:
    """One group of a result; empty where absent."""
    import xarray as xr

    return tree.children[name].to_dataset() if name in tree.children else xr.Dataset()


def flat_names(dataset: xr.Dataset, name: str) -> list[str]:
    """Labels of the scalars of one variable, in C order: ``theta[Choate]``, or ``mu`` for a scalar."""
    variable = dataset[name]
    dims = [dim for dim in variable.dims if dim not in SAMPLE_DIMS]
    shape = [variable.sizes[dim] for dim in dims]
    if not dims:
        return [name]
    columns = [dataset[dim].values if dim in dataset.coords else np.arange(variable.sizes[dim]) for dim in dims]
    return [
        f"{name}[{', '.join(str(column[i]) for column, i in zip(columns, index, strict=True))}]"
        for index in np.ndindex(*shape)
    ]


def stacked_draws(dataset: xr.Dataset, name: str, scalars: slice = slice(None)) -> np.ndarray:
    """Draws of one variable (or of some of its scalars) as floats of shape (scalars, chain, draw)."""
    values = dataset[name].transpose(*SAMPLE_DIMS, ...).values
    chains, draws = values.shape[:2]
    return np.moveaxis(values.reshape(chains, draws, -1)[..., scalars], -1, 0).astype(np.float64)


def draw_blocks(dataset: xr.Dataset, name: str, limit: int | None = None) -> Iterator[tuple[list[str], np.ndarray]]:
    """Labels and `stacked_draws` of one variable, some scalars at a time: a large model never needs a second copy."""
    labels = flat_names(dataset, name)[:limit]
    for start in range(0, len(labels), _SCALARS_PER_BLOCK):
        block = slice(start, min(start + _SCALARS_PER_BLOCK, len(labels)))
        yield labels[block], stacked_draws(dataset, name, block)
