"""Models and data from files: loading, recognising the language, reading arguments."""

from __future__ import annotations

import functools
import os
import pickle
import subprocess
import sys

import cloudpickle
import numpy as np
import pytest

from pushforward.infer._script import build_target, check_writable, load_object, read_mapping, recognise

NUMPYRO = """
import numpyro
import numpyro.distributions as dist

def model(y, sigma=1.0):
    mu = numpyro.sample("mu", dist.Normal(0.0, 20.0))
    with numpyro.plate("rows", len(y)):
        numpyro.sample("y", dist.Normal(mu, sigma), obs=y)

def wrapped(y):
    return model(y)
"""
PYRO = NUMPYRO.replace("numpyro", "pyro")


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A folder with one model file of each language; import state is restored afterwards."""
    (tmp_path / "jaxy.py").write_text(NUMPYRO)
    (tmp_path / "torchy.py").write_text(PYRO)
    monkeypatch.setattr(sys, "path", list(sys.path))
    before = set(sys.modules)
    yield tmp_path
    for name in set(sys.modules) - before:
        if name.startswith("_pushforward_model_") or name in ("sibling",):
            del sys.modules[name]


@pytest.mark.parametrize("name", ["model", "wrapped"])
def test_recognises_the_language_of_functions(folder, name):
    """A function is told by what its code refers to, also through another function of the file."""
    assert recognise(load_object(f"{folder}/jaxy.py:{name}")) == "numpyro"
    assert recognise(functools.partial(load_object(f"{folder}/torchy.py:{name}"), y=[1.0])) == "pyro"


def test_recognises_handlers_modules_and_both(folder):
    """Objects are told by their type; a file that imports both is no obstacle, a function that uses both is."""
    (folder / "mixed.py").write_text(
        "import numpyro, pyro, numpyro.handlers as handlers\nfrom pyro.nn import PyroModule, PyroSample\n"
        "def jaxy():\n    return numpyro.sample('x', numpyro.distributions.Normal())\n"
        "def torchy():\n    return pyro.sample('x', pyro.distributions.Normal(0., 1.))\n"
        "def both():\n    jaxy()\n    torchy()\n"
        "def neither():\n    return 1\n"
        "conditioned = handlers.condition(lambda: 1, {})\n"
        "class Net(PyroModule):\n    def forward(self):\n        return 1\n"
        "net = Net()\n"
    )
    found = {
        name: recognise(load_object(f"{folder}/mixed.py:{name}")) for name in ("jaxy", "torchy", "conditioned", "net")
    }
    assert found == {"jaxy": "numpyro", "torchy": "pyro", "conditioned": "numpyro", "net": "pyro"}
    for name in ("both", "neither"):
        with pytest.raises(ValueError, match="--front"):
            recognise(load_object(f"{folder}/mixed.py:{name}"))


def test_unhelpful_function_falls_back_on_the_imports_of_its_file(folder):
    """A function that gets its primitives from elsewhere is told by what its file imports."""
    (folder / "bare.py").write_text("import numpyro\ndef model(sample):\n    return sample('x')\n")
    assert recognise(load_object(f"{folder}/bare.py:model")) == "numpyro"


def test_missing_file_and_missing_name(folder):
    """The message says what there is."""
    with pytest.raises(ValueError, match="no model file"):
        load_object(f"{folder}/absent.py:model")
    with pytest.raises(ValueError, match="model, wrapped"):
        load_object(f"{folder}/jaxy.py:modle")
    with pytest.raises(ValueError, match="FILE.py:NAME"):
        load_object("no_such_package_of_mine:model")


def test_model_travels_to_a_process_without_its_file(folder):
    """The file and its neighbours are pickled by value: a checkpoint opens where neither can be imported."""
    (folder / "sibling.py").write_text("def double(x):\n    return 2 * x\n")
    (folder / "user.py").write_text("from sibling import double\ndef model(x):\n    return double(x)\n")
    blob = cloudpickle.dumps(load_object(f"{folder}/user.py:model"))
    for name in ("user.py", "sibling.py"):
        (folder / name).unlink()
    code = f"import pickle; print(pickle.loads({blob!r})(21))"
    environment = {**os.environ, "PYTHONDONTWRITEBYTECODE": "1"}
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, check=True)
    assert result.stdout.strip() == "42"
    assert pickle.loads(blob)(1) == 2


def test_file_may_have_the_name_of_an_installed_module(folder):
    """`statistics.py` as a model file does not hide the standard library's."""
    import statistics

    (folder / "statistics.py").write_text("def model():\n    return 1\n")
    load_object(f"{folder}/statistics.py:model")
    assert sys.modules["statistics"] is statistics


