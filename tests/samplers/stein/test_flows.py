"""KSD descent, MMD flow and birth-death Langevin dynamics against their definitions."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import pushforward as pf
from pushforward.samplers.engine import reduce_pairs
from pushforward.samplers.pairs import IMQ, RBF, Laplace, stein_kernel_rows
from pushforward.samplers.stein import Annealing
from pushforward.samplers.stein._birth_death import _jumps


def banana(x):
    return -0.5 * x[0] ** 2 - 2.0 * (x[1] - x[0] ** 2) ** 2


def imq(x, y):
    return (1.0 + jnp.sum((x - y) ** 2) / 1.7**2) ** -0.5


def stein_kernel(logdensity, x, y):
    """From the definition, by automatic differentiation."""
    s, r = jax.grad(logdensity)(x), jax.grad(logdensity)(y)
    mixed = jnp.trace(jax.jacfwd(jax.grad(imq, argnums=0), argnums=1)(x, y))
    return imq(x, y) * s @ r + s @ jax.grad(imq, 1)(x, y) + r @ jax.grad(imq, 0)(x, y) + mixed


def test_stein_kernel_equals_its_definition(getkey):
    x = jax.random.normal(getkey(), (11, 2)) + 5.0
    scores = jax.vmap(jax.grad(banana))(x)
    rows = (x - 5.0, scores)
    found = reduce_pairs(stein_kernel_rows, (IMQ(1.7), jnp.asarray(1.7**2)), rows, rows, weight=jnp.ones(11))
    exact = jax.jit(jax.vmap(lambda a: jnp.sum(jax.vmap(lambda b: stein_kernel(banana, a, b))(x))))(x)
    np.testing.assert_allclose(found, exact, rtol=1e-9)


def test_ksd_descent_follows_the_gradient_through_the_scores(getkey):
    x = jax.random.normal(getkey(), (9, 2))
    kernel = pf.KSDDescent(9, kernel=IMQ(1.7)).bind(pf.from_logdensity(banana, jnp.zeros(2)), 0)

    def half_squared(x):
        return 0.5 * jnp.mean(jax.vmap(lambda a: jax.vmap(lambda b: stein_kernel(banana, a, b))(x))(x))

    @jax.jit
    def both(x):
        at = kernel.evaluate(x, jnp.ones(9, bool), None)
        direction, _, statistics = kernel.direction(getkey(), x, at, jnp.asarray(0), (), None)
        return direction, -9 * jax.grad(half_squared)(x), statistics["ksd"], jnp.sqrt(2.0 * half_squared(x))

    direction, exact, ksd, root = both(x)
    np.testing.assert_allclose(direction, exact, rtol=1e-8, atol=1e-11)
    np.testing.assert_allclose(ksd, root, rtol=1e-10)


def test_no_square_matrix_of_the_dimension_in_ksd_descent(getkey):
    """Hessians enter through products with vectors: nothing of shape (d, d), let alone (n, d, d), is formed."""
    kernel = pf.CoinKSDD(5).bind(pf.from_logdensity(lambda x: -jnp.sum(jnp.cosh(x)), jnp.zeros(37)), 0)
    state = kernel.init(getkey(), jax.random.normal(getkey(), (5, 37)))
    program = str(jax.make_jaxpr(kernel.step)(getkey(), state))
    assert "5,37]" in program
    assert "37,37]" not in program


@pytest.mark.slow
def test_particles_on_an_axis_of_symmetry_stay_there_and_annealing_spreads_them(getkey):
    """Two modes; all particles start half-way. The descent's known failure, and the remedy its docstring names."""

    def modes(x):
        return jnp.logaddexp(
            -2.0 * jnp.sum((x - jnp.asarray([3.0, 0.0])) ** 2), -2.0 * jnp.sum((x + jnp.asarray([3.0, 0.0])) ** 2)
        )

    target = pf.from_logdensity(modes, jnp.zeros(2))
    start = jnp.stack([jnp.zeros(20), jnp.linspace(-1.0, 1.0, 20)], axis=1)
    settings = {"key": getkey(), "num_steps": 200, "progress": False}
    stuck = pf.sample(target, pf.KSDDescent(20), init=start, **settings)
    assert np.abs(stuck.data["posterior"]["x"].values[0, :, 0]).max() < 1e-6
    off = start.at[:, 0].set(0.1 * jax.random.normal(getkey(), (20,)))
    free = pf.sample(target, pf.SVGD(20, annealing=Annealing(100, num_cycles=1)), init=off, **settings)
    assert {-1.0, 1.0} == set(np.sign(free.data["posterior"]["x"].values[0, :, 0]))


