"""The shape of the source tree: import direction, where third-party PPLs may appear, file lengths, configured paths."""

from __future__ import annotations

import ast
import re
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "src" / "pushforward"
LAYERS = ("models", "estimators", "samplers", "infer")
MAX_LINES = 400

# Third-party package -> files that may import it, and those that may when they are imported themselves (the others
# must import it in a function). Relative to the package; a path ending in "/" stands for everything below it.
# models/pyro/_*.py hold torch code only, and are imported by `from_pyro` when it is called.
RESTRICTED = {
    "numpyro": (
        ("models/", "estimators/sites/", "samplers/_hmc.py"),
        ("models/", "estimators/sites/", "samplers/_hmc.py"),
    ),
    "pyro": (
        ("models/pyro/", "models/zoo/", "infer/_cli.py", "infer/_script.py"),
        ("models/pyro/_", "models/pyro/lowerings/"),
    ),
    "torch": (
        ("models/pyro/", "models/zoo/", "infer/_cli.py", "infer/_script.py"),
        ("models/pyro/_", "models/pyro/lowerings/"),
    ),
    "flax": (("models/",), ()),
    "arviz_base": (("infer/",), ()),
    "arviz_stats": (("infer/",), ()),
    "arviz_plots": (("infer/",), ()),
    "matplotlib": (("infer/",), ()),
    "typer": (("infer/_cli.py",), ("infer/_cli.py",)),
}


def imports(path: Path, source: str) -> Iterator[tuple[str, int, bool]]:
    """Yield (absolute module name, line, runs when the file is imported) for each import statement."""
    tree = ast.parse(source)
    lazy = set()
    for node in ast.walk(tree):
        type_only = isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda) or type_only:
            lazy |= {id(child) for child in ast.walk(node)}
    parts = ("pushforward", *path.relative_to(PACKAGE).parent.parts)
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = parts[: len(parts) - node.level + 1] if node.level else ()
            module = ".".join((*base, *([node.module] if node.module else [])))
            names = [f"{module}.{alias.name}" for alias in node.names]
        else:
            continue
        for name in names:
            yield name, node.lineno, id(node) not in lazy


def layer_violations(path: Path, source: str) -> list[str]:
    """Imports of `path` that point to the right in models <- estimators <- samplers <- infer, or to the facade."""
    where = path.relative_to(PACKAGE)
    if len(where.parts) == 1:
        return []  # the facade may import every layer
    allowed = LAYERS[: LAYERS.index(where.parts[0]) + 1]
    found = []
    for name, line, _ in imports(path, source):
        root, *rest = name.split(".")
        if root == "pushforward" and (not rest or rest[0] not in allowed):
            found.append(f"{where}:{line} imports {name}; {where.parts[0]} may import only {', '.join(allowed)}")
        if root in LAYERS:
            found.append(f"{where}:{line} imports {name}: write pushforward.{name}")
    return found


def restricted_violations(path: Path, source: str) -> list[str]:
    """Imports of a third-party package from a file, or at a time, where it must not be imported."""
    where = path.relative_to(PACKAGE).as_posix()
    found = []
    for name, line, eager in imports(path, source):
        places, eager_places = RESTRICTED.get(name.split(".")[0], ((where,), (where,)))
        if not matches(where, places):
            found.append(f"{where}:{line} imports {name}, which belongs to {', '.join(places)}")
        elif eager and not matches(where, eager_places):
            found.append(f"{where}:{line} imports {name} when it is imported: move it into the function that needs it")
    return found


def matches(where: str, places: tuple[str, ...]) -> bool:
    """Whether a file is one of the places, or below one."""
    private = tuple(place for place in places if place.endswith("_") and not where.endswith("__init__.py"))
    return where in places or where.startswith((*private, *(place for place in places if place.endswith("/"))))


def modules() -> list[Path]:
    """Return the Python files of the package."""
    return sorted(PACKAGE.rglob("*.py"))


def test_imports_point_left():
    """Each layer imports only from itself and from those to its left."""
    assert modules()
    assert [line for path in modules() for line in layer_violations(path, path.read_text())] == []


def test_third_party_imports_stay_in_their_place():
    """torch, pyro, arviz and matplotlib are imported where they are used, and not by importing pushforward."""
    assert [line for path in modules() for line in restricted_violations(path, path.read_text())] == []


