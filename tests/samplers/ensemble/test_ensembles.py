"""Langevin ensembles, consensus methods and Kalman methods: what is special to each."""

from __future__ import annotations

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import registry
from tiers import fast

import pushforward as pf
from pushforward.samplers import CBO, CBS, EKI, EKS
from pushforward.samplers._ensemble import particle_normals

DIM, COUNT = 10, 14


def linear_problem(dim=DIM, num_data=12):
    """A linear inverse problem, with the mean and covariance of its posterior."""
    rng = np.random.default_rng(5)
    matrix = rng.normal(size=(num_data, dim))
    noise = 0.5 * np.eye(num_data) + 0.1
    prior_mean, prior = rng.normal(size=dim), np.diag(rng.uniform(0.5, 2.0, dim))
    data = matrix @ rng.normal(size=dim) + rng.normal(size=num_data)
    precision = matrix.T @ np.linalg.solve(noise, matrix) + np.linalg.inv(prior)
    covariance = np.linalg.inv(precision)
    mean = covariance @ (matrix.T @ np.linalg.solve(noise, data) + np.linalg.solve(prior, prior_mean))
    gaussian = np.linalg.slogdet(2 * np.pi * (matrix @ prior @ matrix.T + noise))[1]
    away = data - matrix @ prior_mean
    evidence = -0.5 * gaussian - 0.5 * away @ np.linalg.solve(matrix @ prior @ matrix.T + noise, away)
    rows = jnp.asarray(matrix)
    target = pf.from_forward_map(
        lambda x: rows @ x, data, noise_covariance=noise, prior_mean=prior_mean, prior_covariance=prior
    )
    return target, mean, covariance, evidence


@functools.partial(jax.jit, static_argnums=3)
def long_run(kernel, key, start, num_steps, centre):
    """Moments around ``centre``, and around each cloud's own mean, over the last nine tenths of a run of clouds."""
    state = jax.vmap(lambda x: kernel.init(key, x))(start)
    burn = num_steps // 10

    def body(carry, i):
        state, first, second, inside = carry
        keys = jax.random.split(jax.random.fold_in(key, i), start.shape[0])
        state, _ = jax.vmap(kernel.step)(keys, state)
        away = (state.particles - centre).reshape(-1, start.shape[2])
        used = (i >= burn) / away.shape[0] / (num_steps - burn)
        own = (state.particles - state.particles.mean(1, keepdims=True)).reshape(-1, start.shape[2])
        sums = first + used * away.sum(0), second + used * away.T @ away, inside + used * own.T @ own
        return (state, *sums), None

    dim = start.shape[2]
    start_sums = (state, jnp.zeros(dim), jnp.zeros((dim, dim)), jnp.zeros((dim, dim)))
    (state, first, second, inside), _ = jax.lax.scan(body, start_sums, jnp.arange(num_steps))
    return first, second, inside, state.failed_step


def errors(kernel, num_steps, getkey, clouds=8):
    """Largest error of the mean in sds, and relative Frobenius error of the whitened covariance."""
    target, mean, covariance, _ = linear_problem()
    start = jax.random.normal(getkey(), (clouds, COUNT, DIM))
    first, second, _, failed = long_run(kernel.bind(target, 0), getkey(), start, num_steps, mean)
    assert (np.asarray(failed) == -1).all()
    inverse = np.linalg.inv(np.linalg.cholesky(covariance))
    found = inverse @ (np.asarray(second) - np.outer(first, first)) @ inverse.T
    return np.abs(inverse @ np.asarray(first)).max(), np.linalg.norm(found - np.eye(DIM)) / np.sqrt(DIM)