def test_mmd_flow_follows_the_gradient_of_the_discrepancy(getkey):
    target = pf.from_logdensity(lambda x: -0.5 * jnp.sum(x**2), jnp.zeros(2))
    draws = jax.random.normal(getkey(), (31, 2))
    x = 2.0 + jax.random.normal(getkey(), (7, 2))
    kernel = pf.MMDFlow(draws, 7, kernel=IMQ(1.7)).bind(target, 0)

    def half_squared(x):
        own = jnp.mean(jax.vmap(lambda a: jax.vmap(lambda b: imq(a, b))(x))(x))
        return 0.5 * own - jnp.mean(jax.vmap(lambda a: jax.vmap(lambda b: imq(a, b))(draws))(x))

    noisy = pf.MMDFlow(draws, 7, kernel=IMQ(1.7), noise=1.0, noise_steps=10).bind(target, 0)

    def witness(z):
        return jnp.mean(jax.vmap(lambda b: imq(z, b))(x)) - jnp.mean(jax.vmap(lambda b: imq(z, b))(draws))

    @jax.jit
    def directions(key):
        at = kernel.evaluate(x, jnp.ones(7, bool), None)
        others = jax.vmap(lambda step: noisy.direction(key, x, at, step, (), None)[0])(jnp.asarray([0, 4, 10, 11]))
        xi = jax.vmap(lambda i: jax.random.normal(jax.random.fold_in(key, i), (2,)))(jnp.arange(7))
        probed = [-jax.vmap(jax.grad(witness))(x + beta * xi) for beta in (1.0, 0.6, 0.0, 0.0)]
        return kernel.direction(key, x, at, jnp.asarray(0), (), None)[0], -7 * jax.grad(half_squared)(x), others, probed

    found, exact, others, probed = directions(getkey())
    np.testing.assert_allclose(found, exact, rtol=1e-9, atol=1e-12)
    # The gradient of the witness at noisy points: all of beta_0 at first, four tenths less at step 4 of 10, then none.
    np.testing.assert_allclose(others, jnp.stack(probed), rtol=1e-9, atol=1e-12)


@pytest.mark.slow
def test_mmd_flow_compresses_draws(getkey):
    """Twenty particles for 2,000 draws: mean and covariance far nearer than those of 20 of the draws."""
    root = jnp.asarray([[1.0, 0.0], [1.5, 0.5]])
    draws = jax.random.normal(getkey(), (2000, 2)) @ root.T
    target = pf.from_logdensity(lambda x: -0.5 * jnp.sum(jnp.linalg.solve(root, x) ** 2), jnp.zeros(2))
    flow = pf.MMDFlow(draws, 20, optimizer=optax.adagrad(0.3), noise=0.3, noise_steps=150)
    x = pf.sample(target, flow, key=getkey(), num_steps=400, progress=False).data["posterior"]["x"].values[0]
    np.testing.assert_allclose(x.mean(0), draws.mean(0), atol=0.03)
    ratio = np.cov(x.T) / np.cov(np.asarray(draws).T)
    assert 0.75 < ratio.min(), ratio
    assert ratio.max() < 1.15, ratio


