"""The command line: exit codes, messages, and results equal to those of the library."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

import pushforward as pf
from pushforward.infer import _cli, _fit

MODEL = """
import numpyro
import numpyro.distributions as dist

def model(y, sigma=1.0):
    mu = numpyro.sample("mu", dist.Normal(0.0, 20.0))
    with numpyro.plate("rows", len(y)):
        numpyro.sample("y", dist.Normal(mu, sigma), obs=y)

def guide(y, sigma=1.0):
    loc = numpyro.param("loc", 0.0)
    scale = numpyro.param("scale", 0.3, constraint=dist.constraints.positive)
    numpyro.sample("mu", dist.Normal(loc, scale))

def broken(y):
    return y.no_such_attribute
"""
Y = [1.0, 2.0, 3.5, 2.5, 4.0]
PRECISION = len(Y) + 1 / 400
EXACT_MEAN, EXACT_SD = sum(Y) / PRECISION, PRECISION**-0.5
NUTS = ["--method", "nuts", "--num-warmup", "100", "--num-chains", "2", "--seed", "3", "--quiet"]


def call(*arguments: object):
    """Run the command line in this process."""
    return CliRunner().invoke(_cli.app, [str(argument) for argument in arguments])


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A model, its data in both formats, and three results: a fit, chains, and chains that are too short."""
    path = tmp_path_factory.mktemp("cli")
    (path / "model.py").write_text(MODEL)
    (path / "data.json").write_text(json.dumps({"y": Y}))
    np.savez(path / "data.npz", y=np.array(Y))
    model, data = f"{path}/model.py:model", f"{path}/data.json"
    saved_path = list(sys.path)
    fit = call("run", model, "--data", data, "--guide", "full-rank", "--seed", 1, "--out", path / "fit.nc", "--quiet")
    chains = call("run", model, "--args", path / "data.npz", *NUTS, "--num-steps", 300, "--out", path / "nuts.nc")
    short = ["--num-steps", 100, "--out", path / "short.nc", "--checkpoint", path / "short.ckpt"]
    doubtful = call("run", model, "--data", data, *NUTS, *short)
    sys.path[:] = saved_path
    for result in (fit, chains, doubtful):
        assert result.exit_code == 0, result.output
        assert result.stdout == ""
    return path


def means(path: Path) -> np.ndarray:
    """Draws of mu in a result file."""
    return pf.load(path).draws("mu")


def test_fit_is_right_and_quiet(folder):
    """The saved draws have the posterior's mean and sd: bounds of five standard errors of 2,000 independent draws."""
    draws = means(folder / "fit.nc")
    assert abs(draws.mean() - EXACT_MEAN) < 5 * EXACT_SD / np.sqrt(draws.size)
    assert abs(draws.std() / EXACT_SD - 1) < 5 / np.sqrt(2 * draws.size)
    assert pf.load(folder / "fit.nc").verdict.status == "ok"


def test_same_result_as_the_library(folder):
    """The command line adds nothing: the same seed gives the library's bits."""
    import jax

    sys.path.insert(0, str(folder))
    from pushforward.infer._script import load_object

    target = pf.from_numpyro(load_object(f"{folder}/model.py:model"), y=np.array(Y))
    expected = pf.fit(target, pf.FullRank(), key=jax.random.key(1), progress=False)
    sys.path.remove(str(folder))
    np.testing.assert_array_equal(means(folder / "fit.nc"), expected.draws("mu"))


def test_resume_with_more_steps_equals_one_long_run(folder):
    """100 steps, then 200 more from the checkpoint, are the 300 steps of one run."""
    result = call("resume", folder / "short.ckpt", "--num-steps", 300, "--out", folder / "long.nc", "--quiet")
    assert result.exit_code == 0, result.output
    np.testing.assert_array_equal(means(folder / "long.nc"), means(folder / "nuts.nc"))


def test_diagnose_prints_summary_and_verdict(folder):
    """The table and the verdict go to stdout."""
    result = call("diagnose", folder / "fit.nc", "--strict")
    assert result.exit_code == 0
    assert re.search(r"mu\s+2\.[56]", result.stdout)
    assert "verdict: ok" in result.stdout


def test_doubtful_fails_under_strict_only(folder):
    """Too few draws are doubtful; the reason is printed either way."""
    assert call("diagnose", folder / "short.nc").exit_code == 0
    result = call("diagnose", folder / "short.nc", "--strict")
    assert result.exit_code == _cli.DOUBTFUL
    assert "effective sample size" in result.stdout