@pytest.mark.slow
def test_corrected_ensembles_are_right_with_few_particles(getkey, figure):
    """Linear Gaussian posterior, d = 10, n = 14: mean and covariance within 5 %; 50 % off without the correction."""
    for name, kernel in (("ALDI", pf.ALDI(COUNT, step_size=0.1)), ("EKS, corrected", EKS(COUNT, step_size=0.1))):
        mean, covariance = errors(kernel, 10_000, getkey)
        figure(f"{name}: error of the mean in sd, d = 10, n = 14", mean, "<= 0.05")
        figure(f"{name}: relative error of the covariance, d = 10, n = 14", covariance, "<= 0.05")
        assert mean <= 0.05
        assert covariance <= 0.05
    mean, covariance = errors(EKS(COUNT, step_size=0.1, correction=False), 3_000, getkey)
    figure("EKS, uncorrected: relative error of the covariance, d = 10, n = 14", covariance, ">= 0.5")
    assert covariance >= 0.5


def test_correction_is_needed_and_enough_with_few_particles(getkey):
    """The fast form: d = 3, n = 7, where the uncorrected covariance is short by more than a fifth."""
    rng = np.random.default_rng(1)
    matrix = jnp.asarray(rng.normal(size=(4, 3)))
    problem = {"noise_covariance": 1.0, "prior_mean": np.zeros(3), "prior_covariance": 1.0}
    target = pf.from_forward_map(lambda x: matrix @ x, np.zeros(4), **problem)
    exact = np.linalg.inv(np.asarray(matrix.T @ matrix) + np.eye(3))
    inverse = np.linalg.inv(np.linalg.cholesky(exact))
    start = jax.random.normal(getkey(), (16, 7, 3))
    for kernel in (pf.ALDI(7), EKS(7), EKS(7, correction=False)):
        _, second, inside, _ = long_run(kernel.bind(target, 0), getkey(), start, 600, jnp.zeros(3))
        total, own = (np.diag(inverse @ np.asarray(x) @ inverse.T).mean() for x in (second, inside))
        if kernel.correction:
            np.testing.assert_allclose([total, own * 7 / 6], 1.0, atol=0.1)
        else:
            # In the mean field of the cloud a share (d + 1) / n is missing.
            assert own * 7 / 6 < 0.75


@pytest.mark.parametrize("build", [lambda: pf.ALDI(8), pytest.param(lambda: CBS(30), marks=pytest.mark.slow)])
def test_a_change_of_coordinates_changes_nothing(build, getkey):
    """Path by path under scalings and lower-triangular maps: 20 steps, to rounding."""
    matrix = jnp.asarray([[1e-3, 0.0, 0.0], [5.0, 20.0, 0.0], [-300.0, 40.0, 1e3]])
    shift = jnp.asarray([1.0, -30.0, 500.0])

    def density(x):
        return -0.25 * jnp.sum((x - 1.0) ** 4) - 0.5 * x[0] * x[1] - x[2] ** 2

    inverse = jnp.linalg.inv(matrix)
    plain = build().bind(pf.from_logdensity(density, jnp.zeros(3)), 0)
    mapped = build().bind(pf.from_logdensity(lambda y: density(inverse @ (y - shift)), jnp.zeros(3)), 0)
    start = jax.random.normal(getkey(), (plain.num_particles, 3))
    one, two = plain.init(getkey(), start), mapped.init(getkey(), start @ matrix.T + shift)
    for key in jax.random.split(getkey(), 20):
        one, two = (
            jax.jit(lambda k, s: plain.step(k, s))(key, one)[0],
            jax.jit(lambda k, s: mapped.step(k, s))(key, two)[0],
        )
    np.testing.assert_allclose((two.particles - shift) @ inverse.T, one.particles, rtol=1e-6, atol=1e-6)


def test_a_cloud_that_starts_far_too_wide_does_not_explode(getkey):
    target = pf.from_logdensity(lambda x: -0.5 * jnp.sum(x**2) * 1e6, jnp.zeros(3))
    start = 100.0 * jax.random.normal(getkey(), (20, 3))
    posterior = pf.sample(
        target, pf.ALDI(20), key=getkey(), num_steps=3000, num_warmup=1500, init=start, progress=False
    )
    np.testing.assert_allclose(posterior.draws("x").std(0), 1e-3, rtol=0.15)


