"""What pyproject.toml promises: versions, extras, the command and the sources that a build takes."""

from __future__ import annotations

import importlib.metadata
import re
import tomllib
from pathlib import Path

import pushforward as pf

ROOT = Path(__file__).resolve().parents[1]
CONFIG = tomllib.loads((ROOT / "pyproject.toml").read_text())
PROJECT = CONFIG["project"]


def requirement_names(requirements: list[str]) -> set[str]:
    """Return the distribution names of requirement strings."""
    return {re.split(r"[\[<>=!~; ]", requirement, maxsplit=1)[0].lower() for requirement in requirements}


def test_version_is_said_once():
    """The installed metadata, the module, the project file and the citation agree."""
    citation = re.search(r"^version: (.+)$", (ROOT / "CITATION.cff").read_text(), re.MULTILINE)
    assert citation is not None
    assert {pf.__version__, importlib.metadata.version("pushforward"), citation.group(1)} == {PROJECT["version"]}


def test_core_requirements_have_lower_bounds_and_nothing_heavy():
    """A plain install brings JAX and NumPyro, but neither torch nor a plotting library."""
    assert [line for line in PROJECT["dependencies"] if ">=" not in line] == []
    heavy = {"torch", "pyro-ppl", "matplotlib", "arviz-plots", "flowjax"}
    assert requirement_names(PROJECT["dependencies"]) & heavy == set()


def test_torch_is_pinned_for_development_only():
    """Development pins the tested build; users of the pyro extra get a range."""
    extras = PROJECT["optional-dependencies"]
    pins = {name: [line for line in lines if line.startswith("torch")] for name, lines in extras.items()}
    assert pins.pop("dev") == ["torch==2.13.0"]
    assert re.fullmatch(r"torch>=[\d.]+,<\d+", *pins.pop("pyro"))
    assert not any(pins.values())


def test_extras_are_all_there():
    """The extras that the documentation names exist."""
    names = {"pyro", "plots", "flows", "cuda12", "cuda13", "bench", "docs", "dev"}
    assert names <= set(PROJECT["optional-dependencies"])


def test_command_is_installed():
    """`pushforward` on the command line is the function that the project file names."""
    (command,) = (
        entry for entry in importlib.metadata.entry_points(group="console_scripts") if entry.name == "pushforward"
    )
    assert command.value == PROJECT["scripts"]["pushforward"]
    assert callable(command.load())


def test_package_is_marked_as_typed():
    """py.typed lies where type checkers look."""
    assert (Path(pf.__file__).parent / "py.typed").is_file()


def test_public_names_exist():
    """Names that other projects call; they may be added to, never removed."""
    names = """
        from_numpyro from_pyro from_logdensity Target Posterior load enable_x64 fit sample resume compare diagnose
        MeanField FullRank LowRank Laplace Delta program_guide ELBO Reparam Path NUTS HMC
    """
    assert [name for name in names.split() if not hasattr(pf, name)] == []
