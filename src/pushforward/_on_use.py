"""Modules that are loaded when they are first asked for: an import pays for what is used."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable
from types import ModuleType


def on_use(package: str, modules: dict[str, str]) -> Callable[[str], ModuleType]:
    """A module's ``__getattr__`` that imports ``modules``, places relative to the package, by their names."""

    def load(name: str) -> ModuleType:
        if name not in modules:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        found = importlib.import_module(modules[name], package)
        setattr(sys.modules[package], name, found)
        return found

    return load


def names_with(package: str, modules: dict[str, str]) -> Callable[[], list[str]]:
    """A module's ``__dir__`` that names them too."""
    return lambda: sorted({*vars(sys.modules[package]), *modules})
