"""Solvers and baselines against recursions written out, on fields so simple that every term of a step shows."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import pushforward as pf

si = pf.interpolants
NOISY, VP, STRAIGHT = si.EDM(0.01, 10.0), si.VariancePreserving(), si.OneSidedLinear()


class Given(si.AbstractFields):
    """Functions of time and point as velocity, score, predicted noise and data; none is zero."""

    path: si.AbstractPath
    b: Callable[..., Any] | None = None
    s: Callable[..., Any] | None = None
    z: Callable[..., Any] | None = None
    data: Callable[..., Any] | None = None

    def velocity(self, t, x, condition=None):
        return jnp.zeros_like(x) if self.b is None else self.b(t, x)

    def score(self, t, x, condition=None):
        return jnp.zeros_like(x) if self.s is None else self.s(t, x)

    def noise(self, t, x, condition=None):
        return super().noise(t, x) if self.z is None else self.z(t, x)

    def ends(self, t, x, condition=None):
        return super().ends(t, x) if self.data is None else (self.data(t, x),)


UNEVEN = np.array([0.0, 0.1, 0.4, 0.5, 0.9, 1.0])


@pytest.mark.parametrize("beta", [0.3, 1.0])
def test_heavy_ball_over_unequal_steps(beta):
    """``v <- (1 - beta) v + beta f``, and v times the step: the velocity is kept, not the displacement."""
    x, v = 1.5, None
    for h in np.diff(UNEVEN):
        f = -2.0 * x
        v = f if v is None else (1.0 - beta) * v + beta * f
        x += h * v
    fields = Given(si.Linear(), b=lambda t, x: -2.0 * x)
    found = si.flow(fields, jnp.full((1, 1), 1.5), times=UNEVEN, rule=si.HeavyBall(beta))
    np.testing.assert_allclose(found, [[x]], rtol=1e-12)


RULES = [si.AdamsBashforth(3), si.AdamsBashforth(4), si.GHVB(0.4, 2), si.GHVB(0.4, 3), si.GHVB(0.4, 4)]


@pytest.mark.parametrize("rule", RULES, ids=lambda r: f"{type(r).__name__}{r.order}")
def test_polynomials_are_followed_over_unequal_steps(rule):
    """Of a degree below the order, once the first steps, of lower order, are too short to matter."""
    times = np.concatenate([[0.0], 1e-6 * 2.0 ** np.arange(17), [0.1, 0.4, 0.5, 0.9, 1.0]])
    fields = Given(si.Linear(), b=lambda t, x: (rule.order * t ** (rule.order - 1) - 1.0) * jnp.ones_like(x))
    found = si.flow(fields, jnp.zeros((1, 1)), times=times, rule=rule)
    np.testing.assert_allclose(found, 0.0, atol=1e-9)


@pytest.mark.parametrize("order", [1, 2, 3])
def test_data_polynomial_in_the_log_ratio(order):
    """Of DPM-Solver++, over steps on both sides of where its integrals change their form; small ones do not cancel."""
    low, high = np.log(0.01), np.log(10.0)
    u = -high + np.concatenate([1e-5 * np.arange(4), [0.3, 1.0, 3.5, 4.0, high - low]])
    times = (10.0 ** (1 / 7) - np.exp(-u / 7)) / (10.0 ** (1 / 7) - 0.01 ** (1 / 7))
    times[0], times[-1] = 0.0, 1.0

    def data(t, x):
        return (1.0 - jnp.log(NOISY.gamma(t))) ** (order - 1) * jnp.ones_like(x)

    fields = Given(NOISY, data=data)
    found = si.flow(fields, jnp.full((1, 1), 7.0), times=times, rule=si.DPMSolver(order))
    # int exp(v - u) (1 + v)^k dv, by parts.
    parts = [lambda v: 1.0, lambda v: v, lambda v: v**2 + 1.0][order - 1]
    shrink = 0.01 / 10.0
    truth = shrink * 7.0 + parts(-low) - shrink * parts(-high)
    np.testing.assert_allclose(found, [[truth]], rtol=1e-6)


def test_last_step_to_no_noise_is_of_euler():
    """Where the predicted noise has no value, as documented of "heun"."""
    fields = Given(STRAIGHT, z=lambda t, x: jnp.where(t == 1.0, jnp.nan, x), data=lambda t, x: jnp.cos(x))
    x = jnp.array([[0.5], [-1.0]])
    one, other = (si.flow(fields, x, num_steps=1, rule=rule, coordinate="straight") for rule in ("heun", "euler"))
    np.testing.assert_array_equal(one, other)
    np.testing.assert_allclose(one, jnp.cos(x), atol=1e-12)


@pytest.mark.parametrize("order", [1, 2, 3])
def test_last_step_of_dpm_solver_to_no_noise(order):
    """Of order 1: to what was last expected of the data, from which nothing is extrapolated over an endless step."""
    fields = Given(STRAIGHT, data=lambda t, x: 1.0 + t * jnp.ones_like(x))
    found = si.flow(fields, jnp.zeros((1, 1)), times=UNEVEN, rule=si.DPMSolver(order))
    np.testing.assert_allclose(found, [[1.0 + UNEVEN[-2]]], atol=1e-6)


@pytest.mark.parametrize("path", [NOISY, VP], ids=["EDM", "VP"])
def test_steps_of_karras(path):
    """Algorithm 2 without its random numbers: back to a larger ratio, and Heun's step from there; to zero Euler's."""
    times, churn, x = np.array([0.2, 0.3, 0.5, 0.8, 1.0]), 1.0, 3.0
    signal, noise = jax.vmap(path.coefficients)(jnp.asarray(times))[:, 0], jax.vmap(path.gamma)(jnp.asarray(times))
    sigma = np.asarray(noise / signal)
    y, low, high = x / float(signal[0]), 0.9 * sigma[2], 1.1 * sigma[1]
    for now, end in zip(sigma[:-1], sigma[1:], strict=True):
        raised = min(now * (1.0 + min(churn / 4, 2**0.5 - 1)), sigma[0]) if low <= now <= high else now
        first = np.sin(y)
        second = np.sin(y + (end - raised) * first) if end > 0.0 else first
        y += 0.5 * (end - raised) * (first + second)
    fields = Given(path, z=lambda t, x: jnp.sin(x / path.coefficients(t)[0]))
    found = si.edm(
        jax.random.key(0),
        fields,
        jnp.full((1, 1), x),
        times=times,
        churn=churn,
        noise_scale=0.0,
        lowest=low,
        highest=high,
    )
    np.testing.assert_allclose(found, [[y * float(signal[-1])]], rtol=1e-9)


def test_noise_of_karras():
    """Where nothing is predicted, points spread by what is put back between the two ratios, and by its scale."""
    times = np.linspace(0.0, 1.0, 9)
    sigma = np.asarray(jax.vmap(NOISY.gamma)(jnp.asarray(times)))
    share = np.where((sigma >= sigma[6]) & (sigma <= sigma[2]), 2.0 / 8, 0.0)[:-1]
    truth = 1.2**2 * np.sum(((1.0 + share) ** 2 - 1.0) * sigma[:-1] ** 2)
    settings = {"times": times, "churn": 2.0, "lowest": sigma[6], "highest": sigma[2], "noise_scale": 1.2}
    found = si.edm(jax.random.key(0), Given(NOISY), jnp.zeros((20_000, 1)), **settings)
    assert abs(float(found.var()) / truth - 1.0) < 5.0 * (2.0 / 20_000) ** 0.5


@pytest.mark.parametrize("reverse", [False, True])
def test_one_adaptive_step(reverse):
    """Heun's step in time, the noise of its middle; the way back turns the velocity round and not the score."""
    fields = Given(si.Linear(), b=lambda t, x: t * jnp.ones_like(x), s=lambda t, x: 4.0 * jnp.ones_like(x))
    start, end = (1.0, 0.0) if reverse else (0.0, 1.0)
    moved = si.diffuse_adaptive(
        jax.random.key(0),
        fields,
        jnp.zeros((20_000, 1)),
        epsilon=lambda t: t**2,
        atol=1e3,
        first_step=1.0,
        start=start,
        end=end,
    )
    assert (moved.evaluations == 2).all()
    # Drift: half the velocities of both ends, and half the levels 0 and 1 times the score. Noise: 2 (1 / 2)^2.
    truth = (-0.5 if reverse else 0.5) + 0.5 * 4.0
    assert abs(float(moved.points.mean()) - truth) < 5.0 * (0.5 / 20_000) ** 0.5
    assert abs(float(moved.points.var()) / 0.5 - 1.0) < 5.0 * (2.0 / 20_000) ** 0.5


