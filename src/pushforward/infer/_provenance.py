"""What a result records about how it came to be: versions, device, dtype, configuration."""

from __future__ import annotations

import datetime
import functools
import json
import platform
from collections.abc import Mapping
from importlib import metadata
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import PyTree

_LIBRARIES = ("jax", "jaxlib", "numpyro", "equinox", "optax", "numpy", "xarray")


def library_attrs() -> dict[str, Any]:
    """The attributes that the ArviZ schema asks of every group."""
    return {
        "created_at": datetime.datetime.now(datetime.UTC).isoformat(),
        "inference_library": "pushforward",
        "inference_library_version": _version("pushforward"),
    }


def collect_provenance(positions: PyTree, extra: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Gather versions, device and dtype of a run, and merge in what only the caller knows.

    Args:
        positions: the draws; their dtype is the dtype of the run.
        extra: seed, configuration, wall time and the like. Anything that is not a number or a string is stored as JSON,
            typed keys as their integers.
    """
    dtypes = sorted({str(leaf.dtype) for leaf in jax.tree.leaves(positions)})
    record: dict[str, Any] = {f"version_{name}": _version(name) for name in _LIBRARIES}
    record["version_python"] = platform.python_version()
    device = jax.devices()[0]
    record["device"] = f"{device.platform}:{device.device_kind} x {jax.device_count()}"
    record["dtype"] = ",".join(dtypes)
    record.update({name: as_attr(value) for name, value in (extra or {}).items()})
    return record


def as_attr(value: Any) -> str | int | float:
    """Convert a value to something that netCDF stores as an attribute: a number, a string, or JSON text."""
    if isinstance(value, bool | np.bool_):
        return int(value)
    if isinstance(value, str | int | float):
        return value
    if isinstance(value, np.integer | np.floating):
        return value.item()
    return json.dumps(value, default=_jsonable)


def _jsonable(value: Any) -> Any:
    if isinstance(value, jax.Array) and jnp.issubdtype(value.dtype, jax.dtypes.prng_key):
        return np.asarray(jax.random.key_data(value)).tolist()
    if isinstance(value, jax.Array | np.ndarray | np.generic):
        return np.asarray(value).tolist()
    if isinstance(value, Mapping):
        return {str(name): entry for name, entry in value.items()}
    if isinstance(value, set | frozenset):
        return sorted(value, key=repr)
    return repr(value)


@functools.cache
def _version(name: str) -> str:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return "unknown"
