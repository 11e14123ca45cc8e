"""Models and data from files, for the command line: load, recognise the language, build the target."""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import json
import os
import sys
import tempfile
import types
import zipfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import cloudpickle
import numpy as np

from ..models import Target

LANGUAGES = ("numpyro", "pyro")


def load_object(spec: str) -> Any:
    """Import ``file.py:name`` (or ``package.module:name``; ``:model`` when no name is given).

    The file's folder is searched for its imports, as Python does for a script. What the file and its neighbours
    define is pickled by value, so that a checkpoint or a result can be opened where the file is not importable.

    Raises:
        ValueError: if the file or the name does not exist.
    """
    location, _, name = spec.rpartition(":") if ":" in spec else (spec, ":", "model")
    before = set(sys.modules)
    if location.endswith(".py") or os.sep in location:
        path = Path(location).resolve()
        if not path.is_file():
            raise ValueError(f"There is no model file {location}. Expected FILE.py:NAME, for example model.py:model.")
        module = _module_of_file(path)
        for other in _neighbours(path.parent, set(sys.modules) - before):
            cloudpickle.register_pickle_by_value(other)
    else:
        try:
            module = importlib.import_module(location)
        except ModuleNotFoundError as error:
            raise ValueError(
                f"Cannot import {location!r} ({error}). Expected FILE.py:NAME or PACKAGE.MODULE:NAME, got {spec!r}."
            ) from error
    if not hasattr(module, name):
        own = [
            n for n, value in vars(module).items() if inspect.isfunction(value) and value.__module__ == module.__name__
        ]
        raise ValueError(f"{location} defines no {name!r}. Its functions are: {', '.join(own) or 'none'}.")
    return getattr(module, name)


def _module_of_file(path: Path) -> types.ModuleType:
    # A name of its own: a user's `model.py` or `statistics.py` must not hide an installed module.
    name = f"_pushforward_model_{path.stem}"
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise ValueError(f"{path} is not a Python file.")
    if str(path.parent) not in sys.path:
        sys.path.insert(0, str(path.parent))
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module


def _neighbours(folder: Path, names: set[str]) -> Iterator[types.ModuleType]:
    for name in names:
        module = sys.modules.get(name)
        file = getattr(module, "__file__", None)
        if module is None or file is None:
            continue
        path = Path(file).resolve()
        if path.is_relative_to(folder) and not path.is_relative_to(sys.prefix) and "site-packages" not in path.parts:
            yield module


def recognise(model: Any) -> str:
    """Tell the language of a program from what it is made of: ``numpyro`` or ``pyro``.

    Looks at the type of the object (a `PyroModule`, a handler) and at the names that its code and the functions it
    calls in the same file refer to; if they say nothing, at what the file imports.

    Raises:
        ValueError: if it uses neither or both.
    """
    used = set(_languages(model, set()))
    if not used:
        names = vars(sys.modules.get(getattr(model, "__module__", ""), types.ModuleType("none"))).values()
        used = {language for value in names if (language := _language(value))}
    if len(used) == 1:
        return used.pop()
    found = "both NumPyro and Pyro" if used else "neither NumPyro nor Pyro"
    raise ValueError(
        f"Cannot tell the language of {getattr(model, '__name__', model)!r}: it uses {found}. Say --front numpyro or "
        "--front pyro."
    )


def _language(value: Any) -> str | None:
    name = value.__name__ if inspect.ismodule(value) else getattr(value, "__module__", None)
    root = (name or "").split(".")[0]
    return root if root in LANGUAGES else None


def _languages(value: Any, seen: set[int]) -> Iterator[str]:
    if id(value) in seen:
        return
    seen.add(id(value))
    if language := _language(value):
        yield language
        return
    for kind in type(value).__mro__ if not inspect.isclass(value) else value.__mro__:
        if kind.__module__.split(".")[0] in LANGUAGES:
            yield kind.__module__.split(".")[0]
    for inner in ("__wrapped__", "__func__", "func", "fn", "forward", "model"):
        if callable(nested := getattr(value, inner, None)):
            yield from _languages(nested, seen)
    code = getattr(value, "__code__", None)
    if code is None:
        if not inspect.isclass(value) and inspect.isfunction(call := vars(type(value)).get("__call__")):
            yield from _languages(call, seen)
        return
    for name in _names(code):
        if name in value.__globals__:
            referred = value.__globals__[name]
            if _language(referred) or getattr(referred, "__module__", None) == value.__module__:
                yield from _languages(referred, seen)
    for cell in value.__closure__ or ():
        yield from _languages(cell.cell_contents, seen)