def test_consensus_finds_the_best_of_many_modes(getkey):
    """A bumpy density in two dimensions with a jump, without derivatives; and the mode of a constrained site."""

    def density(x):
        bumps = jnp.sum(jnp.cos(6.0 * (x - 0.7)) - 1.0)
        return 5.0 * bumps - jnp.sum((x - 0.7) ** 2) - jnp.where(x[0] > 1.2, 5.0, 0.0)

    posterior = pf.sample(
        pf.from_logdensity(density, jnp.zeros(2)), CBO(300), key=getkey(), num_steps=1500, num_chains=3, progress=False
    )
    np.testing.assert_allclose(posterior.draws("x"), 0.7, atol=1e-5)
    assert posterior.data["optimization"]["converged"].values.all()
    gamma = pf.from_logdensity(lambda x: 2.0 * jnp.log(x) - x, jnp.ones(()), jax_positive())
    found = pf.sample(gamma, CBO(100), key=getkey(), num_steps=1000, progress=False)
    np.testing.assert_allclose(found.draws("x"), 2.0, atol=1e-4)


@pytest.mark.parametrize("build", [lambda: CBO(20), lambda: CBS(20)])
def test_black_boxes_will_do(build, getkey):
    """A density on the host that nothing can differentiate."""

    def density(x):
        shape = jax.ShapeDtypeStruct((), x.dtype)
        return jax.pure_callback(lambda v: np.asarray(-0.5 * np.sum(v**2)), shape, x, vmap_method="sequential")

    target = pf.from_logdensity(density, jnp.zeros(2))
    posterior = pf.sample(target, build(), key=getkey(), num_steps=5, progress=False)
    assert np.isfinite(posterior.draws("x")).all()


@pytest.mark.parametrize("build", [lambda: CBO(20), lambda: CBS(20)])
def test_a_cloud_of_density_zero_is_not_drawn_to_the_origin(build, getkey):
    target = pf.from_logdensity(lambda x: jnp.where(jnp.sum(x**2) < 1.0, 0.0, -jnp.inf), jnp.zeros(2))
    kernel = build().bind(target, 0)
    start = 5.0 + jax.random.normal(getkey(), (20, 2))
    state = jax.jit(lambda k, x: kernel.step(k, kernel.init(k, x))[0])(getkey(), start)
    np.testing.assert_array_equal(state.particles, start)
    assert (state.failed_step == 0).all()


@pytest.mark.parametrize("exploration", fast(["cloud", "component", "isotropic"], "cloud"))
def test_a_step_of_consensus_is_the_formula(exploration, getkey):
    """Weights p^a without Jacobian, drift and noise of one step, written anew in NumPy for given noise."""
    a, drift, noise, step = 2.0, 0.8, 0.5, 0.1
    settings = {"inverse_temperature": a, "drift": drift, "noise": noise, "step_size": step}
    target = pf.from_logdensity(lambda x: -0.5 * jnp.sum(x**2), jnp.ones(2), jax_positive())
    kernel = CBO(6, exploration=exploration, **settings).bind(target, 0)
    x, key = np.array(jax.random.normal(getkey(), (6, 2))), getkey()
    state = jax.jit(lambda k, x: kernel.step(k, kernel.init(k, x))[0])(key, jnp.asarray(x))
    weights = np.exp(-0.5 * a * (np.exp(x) ** 2).sum(1))
    consensus = weights @ x / weights.sum()
    away = x - consensus
    width = {
        "cloud": np.sqrt((away**2).mean(0)),
        "component": away,
        "isotropic": np.sqrt((away**2).sum(1))[:, None],
    }[exploration]
    normal = np.asarray(particle_normals(key, jnp.asarray(x)))
    np.testing.assert_allclose(state.particles, x - drift * step * away + noise * np.sqrt(step) * width * normal)
    np.testing.assert_allclose(state.memory.consensus, consensus)


def jax_positive():
    from numpyro.distributions import constraints

    return constraints.positive


