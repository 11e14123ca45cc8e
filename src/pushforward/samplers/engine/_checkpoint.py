"""Checkpoints: one atomic file per run, with a checksum per part."""

from __future__ import annotations

import io
import json
import os
import tempfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import cloudpickle
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import PyTree

_FORMAT = "pushforward-checkpoint"
_VERSION = 1


class Checkpoint(NamedTuple):
    """What a checkpoint file holds."""

    header: dict[str, Any]
    job: Any
    """The pickled description of the run (model, kernel, settings)."""
    step: int
    state: Any
    records: PyTree


def checkpoint_writer(
    path: str | os.PathLike[str], job: Any, header: dict[str, Any], state: Any
) -> Callable[[int, Any, Callable[[], PyTree]], None]:
    """A function that saves (step, state, records) to ``path`` atomically.

    The job is pickled once, at once, together with the structure of the state (whose static parts then stay the job's
    own when both are read back), so that a model that cannot be pickled is refused before the run starts.

    Raises:
        ValueError: if the job cannot be pickled.
        OSError: if the folder cannot be written to.
    """
    path = Path(path)
    check_writable(path)
    try:
        payload = cloudpickle.dumps((job, _skeleton(state)))
    except Exception as error:  # pickling runs user code: any exception type is possible
        raise ValueError(
            f"The run cannot be checkpointed, because its model cannot be pickled: {error} Expected a model whose "
            "closure holds arrays and functions only (no open files, locks or generators). Run without checkpoint=, or "
            "move the object into the model."
        ) from error

    def save(step: int, state: Any, records: Callable[[], PyTree]) -> None:
        parts = {"job.pkl": payload, **_pack("state", state), **_pack("records", records())}
        x64 = bool(jax.config.read("jax_enable_x64"))
        full = {"format": _FORMAT, "version": _VERSION, "x64": x64, "step": step, **header}
        _write_atomically(path, {"header.json": json.dumps(full).encode(), **parts})

    return save


def read_checkpoint(path: str | os.PathLike[str]) -> Checkpoint:
    """Read a checkpoint. Unpickles code: open only files you trust.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if the file is not a checkpoint, is damaged, or was written under another floating-point width.
    """
    path = Path(path)
    if not path.exists():
        raise FileNotFoundError(
            f"There is no checkpoint at '{path}'. Expected the path given as checkpoint= to pf.fit, pf.sample or "
            "interpolants.train."
        )
    foreign = (
        f"'{path}' is not a pushforward checkpoint. Expected a file written by checkpoint= of pf.fit, pf.sample "
        "or interpolants.train; a saved posterior is opened with pf.load."
    )
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
            if "header.json" not in names:
                raise ValueError(foreign)
            damaged = archive.testzip()
            if damaged is not None:
                raise ValueError(_damaged(path, damaged))
            parts = {name: archive.read(name) for name in names}
    except (zipfile.BadZipFile, IsADirectoryError, EOFError, OSError) as error:
        with_magic = path.is_file() and path.read_bytes()[:2] == b"PK"
        raise ValueError(_damaged(path, str(error)) if with_magic else foreign) from error
    header = json.loads(parts["header.json"])
    if header.get("format") != _FORMAT:
        raise ValueError(foreign)
    if header["version"] > _VERSION:
        raise ValueError(
            f"'{path}' has checkpoint version {header['version']}; this release reads up to {_VERSION}. Upgrade "
            "pushforward."
        )
    if header["x64"] != bool(jax.config.read("jax_enable_x64")):
        width, call = ("64", "pf.enable_x64() first") if header["x64"] else ("32", "a process without x64")
        raise ValueError(
            f"'{path}' was written with {width}-bit floats, this process uses the other width. Resume it in {call}."
        )
    job, skeleton = cloudpickle.loads(parts["job.pkl"])
    # Records are plain arrays by name; only the state holds modules.
    state = jax.tree.map(jnp.asarray, jax.tree.unflatten(jax.tree.structure(skeleton), _leaves("state", parts)))
    structure = jax.tree.structure(cloudpickle.loads(parts["records.tree"]))
    return Checkpoint(header, job, header["step"], state, jax.tree.unflatten(structure, _leaves("records", parts)))


def check_writable(path: Path) -> None:
    """Refuse a path that cannot be written to, before any work is done.

    Raises:
        OSError: naming the path and the reason.
    """
    folder = path.parent
    if path.is_dir() or not folder.is_dir() or not os.access(folder, os.W_OK):
        reason = (
            "it is a folder"
            if path.is_dir()
            else f"the folder '{folder}' does not exist"
            if not folder.is_dir()
            else "no permission"
        )
        raise OSError(f"Cannot write to '{path}': {reason}. Expected a file name in an existing, writable folder.")


def _damaged(path: Path, what: str) -> str:
    return (
        f"The checkpoint '{path}' is damaged ({what}). Checkpoints are replaced atomically, so this points to the disk "
        "or to a copy that was cut short: restore it from a backup or start the run again."
    )


def _skeleton(tree: PyTree) -> PyTree:
    """A tree of the same structure with integers for leaves: modules cannot be pickled inside a treedef."""
    leaves, treedef = jax.tree.flatten(tree)
    return jax.tree.unflatten(treedef, list(range(len(leaves))))


def _pack(name: str, tree: PyTree) -> dict[str, bytes]:
    buffer = io.BytesIO()
    np.savez(buffer, **{str(i): np.asarray(x) for i, x in enumerate(jax.tree.leaves(tree))})  # type: ignore[arg-type]
    packed = {f"{name}.npz": buffer.getvalue()}
    return packed if name == "state" else {**packed, f"{name}.tree": cloudpickle.dumps(_skeleton(tree))}


def _leaves(name: str, parts: dict[str, bytes]) -> list[Any]:
    with np.load(io.BytesIO(parts[f"{name}.npz"])) as arrays:
        return [arrays[str(i)] for i in range(len(arrays.files))]


def _write_atomically(path: Path, parts: dict[str, bytes]) -> None:
    handle, temporary = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    try:
        with os.fdopen(handle, "wb") as file:
            with zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive:
                for name, content in parts.items():
                    archive.writestr(name, content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
