"""Coin samplers on the sparse Dirichlet: nobody outside, nobody lost, as near as independent draws."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpyro.distributions import constraints

import pushforward as pf

DIM, PARTICLES = 20, 50
ALPHA = 0.1 + np.array([90.0, 5.0, 5.0] + [0.0] * (DIM - 3))


def energy_distance(x, y):
    mean = lambda a, b: np.mean(np.sqrt(np.sum((a[:, None] - b[None]) ** 2, axis=-1)))  # noqa: E731
    return 2.0 * mean(x, y) - mean(x, x) - mean(y, y)


@pytest.mark.slow
@pytest.mark.parametrize("build", [pf.CoinMirroredSVGD, pf.CoinSVMD])
def test_sparse_dirichlet_without_a_learning_rate(build, getkey, figure):
    """Energy distance to 1,000 exact draws, against what 50 exact draws have on average (0.0010)."""
    alpha = jnp.asarray(ALPHA)
    target = pf.from_logdensity(
        lambda x: jnp.sum((alpha - 1.0) * jnp.log(x)), jnp.full(DIM, 1.0 / DIM), constraints.simplex
    )
    start = jax.random.dirichlet(getkey(), jnp.full(DIM, 5.0), (PARTICLES,))
    positions = jax.vmap(lambda x: target.program.invert({"x": x})[0])(start)
    posterior = pf.sample(target, build(PARTICLES), key=getkey(), num_steps=500, init=positions, progress=False)
    x = posterior.data["posterior"]["x"].values[0]
    assert x.shape == (PARTICLES, DIM)
    assert np.isfinite(x).all()
    assert x.min() >= 0.0
    np.testing.assert_allclose(x.sum(1), 1.0, rtol=1e-12)
    generator = np.random.default_rng(7)
    exact = generator.dirichlet(ALPHA, 1000)
    independent = np.mean([energy_distance(generator.dirichlet(ALPHA, PARTICLES), exact) for _ in range(20)])
    ratio = float(energy_distance(x, exact) / independent)
    figure(f"{build.__name__}, sparse Dirichlet: energy distance over that of independent draws", ratio, "at most 1")
    assert ratio <= 1.0


@pytest.mark.parametrize("build", [pytest.param(pf.CoinMirroredSVGD, marks=pytest.mark.slow), pf.CoinSVMD])
def test_no_particle_is_lost_at_the_boundary_in_single_precision(build, getkey):
    """Sixty steps in float32 of a density that is infinite on three sides."""
    with jax.enable_x64(False):
        alpha = jnp.asarray([3.0, 0.1, 0.1, 0.1], "float32")
        target = pf.from_logdensity(
            lambda x: jnp.sum((alpha - 1.0) * jnp.log(x)), jnp.full(4, 0.25, "float32"), constraints.simplex
        )
        kernel = build(12).bind(target, 0)
        step = jax.jit(lambda key, state: kernel.step(key, state))
        state = kernel.init(getkey(), 3.0 * jax.random.normal(getkey(), (12, 3), "float32"))
        for key in jax.random.split(getkey(), 60):
            state, _ = step(key, state)
        assert state.particles.dtype == jnp.float32
        assert bool(jnp.all(state.failed_step == -1))
        assert bool(jnp.all(jnp.isfinite(state.particles)))