def test_relative_tolerance():
    """Far from the origin it saves steps."""
    fields = Given(si.Linear(), b=lambda t, x: jnp.cos(20.0 * t) * x)
    x, settings = jnp.full((1, 1), 100.0), {"epsilon": 0.0, "atol": 1e-3}
    tight, loose = (si.diffuse_adaptive(jax.random.key(0), fields, x, rtol=r, **settings) for r in (0.0, 0.01))
    assert int(loose.evaluations[0]) < 0.3 * int(tight.evaluations[0])


def test_red_diff_balances_prior_and_likelihood():
    """A prior at one point pulls by the weight times the distance at every level: the optimum is known."""
    place = jnp.array([1.0, -2.0])

    def noise(t, x):
        return (x - STRAIGHT.coefficients(t)[0] * place) / STRAIGHT.gamma(t)

    found = si.red_diff(
        jax.random.key(0),
        Given(STRAIGHT, z=noise),
        lambda x: -0.5 * 4.0 * jnp.sum((x - 3.0) ** 2),
        jnp.zeros((3, 2)),
        weight=6.0,
        learning_rate=0.02,
        num_steps=600,
    )
    np.testing.assert_allclose(found, jnp.broadcast_to((6.0 * place + 4.0 * 3.0) / 10.0, (3, 2)), atol=0.02)