def test_failed_verdict_is_a_failure(folder):
    """Draws that are not numbers: a non-zero code without --strict."""
    posterior = pf.load(folder / "fit.nc")
    posterior.data["unconstrained_posterior"]["mu"].values[0, :5] = np.nan
    posterior.save(folder / "failed.nc")
    result = call("diagnose", folder / "failed.nc")
    assert result.exit_code == _cli.FAILED
    assert "not finite" in result.stdout


def test_compare_names_fits_by_their_files(folder):
    """One row per file; two files of one name are told apart by their folders."""
    result = call("compare", folder / "fit.nc", folder / "nuts.nc", "--reference", "nuts")
    assert result.exit_code == 0, result.output
    assert "fit" in result.stdout
    assert "from nuts" in result.stdout
    result = call("compare", folder / "fit.nc", folder / "fit.nc")
    assert result.exit_code == _cli.ERROR
    assert "different files" in result.stderr


@pytest.mark.slow
def test_program_guide_from_the_file(folder):
    """A NumPyro program as the guide, by file and name."""
    out = folder / "program.nc"
    model, data = f"{folder}/model.py:model", folder / "data.json"
    result = call("run", model, "--data", data, "--guide", f"{folder}/model.py:guide", "--seed", 2, "--out", out)
    assert result.exit_code == 0, result.output
    assert abs(means(out).mean() - EXACT_MEAN) < 0.15 * EXACT_SD
    assert f"saved {out}" in result.stdout


def test_pyro_model_is_recognised(folder):
    """A Pyro file gives the posterior of its NumPyro twin."""
    (folder / "torchy.py").write_text(MODEL.replace("numpyro", "pyro"))
    out = folder / "pyro.nc"
    model, data = f"{folder}/torchy.py:model", folder / "data.json"
    result = call("run", model, "--data", data, "--guide", "full-rank", "--seed", 1, "--out", out, "--quiet")
    assert result.exit_code == 0, result.output
    assert pf.load(out).data.attrs["model"].startswith("pyro:")
    assert abs(means(out).mean() - EXACT_MEAN) < 0.15 * EXACT_SD


@pytest.fixture
def fit_must_not_run(monkeypatch):
    """Fail if the run begins."""

    def fit(*_, **__):
        pytest.fail("the run began before its arguments were checked")

    monkeypatch.setattr(_fit, "fit", fit)


@pytest.mark.usefixtures("fit_must_not_run")
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["{}/model.py:model", "--data", "{}/data.json", "--out", "{}/absent/run.nc"], "Create it first"),
        (["{}/model.py:model", "--data", "{}/data.json", "--out", "{}"], "is a folder"),
        (
            ["{}/model.py:model", "--data", "{}/data.json", "--out", "{}/x.nc", "--checkpoint", "{}/no/x"],
            "--checkpoint",
        ),
        (["{}/model.py:model", "--out", "{}/x.nc"], "'y'"),
        (["{}/model.py:modle", "--out", "{}/x.nc"], "defines no 'modle'"),
        (["{}/model.py:model", "--data", "{}/absent.json", "--out", "{}/x.nc"], "no data file"),
        (["{}/model.py:model", "--data", "{}/data.json", "--out", "{}/x.nc", "--guide", "ful"], "mean-field"),
        (["{}/model.py:model", "--data", "{}/data.json", "--out", "{}/x.nc", "--num-chains", "2"], "--method nuts"),
        (["{}/model.py:model", "--data", "{}/data.json", "--out", "{}/x.nc", "--coords", "{}/model.py"], "not JSON"),
    ],
)
def test_bad_arguments_are_found_before_the_run(folder, arguments, message):
    """One paragraph on stderr that names the thing; no file is made."""
    result = call("run", *(argument.format(folder) for argument in arguments))
    assert result.exit_code == _cli.ERROR
    # The paragraph is wrapped, so line breaks stand where spaces were.
    assert message in " ".join(result.stderr.split())
    assert result.stderr.startswith("error: ")
    assert "Traceback" not in result.stderr
    assert not (folder / "x.nc").exists()


def test_nuts_refuses_options_of_the_fit(folder):
    """Options that would have no effect are errors."""
    result = call("run", f"{folder}/model.py:model", *NUTS, "--guide", "delta", "--out", folder / "x.nc")
    assert result.exit_code == _cli.ERROR
    assert "--method fit" in result.stderr