def test_births_and_deaths_have_their_probabilities(getkey):
    """Each event alone: z-tests of 12 frequencies over 20,000 keys at a family-wise rate of 1e-6."""
    excess = jnp.asarray([0.5, -0.8, 0.0, 1.5, -0.1, 0.3])
    keys = jax.random.split(getkey(), 20_000)
    jumps = jax.jit(lambda alone: jax.vmap(lambda k: _jumps(k, alone, jnp.ones(6, bool)))(keys))
    for i in range(6):
        source, births, deaths = jumps(jnp.where(jnp.arange(6) == i, excess, 0.0))
        rate = 1.0 - np.exp(-abs(float(excess[i])))
        for count, expected in ((births, rate * (excess[i] < 0)), (deaths, rate * (excess[i] > 0))):
            sd = np.sqrt(expected * (1 - expected) / 20_000)
            assert abs(float(jnp.mean(count)) - expected) <= 5.5 * sd
        changed = np.asarray(source) != np.arange(6)
        # A death changes the particle itself, a birth one of the others, all equally often.
        if excess[i] > 0:
            assert not changed[:, np.arange(6) != i].any()
        elif excess[i] < 0:
            assert not changed[:, i].any()
            share = changed[:, np.arange(6) != i].mean(0)
            np.testing.assert_allclose(share, rate / 5, atol=5.5 * np.sqrt(rate / 5 / 20_000))
            assert (np.asarray(source)[changed] == i).all()


def test_the_dead_neither_bear_nor_are_copied(getkey):
    alive = jnp.asarray([True, False, True, True, False])
    excess = jnp.asarray([9.0, -9.0, -9.0, 9.0, 9.0])
    source, _, _ = jax.jit(jax.vmap(lambda k: _jumps(k, excess, alive)))(jax.random.split(getkey(), 200))
    source = np.asarray(source)
    assert (source[:, [1, 4]] == [1, 4]).all()
    assert np.isin(source[:, [0, 2, 3]], [0, 2, 3]).all()


def test_birth_and_death_move_mass_between_modes(getkey, figure):
    """Modes of weights 0.8 and 0.2 and a gap that Langevin dynamics does not cross; half start in each."""

    def modes(x):
        left, right = -0.5 * jnp.sum((x + 5.0) ** 2) / 0.25, -0.5 * jnp.sum((x - 5.0) ** 2) / 0.25
        return jnp.logaddexp(jnp.log(0.8) + left, jnp.log(0.2) + right)

    target = pf.from_logdensity(modes, jnp.zeros(1))
    start = jnp.where(jnp.arange(400) < 200, -5.0, 5.0)[:, None] + 0.5 * jax.random.normal(getkey(), (400, 1))
    share = {}
    for rate in (0.0, 1.0):
        kernel = pf.BirthDeath(0.02, 400, rate=rate, bandwidth=0.15)
        x = pf.sample(target, kernel, key=getkey(), num_steps=400, init=start, progress=False)
        share[rate] = float((x.data["posterior"]["x"].values < 0).mean())
    figure("birth-death Langevin, two separated modes: weight of the heavier (0.8)", share[1.0], "0.74 to 0.86")
    assert share[0.0] == 0.5
    assert 0.74 < share[1.0] < 0.86, share


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: pf.KSDDescent(1), "num_particles=1"),
        (lambda: pf.CoinKSDD(5, kernel=Laplace(1.0)), "twice differentiable"),
        (lambda: pf.CoinKSDD(5, alpha=-1.0), "alpha=-1.0"),
        (lambda: pf.BirthDeath(0.0), "step_size=0.0"),
        (lambda: pf.BirthDeath(0.1, rate=-1.0), "rate=-1.0"),
        (lambda: pf.MMDFlow(jnp.zeros((5, 2)), noise=-1.0), "noise=-1.0"),
        (
            lambda: pf.MMDFlow(jnp.zeros((5, 3)), kernel=RBF(1.0)).bind(
                pf.from_logdensity(lambda x: jnp.sum(x), jnp.zeros(2)), 0
            ),
            "expected draws as positions",
        ),
    ],
)
def test_bad_settings_are_refused_by_name(build, message):
    with pytest.raises(ValueError, match=message):
        build()
