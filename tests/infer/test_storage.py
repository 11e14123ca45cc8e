"""One file per result: round trips, other processes, damage, foreign files, and what a failed save leaves behind."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
import threading
from pathlib import Path

import jax
import numpy as np
import pytest
import xarray as xr

import pushforward as pf

ROOT = Path(__file__).resolve().parents[2]


def run(command: list[str]) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "src")}
    return subprocess.run(command, capture_output=True, text=True, check=False, env=environment, timeout=300)


@pytest.fixture(scope="module")
def fit(schools_target, guided):
    posterior = guided(schools_target, num_draws=200, state={"step": np.asarray(17)})
    posterior.log_likelihood()
    posterior.predict(jax.random.key(0))
    return posterior


@pytest.fixture
def path(fit, tmp_path):
    fit.save(tmp_path / "run.nc")
    return tmp_path / "run.nc"


def test_round_trip(fit, path):
    again = pf.load(path)
    assert set(again.data.groups) == set(fit.data.groups)
    for node in fit.data.subtree:
        xr.testing.assert_identical(node.to_dataset(), again.data[node.path].to_dataset().assign_attrs(node.attrs))
    assert again.verdict == fit.verdict
    assert repr(again) == repr(fit)
    assert int(again.state["step"]) == 17
    np.testing.assert_array_equal(again.predict(jax.random.key(5))["y"], fit.predict(jax.random.key(5))["y"])
    again.save(path)
    third = pf.load(path)
    assert third.diagnose() == fit.verdict
    assert third.log_likelihood().identical(third.data["log_likelihood"].to_dataset())


def test_data_needs_no_unpickling(path, monkeypatch):
    from pushforward.infer._storage import StoredPart

    def refuse(part):
        raise AssertionError(f"unpickled {part.name}")

    monkeypatch.setattr(StoredPart, "restore", refuse)
    loaded = pf.load(path)
    loaded.summary()
    loaded.diagnose()
    repr(loaded)
    loaded.save(path)
    with pytest.raises(AssertionError, match="unpickled target"):
        _ = loaded.target


def test_new_process(path, fit):
    code = f"""
        import jax
        jax.config.update("jax_enable_x64", True)
        import pushforward as pf
        fit = pf.load({str(path)!r})
        print(float(fit.predict(jax.random.key(5))["y"].sum()).hex(), fit.verdict.status, type(fit.guide).__name__)
    """
    out = run([sys.executable, "-c", textwrap.dedent(code)])
    assert out.returncode == 0, out.stderr
    expected = float(fit.predict(jax.random.key(5))["y"].sum()).hex()
    assert out.stdout.split() == [expected, fit.verdict.status, "NormalGuide"]


def test_model_of_a_script_travels_with_the_file(tmp_path):
    script = tmp_path / "script.py"
    script.write_text(
        textwrap.dedent("""
        import sys
        import jax
        jax.config.update("jax_enable_x64", True)
        import numpy as np, numpyro, numpyro.distributions as dist
        import pushforward as pf
        from pushforward.infer._build import build_posterior

        def model(y=None):
            mu = numpyro.sample("mu", dist.Normal(0.0, 1.0))
            numpyro.sample("y", dist.Normal(mu, 1.0).expand([3]).to_event(1), obs=y)

        target = pf.from_numpyro(model, y=np.zeros(3))
        draws = {"mu": np.linspace(-1, 1, 20).reshape(1, 20)}
        build_posterior(target, draws, kind="particles", algorithm="x").save(sys.argv[1])
    """)
    )
    saved = tmp_path / "script.nc"
    made = run([sys.executable, str(script), str(saved)])
    assert made.returncode == 0, made.stderr
    assert pf.load(saved).log_likelihood()["y"].shape == (1, 20)


def test_every_flipped_byte_is_noticed(path):
    content = path.read_bytes()
    offsets = np.random.default_rng(0).integers(0, len(content), 40).tolist()
    for offset in [0, 1, *offsets, len(content) - 40, len(content) - 1]:
        damaged = bytearray(content)
        damaged[offset] ^= 0xFF
        path.write_bytes(damaged)
        with pytest.raises(ValueError, match="damaged"):
            pf.load(path)


def test_file_changed_by_another_program(path):
    xr.Dataset({"extra": ("x", np.arange(3))}).to_netcdf(path, mode="a", group="extra", engine="h5netcdf")
    with pytest.raises(ValueError, match="changed by another program|checksum"):
        pf.load(path)


@pytest.mark.parametrize("keep", [0, 5, 100, 0.5, -1])
def test_truncated_file(path, keep):
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * keep) if isinstance(keep, float) else keep])
    with pytest.raises(ValueError, match="damaged"):
        pf.load(path)


def test_foreign_files(tmp_path):
    text = tmp_path / "notes.txt"
    text.write_text("not a result")
    with pytest.raises(ValueError, match="not a netCDF-4"):
        pf.load(text)
    arviz_base = pytest.importorskip("arviz_base")
    foreign = tmp_path / "foreign.nc"
    arviz_base.from_dict({"posterior": {"mu": np.zeros((2, 5))}}).to_netcdf(foreign, engine="h5netcdf")
    with pytest.raises(ValueError, match=r"open_datatree"):
        pf.load(foreign)


def test_missing_paths(fit, tmp_path):
    with pytest.raises(FileNotFoundError, match="no such file"):
        pf.load(tmp_path / "nothing.nc")
    with pytest.raises(IsADirectoryError, match="folder"):
        pf.load(tmp_path)
    with pytest.raises(IsADirectoryError, match="folder"):
        fit.save(tmp_path)
    with pytest.raises(FileNotFoundError, match="does not exist"):
        fit.save(tmp_path / "no" / "run.nc")


def test_newer_format_is_refused(path, monkeypatch):
    monkeypatch.setattr("pushforward.infer._storage.FORMAT", 0)
    with pytest.raises(ValueError, match="Upgrade"):
        pf.load(path)


@pytest.mark.skipif(not Path("/proc").is_dir(), reason="needs a folder that nobody may write to")
def test_unwritable_folder(fit):
    with pytest.raises(OSError, match="Cannot save to /proc/run.nc"):
        fit.save("/proc/run.nc")


def test_failed_save_keeps_the_last_good_file(fit, path, monkeypatch):
    before = path.read_bytes()

    def full_disk(self, target, **kwargs):
        Path(target).write_bytes(b"half a file")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(xr.DataTree, "to_netcdf", full_disk)
    with pytest.raises(OSError, match="Cannot save to .*No space left"):
        fit.save(path)
    assert path.read_bytes() == before
    assert [entry.name for entry in path.parent.iterdir()] == ["run.nc"]


def test_unpicklable_parts_are_left_out_with_a_warning(schools_target, guided, tmp_path):
    posterior = guided(schools_target, num_draws=20, state={"lock": threading.Lock()})
    with pytest.warns(UserWarning, match="state"):
        posterior.save(tmp_path / "partial.nc")
    loaded = pf.load(tmp_path / "partial.nc")
    assert loaded.state is None
    np.testing.assert_array_equal(loaded.draws("mu"), posterior.draws("mu"))
    assert loaded.target.program.source == posterior.target.program.source


def test_a_part_that_cannot_be_restored_is_an_error_not_a_crash(path):
    loaded = pf.load(path)
    loaded._parts["guide"].content = b"garbage"
    with pytest.raises(ValueError, match="cannot be restored"):
        _ = loaded.guide
    assert len(loaded.summary())


def test_opens_with_xarray_alone(path, fit):
    with xr.open_datatree(path, engine="h5netcdf") as tree:
        np.testing.assert_array_equal(tree["posterior"]["theta"], fit.data["posterior"]["theta"])
        assert tree.attrs["inference_library"] == "pushforward"