def test_consensus_sampling_is_exact_for_gaussians_of_any_scale(getkey):
    scale = jnp.asarray([1e-3, 1.0, 1e3, 5.0])
    target = pf.from_logdensity(lambda x: -0.5 * jnp.sum((x / scale - 2.0) ** 2), jnp.zeros(4))
    posterior = pf.sample(target, CBS(300), key=getkey(), num_steps=800, num_warmup=400, progress=False)
    whitened = posterior.draws("x") / np.asarray(scale)
    np.testing.assert_allclose(whitened.mean(0), 2.0, atol=0.05)
    np.testing.assert_allclose(whitened.var(0), 1.0, atol=0.08)


def test_inversion_reaches_the_posterior_and_then_the_fit(getkey):
    """Linear: the Gaussian posterior with 2,000 particles; without an end, the misfit of least squares."""
    target, mean, covariance, _ = linear_problem(4, 6)
    posterior = pf.sample(target, EKI(2000), key=getkey(), num_steps=100, progress=False)
    draws = posterior.draws("x")
    sd = np.sqrt(np.diag(covariance))
    np.testing.assert_allclose((draws.mean(0) - mean) / sd, 0, atol=0.12)
    np.testing.assert_allclose(np.cov(draws.T) / np.outer(sd, sd), covariance / np.outer(sd, sd), atol=0.12)
    assert posterior.verdict.status == "ok", posterior.verdict.reasons
    fit = pf.sample(target, EKI(200, final_time=math.inf), key=getkey(), num_steps=60, progress=False)
    assert fit.draws("x").std(0).max() < 0.2 * sd.max()


def test_a_forward_map_is_a_density_to_every_other_sampler(getkey):
    """Its evidence by SMC, and its density in closed form."""
    target, mean, covariance, evidence = linear_problem(3, 5)
    posterior = pf.sample(target, pf.SMC(500), key=getkey(), num_steps=50, progress=False)
    attrs = posterior.data.attrs
    assert abs(attrs["log_evidence"] - evidence) < 5 * attrs["log_evidence_error"]
    at_mean = evidence - 0.5 * np.linalg.slogdet(2 * np.pi * covariance)[1]
    np.testing.assert_allclose(target.logdensity(jnp.asarray(mean)), at_mean, rtol=1e-10)


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: pf.ALDI(4).bind(registry.gaussian_target(), 0), "more than dim \\+ 1 = 4 particles"),
        (lambda: CBS(4).bind(registry.gaussian_target(), 0), "more than dim"),
        (lambda: pf.ALDI(10, step_size=0.0), "step_size=0.0"),
        (lambda: EKS(10).bind(registry.gaussian_target(), 0), "pf.from_forward_map"),
        (lambda: EKI(10).bind(registry.gaussian_target(), 0), "pf.from_forward_map"),
        (lambda: EKI(10, final_time=0.0), "final_time=0.0"),
        (lambda: CBO(10, noise=2.0), "would not contract"),
        (lambda: CBO(10, exploration="far"), "exploration='far'"),
        (lambda: CBO(10, exploration="isotropic").bind(registry.gaussian_target(), 0), "of 3 unconstrained dimensions"),
        (lambda: CBO(10, inverse_temperature=-1.0), "inverse_temperature=-1.0"),
        (lambda: CBS(10, ess_fraction=0.0), "ess_fraction=0.0"),
    ],
)
def test_bad_settings_are_refused(build, message):
    with pytest.raises(ValueError, match=message):
        build()


def test_bad_inverse_problems_are_refused():
    good = {"noise_covariance": 1.0, "prior_mean": np.zeros(2), "prior_covariance": 1.0}
    for change, data, message in [
        ({}, np.zeros(3), "expected one of shape \\(3,\\)"),
        ({"prior_covariance": -1.0}, np.zeros(2), "prior_covariance is not positive definite"),
        ({"noise_covariance": np.eye(3)}, np.zeros(2), "noise_covariance has shape \\(3, 3\\)"),
        ({"prior_mean": np.zeros((2, 1))}, np.zeros(2), "prior_mean has shape"),
    ]:
        with pytest.raises(ValueError, match=message):
            pf.from_forward_map(lambda x: x, data, **{**good, **change})
