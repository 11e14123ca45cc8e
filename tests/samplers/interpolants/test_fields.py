"""Exact fields against the equations they solve, on every path, next to both ends of time too."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tiers import fast

import pushforward as pf

si = pf.interpolants
GAMMAS = [si.Brownian(), si.Brownian(0.3), si.Parabolic(), si.SineSquared(), si.Bump(), si.NoNoise()]
TWO_SIDED = [path(gamma) for path in (si.Linear, si.Trigonometric) for gamma in GAMMAS]
TWO_SIDED += [si.EncodingDecoding(gamma) for gamma in GAMMAS[:5]]
ONE_SIDED = [si.Mirror(gamma) for gamma in GAMMAS[:5]]
ONE_SIDED += [si.OneSidedLinear(), si.OneSidedTrigonometric(), si.VariancePreserving(), si.Cosine()]
ONE_SIDED += [si.VarianceExploding(0.01, 5.0), si.EDM(0.002, 5.0)]
PATHS = TWO_SIDED + ONE_SIDED
SOME = [
    TWO_SIDED[0],
    TWO_SIDED[4],
    TWO_SIDED[8],
    TWO_SIDED[15],
    ONE_SIDED[2],
    ONE_SIDED[7],
    ONE_SIDED[8],
    ONE_SIDED[10],
]
TIMES = jnp.array([1e-6, 0.1, 0.37, 0.5, 0.8, 1 - 1e-6])


def name(path: si.AbstractPath | int) -> str:
    if isinstance(path, int):
        return str(path)
    noise = getattr(path, "noise", None)
    return type(path).__name__ + ("" if noise is None else f"-{type(noise).__name__}")


def mixture(dim: int, num: int, seed: int) -> si.GaussianMixture:
    rng = np.random.default_rng(seed)
    factors = 0.4 * rng.normal(size=(num, dim, dim)) / dim**0.5
    covariances = 0.3 * np.eye(dim) + factors @ factors.swapaxes(1, 2)
    return si.GaussianMixture(jnp.asarray(rng.normal(size=num)), jnp.asarray(rng.normal(size=(num, dim))), covariances)


def fields(path: si.AbstractPath, dim: int) -> si.MixtureFields:
    return si.MixtureFields(path, *(mixture(dim, 2 + k, k) for k in range(path.num_ends)))


def cases(dims: list[int], chosen: list[tuple[si.AbstractPath, int]]) -> list:
    """Every path in every dimension; the fast tier compiles the chosen ones only."""
    return fast([(path, dim) for path in PATHS for dim in dims], *chosen, several=True)


@pytest.mark.parametrize(
    ("path", "dim"), cases([1, 2, 50], [(path, 2) for path in SOME] + [(TWO_SIDED[0], 50), (ONE_SIDED[0], 1)]), ids=name
)
def test_velocity_is_end_velocity_less_noise(path, dim, figure):
    """B = v - gamma gamma' s, where each of the three is computed on its own."""
    exact = fields(path, dim)
    points = jnp.asarray(np.random.default_rng(3).normal(size=(4, dim)))

    @jax.jit
    def off(t, x):
        b, v, s = exact.velocity(t, x), exact.end_velocity(t, x), exact.score(t, x)
        return (b - (v - path.spreading(t) * s)) / (1.0 + jnp.abs(b))

    error = jax.vmap(lambda t: jax.vmap(lambda x: off(t, x))(points))(TIMES)
    figure("Interpolants: b - (v - gamma gamma' s)", float(np.abs(error).max()), "< 1e-10")
    assert np.abs(error).max() < 1e-10


@pytest.mark.parametrize(("path", "dim"), cases([1, 2], [(path, 2) for path in SOME]), ids=name)
def test_fokker_planck(path, dim, figure):
    """D log rho / dt + div b + b . s = 0, all derivatives taken of the law itself."""
    exact = fields(path, dim)
    points = jnp.asarray(np.random.default_rng(3).normal(size=(4, dim)))

    @jax.jit
    def residual(t, x):
        rate = jax.grad(exact.log_prob, 0)(t, x)
        slope = jax.grad(exact.log_prob, 1)(t, x)
        divergence = jnp.trace(jax.jacfwd(exact.velocity, 1)(t, x))
        terms = jnp.stack([rate, divergence, exact.velocity(t, x) @ slope])
        return jnp.sum(terms) / (1.0 + jnp.max(jnp.abs(terms)))

    times = TIMES.at[3].set(0.51)
    error = jax.vmap(lambda t: jax.vmap(lambda x: residual(t, x))(points))(times)
    figure("Interpolants: residual of the Fokker-Planck equation", float(np.abs(error).max()), "< 1e-8")
    assert np.abs(error).max() < 1e-8


@pytest.mark.parametrize("path", fast(PATHS, *SOME[::3]), ids=name)
def test_conversions(path):
    """What follows from velocity and score alone agrees with conditional expectations taken directly."""
    exact, x = fields(path, 2), jnp.array([0.3, -0.7])

    class Converted(si.AbstractFields):
        path: si.AbstractPath

        def velocity(self, t, x, condition=None):
            return exact.velocity(t, x)

        def score(self, t, x, condition=None):
            return exact.score(t, x)

    converted = Converted(path)
    for t in jnp.array([0.1, 0.37, 0.8]):
        np.testing.assert_allclose(converted.end_velocity(t, x), exact.end_velocity(t, x), atol=1e-9)
        ends = list(zip(converted.ends(t, x), exact.ends(t, x), strict=True))
        for k, (mine, truth) in enumerate(ends):
            if abs(exact.path.coefficients(t)[k]) > 0:
                np.testing.assert_allclose(mine, truth, rtol=1e-7, atol=1e-7)
        back = path.interpolate(t, exact.ends(t, x), exact.noise(t, x))
        np.testing.assert_allclose(back, x, atol=1e-10)
    for t in jnp.array([0.0, 1.0]):
        assert all(np.isfinite(v).all() for v in (converted.noise(t, x), *converted.ends(t, x)))
