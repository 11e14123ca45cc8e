"""Minimisers of the quadratic objectives are the exact fields, and the objectives have finite variance at the ends."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tiers import fast

import pushforward as pf
from pushforward.samplers.interpolants._losses import needs_antithetic

si = pf.interpolants
QUANTITIES = ("velocity", "end_velocity", "score", "noise", "data")
PATHS = [
    si.Linear(),
    si.Trigonometric(),
    si.EncodingDecoding(),
    si.Mirror(),
    si.OneSidedLinear(),
    si.OneSidedTrigonometric(),
    si.VariancePreserving(),
    si.Cosine(),
    si.VarianceExploding(0.01, 5.0),
    si.EDM(0.002, 5.0),
]
NUM = 20_000
FALSE_ALARM = 5.2
"""Standard errors: a chance of 1e-6 over the comparisons of a test, of which there are five."""
CHANCES, MEANS = np.array([0.3, 0.7]), np.array([[-1.0, 0.8], [0.5, -1.5]])
VARIANCES = np.array([[0.3, 0.5], [0.2, 0.6]])
"""Two components for each of two ends, equal chances for both ends; paths with one end have the first."""


def predictions(path: si.AbstractPath, t, x, wrong: float = 1.0):
    """All five fields on the line, from the joint Gaussian law of each pair of components."""
    dtype, num = x.dtype, path.num_ends
    choices = np.array(np.meshgrid(*[[0, 1]] * num, indexing="ij")).reshape(num, -1)
    means, variances = (
        jnp.asarray(np.stack([p[e, c] for e, c in enumerate(choices)]), dtype) for p in (MEANS, VARIANCES)
    )
    weights, rates = path.coefficients(t), path.rates(t)
    total = weights**2 @ variances + path.variance(t)
    away = (x - weights @ means) / total
    logits = jnp.asarray(np.log(CHANCES[choices]).sum(axis=0), dtype) - 0.5 * jnp.log(total) - 0.5 * away**2 * total
    chance = jax.nn.softmax(logits)
    ends = (means + weights[:, None] * variances * away) @ chance
    score = -away @ chance
    end_velocity = rates @ ends
    velocity = end_velocity - wrong * path.spreading(t) * score
    return jnp.stack([velocity, end_velocity, score, -path.gamma(t) * score, ends[-1]])[:, None]


def draws(key, num_ends: int):
    to_time, to_noise, to_parts, to_ends = jax.random.split(key, 4)
    times = jax.random.uniform(to_time, (NUM,), minval=0.02, maxval=0.98)
    part = jax.random.bernoulli(to_parts, CHANCES[1], (num_ends, NUM)).astype(int)
    normal = jax.random.normal(to_ends, (num_ends, NUM))
    rows = jnp.arange(num_ends)[:, None]
    ends = jnp.asarray(MEANS)[rows, part] + jnp.sqrt(jnp.asarray(VARIANCES))[rows, part] * normal
    return times, tuple(ends[:, :, None]), jax.random.normal(to_noise, (NUM, 1))


@jax.jit
def directional(path: si.AbstractPath, key, wrong=1.0):
    """Derivative of each loss at the exact fields in the direction (1 - 2 t) (x + sin 2 x), per draw."""

    def one(t, ends, noise):
        def loss(step):
            def predict(t, x, condition):
                return predictions(path, t, x[0], wrong) + step * (1.0 - 2.0 * t) * (x + jnp.sin(2.0 * x))

            return si.field_losses(predict, path, QUANTITIES, t, ends, noise, antithetic=True)

        return jax.jvp(loss, (jnp.zeros(()),), (jnp.ones(()),))[1]

    return jax.vmap(one)(*draws(key, path.num_ends))


@pytest.mark.parametrize("path", fast(PATHS, PATHS[0]), ids=lambda path: type(path).__name__)
def test_exact_fields_are_stationary(path):
    """E[(f - target) . g] = 0 for a direction g of the fields, within the error of the mean."""
    slopes = np.asarray(directional(path, jax.random.key(0)))
    errors = slopes.std(axis=0) / NUM**0.5
    assert (np.abs(slopes.mean(axis=0)) < FALSE_ALARM * errors + 1e-9).all()


def test_wrong_fields_are_not():
    """The check sees a velocity with half of the part of the noise, and nothing else then."""
    slopes = np.asarray(directional(si.Linear(), jax.random.key(0), 0.5))
    off = np.abs(slopes.mean(axis=0)) > FALSE_ALARM * slopes.std(axis=0) / NUM**0.5
    assert off.tolist() == [True, False, False, False, False]


@pytest.mark.parametrize("dtype", fast([np.float32, np.float64], np.float32))
def test_both_signs_have_a_limit_at_the_ends(dtype):
    """There they depend on a derivative, ``gamma' z (f(x_+) - f(x_-)) -> 2 gamma gamma' z^2 f'``; one sign explodes."""
    path, numbers = si.Linear(), np.random.default_rng(0).normal(size=(3, 500, 1)).astype(dtype)

    def loss(t, x0, x1, z, antithetic):
        def predict(t, x, condition):
            return predictions(path, t, x[0])

        return si.field_losses(predict, path, QUANTITIES, t, (x0, x1), z, antithetic=antithetic)

    def limit(t, x0, x1, z):
        x = jnp.where(t < 0.5, x0, x1)
        f, slope = jax.jvp(lambda x: predictions(path, t, x[0])[jnp.array([0, 2]), 0], (x,), (jnp.ones_like(x),))
        even, odd = jnp.stack([(x1 - x0)[0], jnp.zeros_like(t)]), jnp.stack([path.spreading(t), -jnp.ones_like(t)])
        return 0.5 * f**2 - even * f - odd * z**2 * slope

    both = jax.jit(jax.vmap(lambda *args: (loss(*args, True), loss(*args, False), limit(*args)), (None, 0, 0, 0)))
    for end in (0.0, 1.0):
        expected = np.asarray(both(jnp.asarray(end, dtype), *numbers)[2])
        for t in (end, abs(end - 1e-6)):
            paired, alone = (np.asarray(found) for found in both(jnp.asarray(t, dtype), *numbers)[:2])
            assert paired.dtype == dtype
            assert np.isfinite(paired).all()
            assert (alone.std(axis=0)[[0, 2]] > 100.0 * expected.std(axis=0)).all()
            if t != end:
                # What is left out is of order gamma^2 = 1e-6 times higher derivatives; rounding is divided by gamma.
                error = 1e-3 if dtype == np.float64 else 2e-2
                np.testing.assert_allclose(paired[:, [0, 2]], expected, rtol=error, atol=error)


def test_antithetic_where_it_is_needed():
    """Targets that grow without bound: velocity and score where gamma is a root, the score wherever gamma vanishes."""
    assert needs_antithetic(si.Linear(), ["velocity"])
    assert needs_antithetic(si.VariancePreserving(), ["velocity"])
    assert needs_antithetic(si.OneSidedLinear(), ["score"])
    assert not needs_antithetic(si.Linear(), ["noise", "end_velocity", "data"])
    assert not needs_antithetic(si.OneSidedLinear(), ["velocity"])
    assert not needs_antithetic(si.Linear(si.Parabolic()), ["velocity"])
    assert not needs_antithetic(si.VarianceExploding(), ["velocity", "score"])


def test_scales_do_not_move_the_minimum():
    """A loss in other units is the same loss times a number."""
    path, t, x = si.Linear(), jnp.asarray(0.3), jnp.array([0.7])

    def loss(scales):
        def predict(t, x, condition):
            return predictions(path, t, x[0])

        return si.field_losses(predict, path, QUANTITIES, t, (x, -x), 2.0 * x, antithetic=True, scales=scales)

    np.testing.assert_allclose(4.0 * loss(2.0 * jnp.ones((5, 1))), loss(None), rtol=1e-12)
