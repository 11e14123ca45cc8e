"""The loop: keys, guard, thinning, early end, bounded buffers."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pushforward.samplers import AbstractKernel
from pushforward.samplers.engine import NonFiniteError, Progress, run, step_keys
from pushforward.samplers.engine import _run as engine


class WalkState(NamedTuple):
    x: jax.Array


class WalkInfo(NamedTuple):
    jump: jax.Array


class Walk(AbstractKernel):
    """A random walk that turns to NaN at a given step and ends past a wall."""

    bad_step: int = -1
    wall: float = jnp.inf

    def init(self, key, position, batch=None):
        return WalkState(position)

    def step(self, key, state, batch=None):
        jump = jax.random.normal(key, state.x.shape[1:])
        count = state.x[1, 0]
        x = jnp.where(count == self.bad_step, jnp.nan, state.x[0] + jump)
        return WalkState(jnp.stack([x, state.x[1] + 1])), WalkInfo(jump)

    def record(self, state, info):
        return {"x": state.x[0], "jump": info.jump}

    def done(self, state):
        return jnp.any(jnp.abs(state.x[0]) > self.wall)


def start(dim=2):
    return WalkState(jnp.zeros((2, dim)))


def test_steps_use_their_own_keys(getkey):
    """The path is the sum of draws from step_keys(key, i)[0], recomputed by hand."""
    key = getkey()
    result = run(Walk(), start(), key=key, num_steps=20)
    by_hand = np.cumsum([jax.random.normal(step_keys(key, i)[0], (2,)) for i in range(20)], axis=0)
    np.testing.assert_allclose(result.records["x"], by_hand, rtol=1e-12)
    assert len({tuple(jax.random.key_data(k).tolist()) for i in range(20) for k in step_keys(key, i)}) == 40


@pytest.mark.parametrize("chunk", [1, 3, 50])
@pytest.mark.parametrize("thin", [1, 4])
def test_thinning_keeps_the_last_of_each_group(chunk, thin, getkey):
    key = getkey()
    every = run(Walk(), start(), key=key, num_steps=40, chunk=1).records["x"]
    kept = run(Walk(), start(), key=key, num_steps=40, thin=thin, chunk=chunk).records["x"]
    np.testing.assert_array_equal(kept, every[thin - 1 :: thin])


@pytest.mark.parametrize("chunk", [1, 5, 64])
def test_first_bad_step_and_last_good_state(chunk, getkey):
    key = getkey()
    good = run(Walk(), start(), key=key, num_steps=17)
    with pytest.raises(NonFiniteError, match="step 17") as caught:
        run(Walk(bad_step=17), start(), key=key, num_steps=40, chunk=chunk)
    error = caught.value
    assert error.step == 17
    np.testing.assert_array_equal(error.state.x, good.state.x)
    np.testing.assert_array_equal(error.records["x"], good.records["x"])
    np.testing.assert_array_equal(jax.random.key_data(error.key), jax.random.key_data(step_keys(key, 17)[0]))
    replayed, _ = Walk(bad_step=17).step(error.key, error.state)
    assert np.isnan(replayed.x[0]).all()


def test_ends_when_done(getkey):
    key = getkey()
    result = run(Walk(wall=2.0), start(), key=key, num_steps=10_000)
    path = run(Walk(), start(), key=key, num_steps=result.step).records["x"]
    outside = np.abs(path).max(1) > 2.0
    assert outside[-1]
    assert not outside[:-1].any()
    assert run(Walk(wall=2.0), result.state, key=key, num_steps=10_000, start=result.step).step == result.step


def test_splitting_a_run_changes_nothing(getkey):
    key = getkey()
    whole = run(Walk(), start(), key=key, num_steps=30)
    first = run(Walk(), start(), key=key, num_steps=11)
    second = run(Walk(), first.state, key=key, num_steps=30, start=11, records=first.records)
    np.testing.assert_array_equal(whole.records["x"], second.records["x"])
    np.testing.assert_array_equal(whole.state.x, second.state.x)


def test_growing_chunks_compile_once(getkey, monkeypatch):
    """A run of many chunks of different lengths traces the step as often as a run of one step."""
    monkeypatch.setattr(engine, "_RECORD_LIMIT", 64)

    def traces(num_steps):
        calls = []

        class Counted(Walk):
            def step(self, key, state, batch=None):
                calls.append(1)
                return super().step(key, state, batch)

        assert run(Counted(), start(3), key=getkey(), num_steps=num_steps).step == num_steps
        return len(calls)

    assert traces(1000) == traces(1)


def test_record_buffer_is_bounded():
    shapes = {"x": jax.ShapeDtypeStruct((10**6,), jnp.float64)}
    capacity = engine._capacity(shapes)
    assert 1 <= capacity * 8 * 10**6 <= engine._RECORD_BYTES
    assert engine._capacity({"x": jax.ShapeDtypeStruct((), jnp.float32)}) == engine._RECORD_LIMIT


def test_plain_progress_is_sparse(getkey, capsys):
    with Progress("walk", plain_every=0.0) as progress:
        run(Walk(), start(), key=getkey(), num_steps=10, chunk=5, progress=progress)
    lines = capsys.readouterr().err.strip().splitlines()
    assert [line.split("  ")[0] for line in lines] == ["walk: step 5/10", "walk: step 10/10"]