def test_json_lists_become_arrays_and_the_rest_stays(tmp_path):
    """Numbers stay numbers (they are often sizes), lists become arrays, objects are followed."""
    path = tmp_path / "data.json"
    path.write_text(
        '{"n": 3, "y": [1.5, 2], "k": [[1, 2], [3, 4]], "names": ["a", "b"], "sub": {"x": [1]}, "none": null}'
    )
    data = read_mapping(path, "data")
    assert data["n"] == 3
    assert isinstance(data["n"], int)
    assert data["y"].dtype == np.float64
    assert data["k"].dtype.kind == "i"
    assert data["k"].shape == (2, 2)
    assert data["names"] == ["a", "b"]
    assert data["sub"]["x"].shape == (1,)
    assert data["none"] is None


def test_npz_archive(tmp_path):
    """Arrays keep their dtype; zero-dimensional ones are numbers again."""
    np.savez(tmp_path / "data.npz", y=np.ones(3, np.float32), n=np.int64(4))
    data = read_mapping(tmp_path / "data.npz", "data")
    assert data["y"].dtype == np.float32
    assert data["n"] == 4
    assert isinstance(data["n"], int)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("data.json", "{", "is not JSON"),
        ("data.json", "[1]", "JSON object"),
        ("data.json", '{"y": [[1], [1, 2]]}', "'y' is ragged"),
        ("data.json", '{"y": [1, null]}', "'y' holds null"),
        ("data.npz", "no zip", "not a readable .npz"),
        ("absent.json", None, "no data file"),
    ],
)
def test_unreadable_arguments(tmp_path, name, content, message):
    """Each way in which a data file can be wrong names the file and the key."""
    path = tmp_path / name
    if content is not None:
        path.write_text(content)
    with pytest.raises(ValueError, match=message) as caught:
        read_mapping(path, "data")
    assert name in str(caught.value)


def test_pickles_in_archives_are_refused(tmp_path):
    """An .npz archive is data, never code."""
    np.savez(tmp_path / "data.npz", y=np.array([object()]), allow_pickle=True)
    with pytest.raises(ValueError, match="plain arrays"):
        read_mapping(tmp_path / "data.npz", "data")


def test_build_target(folder):
    """The target has the data; a finished target is taken as it is, but without data."""
    data = {"y": np.arange(3.0)}
    target = build_target(load_object(f"{folder}/jaxy.py:model"), data, front="auto", coords=None)
    assert target.observed()["y"].shape == (3,)
    assert build_target(target, {}, front="auto", coords=None) is target
    with pytest.raises(ValueError, match="takes no --data"):
        build_target(target, data, front="auto", coords=None)
    with pytest.raises(ValueError, match="callable"):
        build_target(3, {}, front="auto", coords=None)


def test_check_writable(tmp_path):
    """A path that cannot be written is found out; one that can is left untouched."""
    check_writable(tmp_path / "run.nc", "--out")
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(ValueError, match="is a folder"):
        check_writable(tmp_path, "--out")
    with pytest.raises(ValueError, match="Create it first"):
        check_writable(tmp_path / "absent" / "run.nc", "--out")
    with pytest.raises(ValueError, match="cannot be written"):
        check_writable(type(tmp_path)("/proc/run.nc"), "--out")
