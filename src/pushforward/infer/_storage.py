"""One file per result: netCDF for the draws, pickles beside them for the guide, the target and the state.

The file ends with a seal, a marker and the SHA-256 of everything before it. HDF5 ignores bytes after its own end, so
the file opens in any netCDF reader, and damage is found before a reader meets it.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import pickle
import platform
import secrets
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ._tree import group

if TYPE_CHECKING:
    import xarray as xr

    from ._posterior import Posterior

FORMAT = 1
_GROUP = "pushforward"
_PARTS = ("target", "guide", "state", "position_names")
_SEAL = b"pushforward-seal"
_BLOCK = 2**20


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
    import xarray as xr

    target = Path(path)
    if target.is_dir():
        raise IsADirectoryError(f"Cannot save to {target}: it is a folder. Name a file in it, such as run.nc.")
    if not target.parent.is_dir():
        raise FileNotFoundError(f"Cannot save to {target}: the folder {target.parent} does not exist. Create it first.")
    tree = posterior.data.copy()
    tree.attrs = {**tree.attrs, "pushforward_format": FORMAT, "version_python": platform.python_version()}
    packed = {
        name: xr.Variable((f"{name}_bytes",), np.frombuffer(content, np.uint8))
        for name, content in _pack(posterior).items()
    }
    tree[_GROUP] = xr.DataTree(xr.Dataset(packed))
    scratch = target.with_name(f".{target.name}.{os.getpid()}.{secrets.token_hex(4)}.tmp")
    try:
        # Made here first: an unwritable folder shows before any work, and the file gets the usual permissions.
        scratch.touch(exist_ok=False)
        tree.to_netcdf(scratch, engine="h5netcdf")
        digest = _digest(scratch, scratch.stat().st_size)
        with scratch.open("ab") as handle:
            handle.write(_SEAL + digest)
            handle.flush()
            os.fsync(handle.fileno())
        os.replace(scratch, target)
        _sync_folder(target.parent)
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
    _check_seal(source)
    with xr.open_datatree(source, engine="h5netcdf") as opened:
        tree = opened.load().map_over_datasets(_without_encoding)
    found = int(tree.attrs["pushforward_format"])
    if found > FORMAT:
        raise ValueError(
            f"{source} has format {found}, and this version of pushforward reads up to {FORMAT}. Upgrade pushforward."
        )
    python = str(tree.attrs["version_python"])
    parts = {
        str(name): StoredPart(str(name), np.asarray(variable.values, np.uint8).tobytes(), python)
        for name, variable in group(tree, _GROUP).data_vars.items()
    }
    del tree[_GROUP]
    del tree.attrs["pushforward_format"]
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


def _check_seal(source: Path) -> None:
    """Refuse files that are not, or no longer, what `save` wrote.

    Raises:
        ValueError: saying whether the file is damaged, changed, or of another program.
    """
    length = source.stat().st_size - len(_SEAL) - hashlib.sha256().digest_size
    if length > 0:
        with source.open("rb") as handle:
            handle.seek(length)
            seal = handle.read()
        if seal.startswith(_SEAL):
            if seal.removeprefix(_SEAL) == _digest(source, length):
                return
            raise ValueError(
                f"{source} is damaged: its content does not match the checksum at its end. Restore a copy or run again."
            )
    import h5py

    try:
        with h5py.File(source, "r") as file:
            ours = "pushforward_format" in file.attrs
            # ArviZ 0.x wrote its attributes on the groups, later versions on the root too.
            holders = [file, *(member for member in file.values() if isinstance(member, h5py.Group))]
            libraries = [
                str(holder.attrs["inference_library"]) for holder in holders if "inference_library" in holder.attrs
            ]
    except Exception as error:
        # A damaged HDF5 file can raise anything, deep inside the library.
        raise ValueError(
            f"{source} is not a netCDF-4 (HDF5) file, or it is damaged or cut off ({error}). Expected a file written "
            "by Posterior.save, which is always complete unless it was changed later: restore a copy, or run again."
        ) from error
    if ours:
        raise ValueError(
            f"{source} was written by Posterior.save and then damaged or changed by another program. Restore a copy, "
            "or read what is left with xarray.open_datatree."
        )
    raise ValueError(
        f"{source} is a netCDF file of {libraries[0] if libraries else 'another program'}, not one written by "
        "Posterior.save. Open it with xarray.open_datatree and use arviz_stats on it; pf.load reads results of "
        "pushforward only."
    )


def _digest(path: Path, length: int) -> bytes:
    """SHA-256 of the first ``length`` bytes."""
    digest = hashlib.sha256()
    with path.open("rb") as handle:
        while length > 0:
            block = handle.read(min(_BLOCK, length))
            if not block:
                break
            digest.update(block)
            length -= len(block)
    return digest.digest()


def _without_encoding(dataset: xr.Dataset) -> xr.Dataset:
    return dataset.drop_encoding()


def _sync_folder(path: Path) -> None:
    """Make a rename durable, where the file system lets a folder be synced."""
    with contextlib.suppress(OSError):
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
