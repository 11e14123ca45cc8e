"""One file per result: netCDF for the draws, pickles beside them for the guide, the target and the state."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import pickle
import platform
import secrets
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import xarray as xr

    from ._posterior import Posterior

FORMAT = 1
_GROUP = "pushforward"
_PARTS = ("target", "guide", "state", "position_names")
_HDF5_SIGNATURE = b"\x89HDF\r\n\x1a\n"


class StoredPart:
    """A pickled object of a file, not unpickled yet."""

    def __init__(self, name: str, content: bytes, python: str) -> None:
        self.name, self.content, self.python = name, content, python

    def restore(self) -> Any:
        """Unpickle. This runs code from the file.

        Raises:
            ValueError: if the classes or functions it needs are missing or have changed.
        """
        try:
            return pickle.loads(self.content)
        except Exception as error:
            raise ValueError(
                f"The {self.name} stored in the file cannot be restored here ({type(error).__name__}: {error}). It "
                f"was written by Python {self.python}; this is Python {platform.python_version()}. Import or install "
                "the module that defines the model, in the version of the run. The draws and .summary() do not need "
                "it."
            ) from error


def save(posterior: Posterior, path: str | os.PathLike[str]) -> None:
    """Write a result to one netCDF file, atomically; see `Posterior.save`."""
    target = Path(path)
    if target.is_dir():
        raise IsADirectoryError(
            f"Cannot save to {target}: it is a folder. Give the name of a file in it, such as run.nc."
        )
    if not target.parent.is_dir():
        raise FileNotFoundError(f"Cannot save to {target}: the folder {target.parent} does not exist. Create it first.")
    tree = posterior.data.copy()
    for child in list(tree.children):
        if child == _GROUP:
            del tree[child]
    parts = _pack(posterior)
    tree.attrs = {**tree.attrs, "pushforward_format": FORMAT, "version_python": platform.python_version()}
    tree.attrs["digests"] = json.dumps(_digests(tree))
    tree[_GROUP] = _parts_tree(parts)
    scratch = target.with_name(f".{target.name}.{os.getpid()}.{secrets.token_hex(4)}.tmp")
    try:
        # Opened here first: an unwritable folder shows before any work, and the file gets the usual permissions.
        scratch.touch(exist_ok=False)
        tree.to_netcdf(scratch, engine="h5netcdf")
        _sync(scratch)
        os.replace(scratch, target)
        _sync(target.parent)
    except OSError as error:
        raise type(error)(
            error.errno,
            f"Cannot save to {target}: {error.strerror or error}. Nothing there was changed; choose a writable place "
            "with enough room",
        ) from error
    finally:
        with contextlib.suppress(OSError):
            scratch.unlink(missing_ok=True)


def load(path: str | os.PathLike[str]) -> Posterior:
    """Read a result written by `Posterior.save`.

    The draws are read at once and need no unpickling. ``.target``, ``.guide`` and ``.state`` are unpickled when they
    are first used, and **unpickling runs code from the file: use them only with files that you trust**.

    Args:
        path: a file written by `Posterior.save`.

    Returns:
        The posterior, with its verdict.

    Raises:
        OSError: if there is no readable file.
        ValueError: if the file is damaged, or was not written by pushforward.
    """
    import xarray as xr

    from ._posterior import Posterior

    source = Path(path)
    if source.is_dir():
        raise IsADirectoryError(f"Cannot load {source}: it is a folder. Give a file written by Posterior.save.")
    if not source.exists():
        raise FileNotFoundError(f"Cannot load {source}: there is no such file. Check the path and the working folder.")
    with source.open("rb") as handle:
        if handle.read(len(_HDF5_SIGNATURE)) != _HDF5_SIGNATURE:
            raise ValueError(
                f"{source} is not a netCDF-4 (HDF5) file, or its beginning is damaged. Expected a file written by "
                "Posterior.save."
            )
    try:
        with xr.open_datatree(source, engine="h5netcdf") as opened:
            tree = opened.load().map_over_datasets(_without_encoding)
    # A damaged HDF5 file can raise anything at all, deep inside the reader.
    except Exception as error:
        raise ValueError(
            f"{source} cannot be read as netCDF-4 ({type(error).__name__}: {error}): it is damaged or incomplete. "
            "Restore a copy, or run again; saving is atomic, so a file written by Posterior.save is complete unless "
            "it was changed later."
        ) from error
    if "pushforward_format" not in tree.attrs:
        library = tree.attrs.get("inference_library") or _first_library(tree) or "another program"
        raise ValueError(
            f"{source} is a netCDF file of {library}, not one written by Posterior.save. Open it with "
            "xarray.open_datatree and use arviz_stats on it; pf.load reads results of pushforward only."
        )
    if int(tree.attrs["pushforward_format"]) > FORMAT:
        raise ValueError(
            f"{source} has format {tree.attrs['pushforward_format']}, and this version of pushforward reads up to "
            f"{FORMAT}. Upgrade pushforward."
        )
    packed = tree[_GROUP].to_dataset() if _GROUP in tree.children else None
    if packed is not None:
        del tree[_GROUP]
    _check_digests(tree, source)
    parts = {} if packed is None else _unpack(packed, source, str(tree.attrs["version_python"]))
    for name in ("digests", "pushforward_format"):
        tree.attrs.pop(name, None)
    return Posterior(tree, parts)


def _pack(posterior: Posterior) -> dict[str, bytes]:
    import cloudpickle

    packed: dict[str, bytes] = {}
    missing: list[str] = []
    for name in _PARTS:
        part = posterior._parts.get(name)
        if part is None:
            continue
        if isinstance(part, StoredPart):
            packed[name] = part.content
            continue
        try:
            packed[name] = cloudpickle.dumps(part)
        # Pickling user code can raise anything; the draws must be saved all the same.
        except Exception as error:
            missing.append(f"{name} ({type(error).__name__}: {error})")
    if missing:
        warnings.warn(
            f"The file will hold the draws but not: {'; '.join(missing)}. What needs these (predict, log_likelihood, "
            "resume) will not work after loading. Define the model at module level, without open files, locks or "
            "generators.",
            UserWarning,
            stacklevel=4,
        )
    return packed


def _parts_tree(parts: dict[str, bytes]) -> xr.DataTree:
    import xarray as xr

    variables = {
        name: xr.Variable(
            (f"{name}_bytes",), np.frombuffer(content, np.uint8), {"sha256": hashlib.sha256(content).hexdigest()}
        )
        for name, content in parts.items()
    }
    return xr.DataTree(xr.Dataset(variables))


def _unpack(packed: xr.Dataset, source: Path, python: str) -> dict[str, StoredPart]:
    parts = {}
    for name, variable in packed.data_vars.items():
        content = np.asarray(variable.values, np.uint8).tobytes()
        if hashlib.sha256(content).hexdigest() != variable.attrs.get("sha256"):
            raise ValueError(_damaged(source, str(name)))
        parts[str(name)] = StoredPart(str(name), content, python)
    return parts


def _digests(tree: xr.DataTree) -> dict[str, str]:
    """A fingerprint of every array, and of the attributes of the whole."""
    digests = {
        f"{node.path}/{name}": _digest(variable.values)
        for node in tree.subtree
        for name, variable in node.to_dataset(inherit=False).variables.items()
    }
    attrs = {name: str(value) for name, value in tree.attrs.items() if name != "digests"}
    digests["attributes"] = hashlib.sha256(json.dumps(attrs, sort_keys=True).encode()).hexdigest()
    return digests


def _digest(values: np.ndarray) -> str:
    # Strings and dates come back in another dtype than they went in.
    if values.dtype.kind in "mM":
        values = values.astype(f"{values.dtype.kind}8[ns]").astype(np.int64)
    if values.dtype.kind in "biuf":
        content = np.ascontiguousarray(values).tobytes()
    else:
        content = json.dumps([str(value) for value in values.ravel()]).encode()
    return hashlib.sha256(content).hexdigest()


def _check_digests(tree: xr.DataTree, source: Path) -> None:
    expected: dict[str, str] = json.loads(tree.attrs["digests"])
    actual = _digests(tree)
    for name, digest in expected.items():
        if actual.get(name) != digest:
            raise ValueError(_damaged(source, name))


def _damaged(source: Path, name: str) -> str:
    return (
        f"{source} is damaged: '{name}' does not match the fingerprint stored with it. Restore a copy or run again; a "
        "file edited with other tools can be opened with xarray.open_datatree."
    )


def _without_encoding(dataset: xr.Dataset) -> xr.Dataset:
    return dataset.drop_encoding()


def _first_library(tree: xr.DataTree) -> str | None:
    for child in tree.children.values():
        if "inference_library" in child.attrs:
            return str(child.attrs["inference_library"])
    return None


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError:
        # Some file systems refuse to sync a folder.
        if path.is_file():
            raise
    finally:
        os.close(descriptor)
