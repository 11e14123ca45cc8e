"""Steps that each particle chooses: one Brownian path, no neighbours, fewer evaluations, the same law."""

from __future__ import annotations

import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from interpolant_laws import BASE, EXACT, TARGET, excess

import pushforward as pf

si = pf.interpolants


class Barely(si.AbstractFields):
    """A drift of next to nothing, whose error is a small multiple of the noise of the step."""

    path: si.AbstractPath

    def velocity(self, t, x, condition=None):
        return 1e-6 * x

    def score(self, t, x, condition=None):
        return jnp.zeros_like(x)


def test_refused_noise_is_not_lost():
    """A step is refused where its noise is large; still the sum of the noise has variance ``2 epsilon``.

    Of 40,000 particles the variance is known to 0.7 %; noise drawn afresh after a refusal leaves 0.42 of it.
    """
    fields = Barely(path=si.Linear())
    settings = {"epsilon": 0.5, "rtol": 0.0, "atol": 3e-8, "first_step": 1.0}
    moved = si.diffuse_adaptive(jax.random.key(0), fields, jnp.zeros((40_000, 1)), **settings)
    assert moved.refused.mean() > 1.0
    ends = np.asarray(moved.points)[:, 0]
    # Five standard errors: chance exceeds them once in 1.7 million.
    assert abs(ends.mean()) < 5.0 / len(ends) ** 0.5
    assert abs(ends.var() - 1.0) < 5.0 * (2.0 / len(ends)) ** 0.5


def test_refused_noise_is_divided_as_a_bridge():
    """Pieces of a refused step count differently where epsilon grows: they have to be independent and of their length.

    True is ``2 int t^2 dt``. The steps, about 20, leave 1 % of it; pieces with too much noise of their own 13 %.
    """
    fields = Barely(path=si.Linear())
    settings = {"epsilon": lambda t: t**2, "rtol": 0.0, "atol": 1e-8, "first_step": 1.0}
    moved = si.diffuse_adaptive(jax.random.key(0), fields, jnp.zeros((20_000, 1)), **settings)
    assert moved.refused.mean() > 1.0
    assert abs(float(moved.points.var()) * 1.5 - 1.0) < 5.0 * (2.0 / 20_000) ** 0.5


def test_batches_do_not_matter():
    """Halves moved on their own, with the keys of their particles, go where they went together."""
    keys = jax.random.split(jax.random.key(1), 10)
    start = BASE.sample(jax.random.key(2), 10)
    together = si.diffuse_adaptive(keys, EXACT, start)
    for part in (slice(0, 5), slice(5, 10)):
        alone = si.diffuse_adaptive(keys[part], EXACT, start[part])
        np.testing.assert_allclose(alone.points, together.points[part], atol=1e-12)
        np.testing.assert_array_equal(alone.evaluations, together.evaluations[part])


@pytest.mark.parametrize("level", [0.5, -0.5])
def test_one_law_for_both_terms_of_the_drift(level):
    """Velocity and score of exact fields share one factorisation: two at once can stop a small processor for good."""
    t, x, level = jnp.float64(0.3), jnp.ones(1), jnp.float64(level)
    once = EXACT.drift(t, x, level=level)
    np.testing.assert_allclose(once, EXACT.velocity(t, x) + level * EXACT.score(t, x), rtol=1e-12)

    def factors(drift):
        return calls("triangular_solve", jax.make_jaxpr(lambda t, x: drift(t, x, level=level))(t, x).jaxpr)

    assert factors(EXACT.drift) == 1
    assert factors(lambda *args, level: si.AbstractFields.drift(EXACT, *args, level=level)) == 2


def calls(name, program):
    """How often a primitive is called; what a printed program says once may be called often."""
    inner = [value.jaxpr for eqn in program.eqns for value in eqn.params.values() if hasattr(value, "jaxpr")]
    return sum(eqn.primitive.name == name for eqn in program.eqns) + sum(calls(name, part) for part in inner)


@pytest.mark.slow
def test_many_particles_in_one_call():
    """50,000 particles, each with a law of its own, arrive: XLA once hung on two batches of factors at a time."""
    points = BASE.sample(jax.random.key(2), 50_000)
    moved = si.diffuse_adaptive(jax.random.key(3), EXACT, points, rtol=0.1, atol=0.1)
    assert bool(jnp.isfinite(moved.points).all())


@pytest.mark.slow
@pytest.mark.parametrize("reverse", [False, True])
def test_a_third_of_the_evaluations(reverse):
    """Of 10,000 points: the law is the target's where 1,000 steps of Euler's method have 3 times the evaluations.

    Chance exceeds an excess of 3 once in 14,000 (see `test_sampling`); `benchmarks/sde_speed.py` has more points.
    """
    first, last = (TARGET, BASE) if reverse else (BASE, TARGET)
    start = first.sample(jax.random.key(3), 10_000)
    times = {"start": 1.0, "end": 0.0} if reverse else {}
    moved = si.diffuse_adaptive(jax.random.key(4), EXACT, start, epsilon=0.5, rtol=0.005, atol=0.005, **times)
    assert moved.evaluations.mean() < 1_000 / 3
    assert excess(np.asarray(moved.points)[:, 0], last) < 3.0


def test_flow_to_a_tolerance():
    """Each point's own steps end where many small ones do, both ways."""
    start = BASE.sample(jax.random.key(7), 20)
    truth = si.flow(EXACT, start, num_steps=1_000, rule="rk4")
    moved = si.flow_adaptive(EXACT, start, rtol=1e-7, atol=1e-7)
    np.testing.assert_allclose(moved.points, truth, atol=2e-4)
    back = si.flow_adaptive(EXACT, moved.points, rtol=1e-7, atol=1e-7, start=1.0, end=0.0)
    np.testing.assert_allclose(back.points, start, atol=2e-4)
    assert len(set(np.asarray(moved.evaluations).tolist())) > 1


def test_conditions_are_passed_on():
    """One per point."""

    class Shifted(Barely):
        def velocity(self, t, x, condition=None):
            return condition * jnp.ones_like(x)

    speeds = jnp.array([1.0, -2.0, 0.5])
    fields = Shifted(path=si.Linear())
    for moved in (
        si.flow_adaptive(fields, jnp.zeros((3, 2)), condition=speeds),
        si.diffuse_adaptive(jax.random.key(0), fields, jnp.zeros((3, 2)), epsilon=0.0, condition=speeds),
    ):
        np.testing.assert_allclose(moved.points, speeds[:, None] * jnp.ones((1, 2)), atol=1e-9)


def test_bad_input(monkeypatch):
    """With the remedy."""
    x, key = jnp.zeros((2, 1)), jax.random.key(0)
    with pytest.raises(ValueError, match="array of 2 of them"):
        si.diffuse_adaptive(0, EXACT, x)
    with pytest.raises(ValueError, match="3 keys for 2 points"):
        si.diffuse_adaptive(jax.random.split(key, 3), EXACT, x)
    with pytest.raises(ValueError, match=r"end=1.5: expected a time in \[0, 1\]"):
        si.diffuse_adaptive(key, EXACT, x, end=1.5)
    with pytest.raises(ValueError, match="atol=0"):
        si.diffuse_adaptive(key, EXACT, x, atol=0.0)
    with pytest.raises(FloatingPointError, match="2 of 2 points.*max_steps=3"):
        si.diffuse_adaptive(key, EXACT, x, max_steps=3)
    monkeypatch.setitem(sys.modules, "diffrax", None)
    with pytest.raises(ImportError, match=r"pushforward\[ode\]"):
        si.flow_adaptive(EXACT, x)
