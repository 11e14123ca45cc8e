"""One convention of temperature for all samplers: exp(-U / T)."""

from __future__ import annotations

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import pushforward as pf

ROOT = 2.0
"""Square root of the temperature: a power of two, so that units change without rounding."""

SETTINGS = {
    "SGLD": lambda root: pf.SGLD(0.1, temperature=root**2),
    "SGHMC": lambda root: pf.SGHMC(0.2, noise=0.5 * root**2, temperature=root**2),
    "BAOAB": lambda root: pf.BAOAB(0.2, temperature=root**2),
    # The thermostat sees squared momenta.
    "SGNHT": lambda root: pf.SGNHT(0.2, adaptation=0.1 / root**2, temperature=root**2),
    # Steps are eps times the sign of the gradient, hence in units of the position.
    "PSGLD": lambda root: pf.PSGLD(0.1 * root, floor=0.1 * root, curvature=True, temperature=root**2),
    "CyclicalSGLD": lambda root: pf.CyclicalSGLD(0.2, cycle_length=6, temperature=root**2),
    "EntropyMCMC": lambda root: pf.EntropyMCMC(0.1, eta=0.3, temperature=root**2),
    "StructuredSGLD": lambda root: pf.StructuredSGLD(0.1, memory=3, stride=1, temperature=root**2),
    "StructuredSGLD, dropout": lambda root: pf.StructuredSGLD(0.1, dropout=0.5, memory=3, temperature=root**2),
}


@eqx.filter_jit
def path(kernel, key, x):
    """The chain's path over a few steps."""

    def advance(state, key):
        state, _ = kernel.step(key, state)
        return state, kernel.position(state)

    return jax.lax.scan(advance, kernel.init(key, x), jax.random.split(key, 8))[1]


@pytest.mark.parametrize("name", SETTINGS)
def test_temperature_is_a_change_of_units_on_a_quadratic(name, getkey):
    """U / T of x is U of x / sqrt(T): the same keys give the same path in these units."""
    precision = jnp.asarray([[2.0, 0.5, 0.3], [0.5, 1.0, 0.0], [0.3, 0.0, 1.5]])

    def logdensity(p):
        x = jnp.concatenate([p["a"], p["b"]])
        return -0.5 * x @ precision @ x

    target = pf.from_logdensity(logdensity, {"a": jnp.zeros(1), "b": jnp.zeros(2)})
    key, start = getkey(), jax.random.normal(getkey(), (3,))
    plain, hot = (SETTINGS[name](root).bind(target, 0) for root in (1.0, ROOT))
    found = path(hot, key, ROOT * start)
    np.testing.assert_allclose(found, ROOT * path(plain, key, start), rtol=1e-9, atol=1e-9)
    assert np.std(found[-1]) > 0


def test_known_gradient_noise_is_taken_off_the_noise_that_is_added(getkey):
    """A step of SGHMC on a flat density is friction and noise alone: (1 - a) m + sqrt(2 a T - eps^2 V) xi."""
    target = pf.from_logdensity(lambda x: 0.0 * jnp.sum(x), jnp.zeros(3))
    step_size, friction, noise, key = 0.2, 0.3, 8.0, getkey()
    sampler = pf.SGHMC(step_size, friction=friction, noise=noise).bind(target, 0)
    state = sampler.init(getkey(), jnp.zeros(3))
    new = jax.jit(lambda k, s: sampler.step(k, s)[0])(key, state)
    added = np.sqrt(2 * friction - step_size**2 * noise) * np.asarray(jax.random.normal(key, (3,)))
    momentum = (1 - friction) * np.asarray(state.dynamics) + added
    np.testing.assert_allclose(new.dynamics, momentum, rtol=1e-6)
    np.testing.assert_allclose(new.position, step_size * momentum, rtol=1e-6)
