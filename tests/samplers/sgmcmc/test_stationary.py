"""Stationary laws on quadratics with gradient noise of known variance, and the order of the bias.

One run holds thousands of independent copies, one per coordinate, so that 1 % is at least five standard errors.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from oracles.gradient_noise import Noisy, long_run
from registry_sgmcmc import baoab
from tiers import fast

import pushforward as pf

COPIES = 4000
SCALE = 0.7
"""Posterior standard deviation."""
NOISE = 9.0
"""Variance of the gradient noise; the gradient's own is 1 / SCALE^2, about 2."""


def quadratic():
    return pf.from_logdensity(lambda x: -0.5 * jnp.sum(x**2) / SCALE**2, jnp.zeros(COPIES, "float32"))


def start(getkey, target):
    return SCALE * jax.random.normal(getkey(), (target.dim,), "float32")


def sgld_variance(eps):
    return (2 + eps * NOISE) / (2 / SCALE**2 - eps / SCALE**4)


def sghmc_variance(eps, friction, guess):
    heat = 1 + eps**2 * (NOISE - guess) / (2 * friction)
    return heat * SCALE**2 / (1 - eps**2 / (2 * SCALE**2 * (2 - friction)))


def baoab_variance(eps, friction):
    c = np.exp(-friction)
    return SCALE**2 * (1 + eps**2 * NOISE * (1 + c) / ((1 - c) * (4 - eps**2 / SCALE**2)))


CASES = {
    "SGLD": (lambda g: pf.SGLD(0.1, gradient=g), sgld_variance(0.1)),
    "SGHMC": (lambda g: pf.SGHMC(0.2, friction=0.3, gradient=g), sghmc_variance(0.2, 0.3, 0.0)),
    "SGHMC, noise known": (lambda g: pf.SGHMC(0.2, friction=0.3, noise=8.0, gradient=g), sghmc_variance(0.2, 0.3, 8.0)),
    "BAOAB": (lambda g: pf.BAOAB(0.2, friction=0.3, gradient=g), baoab_variance(0.2, 0.3)),
}


@pytest.mark.parametrize("name", fast(CASES, "SGLD", "BAOAB"))
def test_stationary_variance_is_that_of_the_formula(name, getkey, figure):
    build, expected = CASES[name]
    target = quadratic()
    kernel = build(Noisy()).bind(target, 0)
    squares, _, _ = long_run(getkey(), kernel, start(getkey, target), NOISE, 100, 1500)
    error = float(np.mean(squares)) / expected - 1
    figure(f"{name}: stationary variance with gradient noise, relative error against the formula", error, "0.01")
    assert abs(error) < 0.01
    # The noise matters: a formula without it would be far off.
    assert abs(expected / SCALE**2 - 1) > 0.03


def test_thermostat_recovers_noise_that_it_was_not_told(getkey, figure):
    """The friction settles where the momenta have temperature 1; many coordinates make it all but constant."""
    eps, base = 0.1, 0.1
    target = quadratic()
    kernel = pf.SGNHT(eps, friction=base, gradient=Noisy()).bind(target, 0)
    squares, _, statistics = long_run(getkey(), kernel, start(getkey, target), NOISE, 2000, 1500)
    friction = float(statistics["friction"])
    recovered = 2 * (friction - base) / eps**2
    variance = float(np.mean(squares)) / SCALE**2
    figure(
        "SGNHT: variance of gradient noise that it was not told, recovered / true", recovered / NOISE, "0.97 to 1.03"
    )
    figure("SGNHT: stationary variance / true, with that noise", variance, "0.99 to 1.01")
    assert abs(recovered / NOISE - 1) < 0.03
    assert abs(variance - 1) < 0.01
    assert baoab(eps, base, NOISE)(np.eye(1) * SCALE**2)[0, 0] / SCALE**2 > 1.3  # What an unwarned integrator does.


def quartic_draws(rng, size):
    """Exact draws from exp(-x^2 / 2 - x^4 / 4), by its distribution function on a fine grid."""
    grid = np.linspace(-5, 5, 200_001)
    mass = np.cumsum(np.exp(-0.5 * grid**2 - 0.25 * grid**4))
    return np.interp((np.arange(size) + rng.random(size)) / size, mass / mass[-1], grid)