def test_failed_run_keeps_the_last_good_result(folder):
    """A run on NaN stops with the site named and leaves the file of the same name as it was."""
    out = folder / "kept.nc"
    before = (folder / "fit.nc").read_bytes()
    out.write_bytes(before)
    (folder / "nan.json").write_text('{"y": [1.0, NaN, 2.0]}')
    result = call("run", f"{folder}/model.py:model", "--data", folder / "nan.json", "--seed", 1, "--out", out)
    assert result.exit_code == _cli.ERROR
    assert "'y'" in result.stderr
    assert out.read_bytes() == before


def test_errors_of_the_model_are_placed_and_debug_shows_the_traceback(folder):
    """An error in the user's code names the line; --debug shows everything."""
    arguments = ["run", f"{folder}/model.py:broken", "--front", "numpyro", "--data", folder / "data.json"]
    result = call(*arguments, "--out", folder / "x.nc")
    assert result.exit_code == _cli.ERROR
    assert "no_such_attribute" in result.stderr
    assert "Traceback" not in result.stderr
    result = call(*arguments, "--out", folder / "x.nc", "--debug")
    assert result.exit_code == _cli.ERROR
    assert "Traceback" in result.stderr


def test_seed_is_printed_when_left_out(folder, monkeypatch):
    """The printed seed is the one that the run uses."""
    keys = []

    def fit(*_, key, **__):
        keys.append(key)
        raise KeyboardInterrupt

    monkeypatch.setattr(_fit, "fit", fit)
    result = call("run", f"{folder}/model.py:model", "--data", folder / "data.json", "--out", folder / "x.nc")
    (seed,) = re.findall(r"--seed (\d+)", result.stderr)
    assert keys == [_cli._key(int(seed))]
    assert result.exit_code == _cli.INTERRUPTED


def test_interrupted_run_says_how_to_go_on(folder, monkeypatch):
    """With a checkpoint on disk, Ctrl-C ends with the command that resumes."""

    def fit(*_, checkpoint, **__):
        checkpoint.write_bytes(b"")
        raise KeyboardInterrupt

    monkeypatch.setattr(_fit, "fit", fit)
    options = ["--data", folder / "data.json", "--out", folder / "x.nc", "--checkpoint", folder / "stopped.ckpt"]
    result = call("run", f"{folder}/model.py:model", *options)
    assert result.exit_code == _cli.INTERRUPTED
    assert f"pushforward resume {folder / 'stopped.ckpt'}" in result.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["resume", "{}/absent.ckpt"], "no checkpoint"),
        (["resume", "{}/data.npz"], "not a pushforward checkpoint"),
        (["resume", "{}/fit.nc"], "overwrite"),
        (["diagnose", "{}/data.json"], "not a netCDF-4"),
        (["diagnose", "{}/absent.nc"], "no such file"),
        (["compare", "{}/fit.nc"], "at least two"),
    ],
)
def test_bad_files(folder, arguments, message):
    """Foreign, missing and unsuitable files are named."""
    result = call(*(argument.format(folder) for argument in arguments))
    assert result.exit_code == _cli.ERROR
    assert message in " ".join(result.stderr.split())


def test_info_works_without_a_device():
    """A machine whose accelerator cannot be reached still gets its versions and the reason."""
    environment = {**os.environ, "JAX_PLATFORMS": "cuda"}
    command = [sys.executable, "-c", "from pushforward.infer._cli import main; main()", "info"]
    result = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    assert result.returncode == 0, result.stderr
    assert result.stdout.startswith(f"pushforward {pf.__version__}\n")
    assert re.search(r"devices +none: ", result.stdout)
    assert re.search(r"numpyro +\d", result.stdout)
    assert re.search(r"extra pyro +(not )?installed", result.stdout)


@pytest.mark.slow
def test_installed_command_in_double_precision(folder):
    """The console script, in a fresh process: --x64 reaches the result, and usage errors have code 2."""
    script = Path(sys.executable).with_name("pushforward")
    arguments = [
        "run",
        "model.py",
        "--data",
        "data.npz",
        "--seed",
        "1",
        "--guide",
        "laplace",
        "--x64",
        "--out",
        "x64.nc",
    ]
    result = subprocess.run([script, *arguments], cwd=folder, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    assert pf.load(folder / "x64.nc").data.attrs["dtype"] == "float64"
    assert "verdict: ok" in result.stdout
    assert subprocess.run([script, "run"], capture_output=True, check=False).returncode == 2