@pytest.mark.parametrize(
    ("where", "source"),
    [
        ("models/_a.py", "from ..infer import fit"),
        ("models/guides/_a.py", "from ...samplers._hmc import NUTS"),
        ("estimators/_a.py", "def f():\n    import pushforward.samplers"),
        ("samplers/engine/_a.py", "from pushforward import fit"),
        ("samplers/_a.py", "from models import Target"),
    ],
)
def test_layer_check_sees_violations(where, source):
    """The check itself: each way to write an import to the right is caught."""
    assert layer_violations(PACKAGE / where, source)


@pytest.mark.parametrize(
    ("where", "source"),
    [
        ("models/pyro/__init__.py", "import torch"),
        ("models/zoo/_a.py", "import pyro"),
        ("infer/_a.py", "from arviz_stats import loo"),
        ("samplers/_a.py", "import numpyro"),
        ("estimators/_a.py", "def f():\n    import torch"),
    ],
)
def test_place_check_sees_violations(where, source):
    """The check itself: an eager or misplaced third-party import is caught."""
    assert restricted_violations(PACKAGE / where, source)


def test_allowed_imports_pass():
    """The check itself: imports to the left, lazy ones and type-only ones are left alone."""
    source = (
        "from typing import TYPE_CHECKING\nfrom ..models import Target\nfrom . import _b\n"
        "if TYPE_CHECKING:\n    import arviz_base\ndef f():\n    import arviz_stats\n"
    )
    assert layer_violations(PACKAGE / "infer/_a.py", source) == []
    assert restricted_violations(PACKAGE / "infer/_a.py", source) == []


def test_no_file_is_too_long():
    """One concern per file: above the limit a file is split."""
    files = [*modules(), *sorted((ROOT / "tests").rglob("*.py"))]
    lengths = {str(path.relative_to(ROOT)): len(path.read_text().splitlines()) for path in files}
    assert {name: lines for name, lines in lengths.items() if lines > MAX_LINES} == {}


def test_modules_are_private():
    """What is public is what a folder's __init__ re-exports, so every other file starts with an underscore."""
    assert [str(path.relative_to(PACKAGE)) for path in modules() if not path.name.startswith("_")] == []


def test_facade_holds_no_logic():
    """The facade and the four packages' __init__ files only import, for type checkers too, and set dunder names."""
    for path in [PACKAGE / "__init__.py", *(PACKAGE / layer / "__init__.py" for layer in LAYERS)]:
        for node in ast.parse(path.read_text()).body:
            text = ast.unparse(node)
            typed = isinstance(node, ast.If) and ast.unparse(node.test) == "_TYPE_CHECKING" and not node.orelse
            imports = node.body if typed else [node]
            simple = all(isinstance(each, ast.Import | ast.ImportFrom) for each in imports)
            simple = simple or re.match(r"(['\"]|__\w+__ = )", text)
            assert simple, f"{path.relative_to(ROOT)}:{node.lineno}: {text}"


def test_configured_paths_exist():
    """A tool that is pointed at a missing folder checks nothing and says so nowhere."""
    config = tomllib.loads((ROOT / "pyproject.toml").read_text())
    tool = config["tool"]
    paths = [
        config["project"]["readme"],
        *config["project"]["license-files"],
        *tool["hatch"]["build"]["targets"]["wheel"]["packages"],
        *tool["hatch"]["build"]["targets"]["sdist"]["only-include"],
        *tool["pytest"]["ini_options"]["testpaths"],
        *tool["ruff"]["src"],
        *tool["mypy"]["files"],
        tool["mypy"]["mypy_path"],
    ]
    paths += re.findall(r"\b(?:examples|scripts)/\w+\.py", (ROOT / "Makefile").read_text())
    paths += [path for path in tool["ruff"]["lint"]["per-file-ignores"] if "*" not in path]
    assert [path for path in paths if not (ROOT / path).exists()] == []


def test_root_links_lead_to_the_packages():
    """The folders at the root are the packages under src/pushforward, not copies."""
    for layer in LAYERS:
        assert (ROOT / layer).is_symlink()
        assert (ROOT / layer).resolve() == PACKAGE / layer
