"""SVGD and CoinSVGD: independent loops, invariances, the cost of a step, known variances."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import pushforward as pf
from pushforward.samplers.pairs import RBF, AbstractSteinKernel, Median
from pushforward.samplers.stein import Annealing, AverageHessian, EnsembleCovariance

PRECISION = np.array([[3.0, -0.5], [-0.5, 1.0]])
MEAN = np.array([-1.0, 1.0])


def gaussian():
    return pf.from_logdensity(
        lambda x: -0.5 * (x - MEAN) @ jnp.asarray(PRECISION) @ (x - MEAN), jnp.zeros(2)
    )  # fmt: skip


def banana():
    """A Rosenbrock-type density, whose scores are not linear."""
    return pf.from_logdensity(lambda x: -0.5 * x[0] ** 2 - 2.0 * (x[1] - x[0] ** 2) ** 2, jnp.zeros(2))


def trajectory(kernel, target, start, num_steps, key):
    kernel = kernel.bind(target, 0)

    @jax.jit
    def run(start):
        def step(state, k):
            state, _ = kernel.step(k, state)
            return state, state.particles

        return jax.lax.scan(step, kernel.init(key, start), jax.random.split(key, num_steps))[1]

    return run(start)


def coin_loop(score, x0, num_steps):
    """Coin sampling, one number after the other, from the formulas; median with the diagonal."""
    n, d = x0.shape
    x, bound, total, absolute, reward = x0.copy(), *(np.zeros((n, d)) for _ in range(4))
    path = []
    for _ in range(num_steps):
        squared = np.array([[np.sum((x[i] - x[j]) ** 2) for j in range(n)] for i in range(n)])
        width = 0.5 * np.median(squared) / np.log(n + 1)
        new = np.empty_like(x)
        c = np.zeros((n, d))
        for i in range(n):
            for j in range(n):
                k = np.exp(-squared[i, j] / (2 * width))
                c[i] += (k * score(x[j]) - k * (x[j] - x[i]) / width) / n
        for i in range(n):
            for m in range(d):
                bound[i, m] = max(bound[i, m], abs(c[i, m]))
                total[i, m] += c[i, m]
                absolute[i, m] += abs(c[i, m])
                reward[i, m] = max(reward[i, m] + (x[i, m] - x0[i, m]) * c[i, m], 0.0)
                bet = total[i, m] / (bound[i, m] * (absolute[i, m] + bound[i, m]))
                new[i, m] = x0[i, m] + bet * (bound[i, m] + reward[i, m])
        x = new
        path.append(x)
    return np.stack(path)


def test_coin_trajectories_equal_an_independent_loop(getkey, figure):
    """Eight particles on a banana over 150 steps."""
    start = np.asarray(0.1 * jax.random.normal(getkey(), (8, 2)))

    def score(x):
        slope = 4.0 * (x[1] - x[0] ** 2)
        return np.array([-x[0] + 2.0 * x[0] * slope, -slope])

    kernel = pf.CoinSVGD(8, kernel=RBF(Median(diagonal=True, num_points=None)))
    found = np.asarray(trajectory(kernel, banana(), jnp.asarray(start), 150, getkey()))
    exact = coin_loop(score, start, 150)
    difference = float(np.max(np.abs(found - exact)))
    figure("CoinSVGD trajectories against an independent loop", difference, "at most 1e-9")
    assert difference <= 1e-9
    assert np.max(np.abs(exact[-1] - start)) > 0.5


class Scaled(AbstractSteinKernel):
    """All directions, attraction and repulsion, times a factor."""

    inner: RBF
    factor: jax.Array | float

    def fit(self, points, alive):
        return self.inner.fit(points, alive)

    def force(self, fitted, points, scores, weight, *, repulsion=1.0):
        return self.factor * self.inner.force(fitted, points, scores, weight, repulsion=repulsion)

    def statistics(self, fitted):
        return self.inner.statistics(fitted)


def test_scaling_all_directions_changes_no_coin_trajectory(getkey, figure):
    """Bit for bit with powers of two; to rounding with powers of ten."""
    start, key = 0.1 * jax.random.normal(getkey(), (20, 2)), getkey()

    def scaled(factor):
        return trajectory(pf.CoinSVGD(20, kernel=Scaled(RBF(), factor)), gaussian(), start, 200, key)

    paths = np.asarray(jax.vmap(scaled)(jnp.asarray([1.0, 2.0**20, 2.0**-20, 1e6, 1e-6])))
    difference = np.max(np.abs(paths[1:] - paths[0]), axis=(1, 2, 3))
    assert (difference[:2] == 0.0).all()
    worst = float(difference.max())
    figure("CoinSVGD with all directions times 1e6 and 1e-6: change of the trajectory", worst, "at most 1e-9")
    assert worst <= 1e-9


@pytest.mark.parametrize("build", [pf.SVGD, pf.CoinSVGD])
def test_a_step_evaluates_exactly_one_gradient_per_particle(build, getkey, figure):
    counts = {"value": 0, "gradient": 0}

    def counted(name):
        counts[name] += 1

    @jax.custom_vjp
    def logdensity(x):
        return -0.5 * jnp.sum(x**2)

    def forward(x):
        jax.debug.callback(lambda: counted("value"))
        return logdensity(x), x

    def backward(x, g):
        # The argument makes the callback one per particle.
        jax.debug.callback(lambda _: counted("gradient"), x[0])
        return (-g * x,)

    logdensity.defvjp(forward, backward)
    kernel = build(7).bind(pf.from_logdensity(logdensity, jnp.zeros(2)), 0)
    state = kernel.init(getkey(), jax.random.normal(getkey(), (7, 2)))
    step = jax.jit(kernel.step)
    for key in jax.random.split(getkey(), 3):
        state, _ = step(key, state)
    jax.effects_barrier()
    figure(f"{build.__name__}: gradients in 3 steps of 7 particles", counts["gradient"], "21")
    assert counts["gradient"] == 21


@pytest.mark.parametrize(("count", "least"), [(10, 0.70), pytest.param(50, 0.88, marks=pytest.mark.slow)])
@pytest.mark.parametrize("annealed", [False, True])
def test_variance_on_a_standard_normal(count, least, annealed, getkey, figure):
    annealing = Annealing(600, num_cycles=3) if annealed else None
    kernel = pf.SVGD(count, optimizer=optax.adagrad(0.5), annealing=annealing)
    start = jax.random.uniform(getkey(), (count, 1), minval=-2.0, maxval=2.0)
    target = pf.from_logdensity(lambda x: -0.5 * jnp.sum(x**2), jnp.zeros(1))
    variance = float(np.var(trajectory(kernel, target, start, 1500, getkey())[-1]))
    name = "annealed SVGD" if annealed else "SVGD"
    figure(f"{name}, N(0, 1), {count} particles: variance", variance, f"{least} to 1.0")
    assert least <= variance <= 1.0


def test_annealing_scales_the_attraction_only(getkey):
    """Half-way through a rise of power two: a quarter of the attraction, all of the repulsion."""
    kernel = pf.SVGD(9, annealing=Annealing(100, num_cycles=1, power=2.0)).bind(gaussian(), 0)
    x = jax.random.normal(getkey(), (9, 2))
    at, key = kernel.evaluate(x, jnp.ones(9, bool), None), getkey()
    found = [kernel.direction(key, x, at, jnp.asarray(step), (), None)[0] for step in (0, 50, 100)]
    np.testing.assert_allclose(found[1], found[0] + 0.25 * (found[2] - found[0]), rtol=1e-12)
    np.testing.assert_allclose(jnp.sum(found[0], axis=0), 0.0, atol=1e-12)
    assert float(jnp.abs(found[0]).max()) > 0.01


@pytest.mark.parametrize("preconditioner", [AverageHessian(), EnsembleCovariance()])
def test_preconditioned_flow_forgets_the_scales_of_the_target(preconditioner, getkey):
    """Standard deviations 0.01 and 100: the same flow as on the standard normal, up to the change of units."""
    scales = jnp.asarray([0.01, 100.0])
    target = pf.from_logdensity(lambda x: -0.5 * jnp.sum((x / scales) ** 2), jnp.zeros(2))
    whitened = pf.from_logdensity(lambda x: -0.5 * jnp.sum(x**2), jnp.zeros(2))
    start, key = jax.random.normal(getkey(), (20, 2)), getkey()
    if isinstance(preconditioner, EnsembleCovariance):
        # Shrinkage towards the identity is not invariant: little of it.
        preconditioner = EnsembleCovariance(shrinkage=1e-12)
    else:
        preconditioner = AverageHessian(floor=1e-12)
    kernel = pf.SVGD(20, optimizer=optax.sgd(0.3), preconditioner=preconditioner)
    found = trajectory(kernel, target, start * scales, 300, key)[-1] / scales
    exact = trajectory(kernel, whitened, start, 300, key)[-1]
    np.testing.assert_allclose(found, exact, rtol=1e-3, atol=1e-3)
    assert 0.6 < np.var(found, axis=0).min()


def test_verdict_of_a_flow_sees_what_is_unfinished_and_what_is_too_narrow(getkey):
    """Stein's identities at the last step: a few steps from afar, 20 particles in 30 dimensions, and a sound cloud."""
    target = pf.from_logdensity(lambda x: -0.5 * jnp.sum((x - 3.0) ** 2), jnp.zeros(2))
    wide = pf.from_logdensity(lambda x: -0.5 * jnp.sum(x**2), jnp.zeros(30))
    settings = {"key": getkey(), "progress": False}
    sound = pf.sample(target, pf.CoinSVGD(30), num_steps=300, **settings)
    early = pf.sample(target, pf.SVGD(30), num_steps=3, **settings)
    narrow = pf.sample(wide, pf.CoinSVGD(20), num_steps=300, **settings)
    assert sound.verdict.ok, sound.verdict.reasons
    variance = sound.draws("x").var(0).mean()
    np.testing.assert_allclose(sound.verdict.details["stein_scale"], variance, rtol=0.02)
    for posterior, what in ((early, "have not arrived"), (narrow, "too narrow")):
        assert posterior.verdict.status == "doubtful"
        assert any(what in reason for reason in posterior.verdict.reasons), posterior.verdict.reasons