def _names(code: types.CodeType) -> Iterator[str]:
    yield from code.co_names
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            yield from _names(constant)


def read_mapping(path: Path, what: str) -> dict[str, Any]:
    """Read keyword arguments from a JSON object or an ``.npz`` archive; lists of numbers become arrays.

    Raises:
        ValueError: if the file is missing, damaged or of another kind, or if a list is ragged; the key is named.
    """
    if not path.is_file():
        raise ValueError(
            f"There is no {what} file {path}. Expected a JSON object or an .npz archive with one entry per argument."
        )
    if path.suffix == ".npz":
        try:
            with np.load(path, allow_pickle=False) as archive:
                return {name: _plain(archive[name]) for name in archive.files}
        except (ValueError, OSError, zipfile.BadZipFile) as error:
            raise ValueError(
                f"The {what} file {path} is not a readable .npz archive of plain arrays: {error}."
            ) from error
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ValueError(
            f"The {what} file {path} is not JSON: {error}. Expected a JSON object or an .npz archive."
        ) from error
    if not isinstance(content, dict):
        raise ValueError(
            f"The {what} file {path} must hold a JSON object {{name: value}}, got a {type(content).__name__}."
        )
    return {name: _from_json(value, name, path) for name, value in content.items()}


def _plain(array: np.ndarray) -> Any:
    return array.item() if array.ndim == 0 else array


def _from_json(value: Any, name: str, path: Path) -> Any:
    if isinstance(value, dict):
        return {key: _from_json(entry, f"{name}.{key}", path) for key, entry in value.items()}
    if not isinstance(value, list):
        return value
    try:
        array = np.asarray(value)
    except ValueError as error:
        raise ValueError(f"{path}: the list {name!r} is ragged; expected a rectangular array ({error}).") from error
    if array.dtype == object:
        raise ValueError(
            f"{path}: the list {name!r} holds null or mixed entries. Expected numbers; write missing values as NaN."
        )
    return value if array.dtype.kind in "US" else array


def build_target(model: Any, data: Mapping[str, Any], *, front: str, coords: Mapping[str, Any] | None) -> Target:
    """Make the target of a model and its keyword arguments.

    Args:
        model: a program, or a `Target` that the file has built itself.
        data: keyword arguments.
        front: ``numpyro``, ``pyro`` or ``auto``.
        coords: labels per dimension.

    Raises:
        ValueError: if the language cannot be told, or the front end refuses the program or the data.
    """
    if isinstance(model, Target):
        if data or coords:
            raise ValueError("The file gives a finished target, which takes no --data and no --coords. Leave them out.")
        return model
    if not callable(model):
        raise ValueError(f"Expected a program (a callable) or a target, got {type(model).__name__}.")
    language = recognise(model) if front == "auto" else front
    build, arguments = _front_end(language, data)
    return build(model, coords=coords, **arguments)


def _front_end(language: str, data: Mapping[str, Any]) -> tuple[Callable[..., Target], dict[str, Any]]:
    if language == "numpyro":
        from ..models import from_numpyro

        return from_numpyro, dict(data)
    try:
        import torch
    except ImportError as error:
        raise ValueError(
            "The model is a Pyro program, which needs Pyro and torch: pip install 'pushforward[pyro]'."
        ) from error
    from ..models.pyro import from_pyro

    return from_pyro, {name: _as_torch(value, torch) for name, value in data.items()}


def _as_torch(value: Any, torch: Any) -> Any:
    """Arrays as tensors; floats in torch's default precision, as torch.tensor does with lists."""
    if isinstance(value, dict):
        return {name: _as_torch(entry, torch) for name, entry in value.items()}
    if not isinstance(value, np.ndarray):
        return value
    tensor = torch.from_numpy(np.ascontiguousarray(value))
    return tensor.to(torch.get_default_dtype()) if tensor.is_floating_point() else tensor


def check_writable(path: Path, option: str) -> None:
    """Find out before a long run whether its result can be written.

    Raises:
        ValueError: naming the option, the path and the obstacle.
    """
    if path.is_dir():
        raise ValueError(f"{option} {path} is a folder; expected a file name.")
    if not path.parent.is_dir():
        raise ValueError(f"{option} {path} cannot be written: there is no folder {path.parent}. Create it first.")
    try:
        with tempfile.NamedTemporaryFile(dir=path.parent, prefix=".pushforward-"):
            pass
        if path.exists() and not os.access(path, os.W_OK):
            raise PermissionError(f"{path} is read-only")
    except OSError as error:
        raise ValueError(f"{option} {path} cannot be written: {error}. Choose another place.") from error
