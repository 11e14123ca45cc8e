"""The reproducibility contract: grouping of steps, interruption and resumption change no bit."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tiers import fast

import pushforward as pf
from pushforward.samplers.engine import _run as engine

sys.path.insert(0, str(Path(__file__).parent))
import resume_worker as worker  # noqa: E402

KINDS = ["fit", "sample", "program"]


class Whole(dict):
    """Bits of the uninterrupted runs, by kind, each made when it is first asked for."""

    def __missing__(self, kind):
        self[kind] = worker.bits(worker.start(kind, progress=False))
        return self[kind]


@pytest.fixture(scope="module")
def whole():
    """One for all tests."""
    return Whole()


def in_new_process(*arguments: str) -> subprocess.Popen:
    return subprocess.Popen([sys.executable, str(Path(worker.__file__)), *arguments], env={**os.environ})


def resumed_bits(path: Path, kind: str) -> bytes:
    assert in_new_process("resume", kind, str(path)).wait() == 0
    return np.load(str(path) + ".bits.npy").tobytes()


@pytest.mark.parametrize("kind", fast(["fit", "sample"], "fit"))
def test_same_bits_with_progress_checkpoints_and_any_chunk(kind, whole, tmp_path, monkeypatch):
    assert worker.bits(worker.start(kind, progress=True)) == whole[kind]
    assert (
        worker.bits(worker.start(kind, progress=False, checkpoint=tmp_path / "c", checkpoint_every=0.0)) == whole[kind]
    )
    run = engine.run
    for chunk in (7, 1000):
        for module in ("_fit", "_sample"):
            monkeypatch.setattr(
                f"pushforward.infer.{module}.run", lambda *a, _c=chunk, **k: run(*a, **{**k, "chunk": _c})
            )
        assert worker.bits(worker.start(kind, progress=False)) == whole[kind], chunk


@pytest.mark.parametrize("kind", fast(KINDS, "fit", "program"))
def test_k_steps_then_a_new_process(kind, whole, tmp_path):
    path = tmp_path / "run.ckpt"
    short, whole_length = {"fit": (700, 3000), "sample": (130, 400), "program": (110, 300)}[kind]
    worker.start(kind, progress=False, checkpoint=path, num_steps=short)
    full = pf.resume(path, num_steps=whole_length, progress=False, checkpoint=tmp_path / "other")
    assert worker.bits(full) == whole[kind]
    assert resumed_bits(tmp_path / "other", kind) == whole[kind]


@pytest.mark.parametrize("kind", fast(["fit", "sample"], "sample"))
def test_kill_at_a_random_moment(kind, whole, tmp_path):
    """SIGKILL leaves a loadable checkpoint; resuming it gives the bits of the run that was never killed."""
    path = tmp_path / "run.ckpt"
    process = in_new_process("start", kind, str(path))
    while not path.exists() and process.poll() is None:
        time.sleep(0.01)
    time.sleep(random.Random(os.getpid()).uniform(0.0, 1.5))  # the moment is meant to differ between runs
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert resumed_bits(path, kind) == whole[kind]


def test_damaged_foreign_and_missing_checkpoints(tmp_path):
    path = tmp_path / "run.ckpt"
    worker.start("fit", progress=False, checkpoint=path, num_steps=50)
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])
    with pytest.raises(ValueError, match="is damaged"):
        pf.resume(path)
    flipped = bytearray(content)
    flipped[len(content) // 2] ^= 0xFF
    path.write_bytes(bytes(flipped))
    with pytest.raises(ValueError, match="is damaged"):
        pf.resume(path)
    path.write_text("hello")
    with pytest.raises(ValueError, match="is not a pushforward checkpoint"):
        pf.resume(path)
    np.savez(tmp_path / "foreign.npz", a=np.zeros(3))
    with pytest.raises(ValueError, match="is not a pushforward checkpoint"):
        pf.resume(tmp_path / "foreign.npz")
    with pytest.raises(FileNotFoundError, match="no checkpoint"):
        pf.resume(tmp_path / "none")


def test_unwritable_checkpoint_is_refused_before_the_run(tmp_path):
    with pytest.raises(OSError, match="does not exist"):
        worker.start("fit", checkpoint=tmp_path / "missing" / "run.ckpt")
    with pytest.raises(OSError, match="it is a folder"):
        worker.start("fit", checkpoint=tmp_path)


def test_resume_keeps_whole_draws(tmp_path):
    target = pf.from_logdensity(lambda x: -0.5 * x**2, jnp.zeros(()))
    settings = {"key": jax.random.key(0), "thin": 4, "progress": False}
    pf.sample(target, pf.SGLD(0.1), num_steps=8, checkpoint=tmp_path / "c", **settings)
    with pytest.raises(ValueError, match="no multiple of thin=4"):
        pf.resume(tmp_path / "c", num_steps=10, progress=False)


def test_resume_needs_enough_steps(tmp_path):
    worker.start("fit", progress=False, checkpoint=tmp_path / "c", num_steps=50)
    with pytest.raises(ValueError, match="has 50 steps already"):
        pf.resume(tmp_path / "c", num_steps=10)