@pytest.mark.slow
def test_random_batches_settle_near_the_plain_flow(getkey):
    """Groups of 10 of 100 particles, falling learning rate."""
    schedule = optax.exponential_decay(0.5, 60, 0.7)
    kernel = pf.SVGD(100, optimizer=optax.sgd(schedule), random_batch=10)
    found = np.asarray(trajectory(kernel, gaussian(), jax.random.normal(getkey(), (100, 2)), 800, getkey())[-1])
    np.testing.assert_allclose(found.mean(0), MEAN, atol=0.1)
    ratio = np.cov(found.T) / np.linalg.inv(PRECISION)
    assert 0.75 < ratio[0, 0] < 1.2, ratio
    assert 0.75 < ratio[1, 1] < 1.2, ratio


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: pf.SVGD(10, random_batch=1), "random_batch=1"),
        (lambda: pf.CoinSVGD(10, random_batch=11), "random_batch=11"),
        (lambda: pf.SVGD(10, preconditioner="hessian"), "expected AverageHessian"),
        (lambda: pf.SVGD(10, kernel=Scaled(RBF(), 1.0), preconditioner=AverageHessian()), "expected a radial kernel"),
        (lambda: AverageHessian(floor=0.0), "floor=0.0"),
        (lambda: EnsembleCovariance(shrinkage=1.0), "shrinkage=1.0"),
    ],
)
def test_bad_settings_are_refused_by_name(build, message):
    with pytest.raises(ValueError, match=message):
        build()