def test_bias_is_of_first_order_for_euler_and_of_second_for_baoab(getkey, figure):
    """One step from the exact law may change means by O(eps^(p+1)) only, if the bias is to be O(eps^p).

    The mean of x^2 for Euler's step; for BAOAB that of m^2, and that of x^2, which changes at fourth order only. A
    million independent draws; quartic potential.
    """
    size = 1_000_000
    # Opposite momenta at the same places: what is odd in them has mean zero exactly.
    x = jnp.tile(quartic_draws(np.random.default_rng(1), size // 2), 2)
    m = jax.random.normal(getkey(), (size // 2,))
    m = m * jnp.sqrt(m.size / jnp.sum(m**2))
    m = jnp.concatenate([m, -m])
    target = pf.from_logdensity(lambda x: -jnp.sum(0.5 * x**2 + 0.25 * x**4), jnp.zeros(size))
    key = getkey()
    noise = jax.random.normal(key, (size,))

    def after(kernel, momentum=()):
        kernel = kernel.bind(target, 0)
        state = kernel.init(getkey(), x)._replace(dynamics=momentum)
        return jax.jit(lambda k, s: kernel.step(k, s)[0])(key, state)

    euler, splitting, fourth = [], [], []
    force = -x - x**3
    euler_sizes, splitting_sizes = (0.05, 0.1, 0.2), (0.1, 0.15, 0.225)
    for eps in euler_sizes:
        euler.append(float(jnp.mean(after(pf.SGLD(eps)).position ** 2 - x**2)))
    for eps in splitting_sizes:
        # The sampler joins two half kicks: back half a kick before its step, forth half a kick after it.
        new = after(pf.BAOAB(eps, friction=eps), m - 0.5 * eps * force)
        momentum = new.dynamics - 0.5 * eps * (new.position + new.position**3)
        # Control variates whose mean is zero whatever the sampler does with its noise.
        kicked, drawn = m + 0.5 * eps * force, np.sqrt(-np.expm1(-2 * eps)) * noise
        own = drawn**2 + np.expm1(-2 * eps) + 2 * np.exp(-eps) * kicked * drawn
        splitting.append(float(jnp.mean(momentum**2 - own - m**2)))
        base = x + 0.5 * eps * (1 + np.exp(-eps)) * kicked
        own = eps * base * drawn + 0.25 * eps**2 * (drawn**2 + np.expm1(-2 * eps))
        fourth.append(float(jnp.mean(new.position**2 - own - x**2)))
    for name, sizes, defects, order in (
        ("SGLD", euler_sizes, euler, 1),
        ("BAOAB", splitting_sizes, splitting, 2),
        ("BAOAB, x^2", splitting_sizes, fourth, 3),
    ):
        slope = float(np.polyfit(np.log(sizes), np.log(np.abs(defects)), 1)[0]) - 1
        figure(f"{name}: order of the bias in the step size", slope, f"{order} within 0.25")
        assert abs(slope - order) < 0.25, (name, defects)


DROPPED = (1 + 2 * np.sqrt(2 / np.pi)) / (1 + np.sqrt(2 / np.pi))


@pytest.mark.parametrize(("curvature", "expected"), fast([(False, DROPPED), (True, 1.0)], (True, 1.0), several=True))
def test_preconditioner_that_follows_the_position(curvature, expected, getkey):
    """N(0, 1) with M = 1 / (1 + |x|): without Gamma the chain draws from (1 + |x|) exp(-x^2 / 2)."""
    target = pf.from_logdensity(lambda x: -0.5 * jnp.sum(x**2), jnp.zeros(COPIES, "float32"))
    kernel = pf.PSGLD(0.02, decay=0.05, floor=1.0, curvature=curvature, gradient=Noisy()).bind(target, 0)
    x = np.sqrt(expected) * jax.random.normal(getkey(), (COPIES,), "float32")
    squares, _, _ = long_run(getkey(), kernel, x, 0.0, 300, 1500)
    assert float(np.mean(squares)) == pytest.approx(expected, rel=0.025)