def test_steps_of_dps():
    """A denoiser that is a line and a normal likelihood: mean and variance of the chain by recursion."""
    times, scale, mean, variance = np.array([0.2, 0.5, 0.8]), 0.7, 0.0, 0.8**2
    fields = Given(STRAIGHT, data=lambda t, x: 0.3 + 0.5 * x)
    for c, g, ahead in zip(times, 1.0 - times, [*times[1:], 1.0], strict=True):
        left = (1.0 - ahead) ** 2
        lost = 1.0 - (c / ahead) ** 2 * left / g**2
        keep, pull = (c / ahead) * left / g**2, lost * ahead
        # Of x in the gradient of -(0.3 + x / 2 - 2)^2 / 2 with respect to x, which is 0.5 (1.7 - x / 2).
        turn = pull * g**2 / c * scale
        factor = keep + 0.5 * pull - 0.25 * turn
        mean, variance = factor * mean + 0.3 * pull + 0.85 * turn, factor**2 * variance + lost * left
    run = lambda spread: si.dps(  # noqa: E731
        jax.random.key(0),
        fields,
        lambda x: -0.5 * jnp.sum((x - 2.0) ** 2) / spread**2,
        dim=1,
        num_particles=20_000,
        times=times,
        scale=scale,
    )
    found = run(1.0)
    assert abs(float(found.mean()) - mean) < 5.0 * (variance / 20_000) ** 0.5
    assert abs(float(found.var()) / variance - 1.0) < 5.0 * (2.0 / 20_000) ** 0.5
    assert float(jnp.abs(run(1e-3)).max()) < 20.0
