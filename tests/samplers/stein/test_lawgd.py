"""LAWGD: the generator's spectrum, and flows on targets of one and two dimensions."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import eval_hermitenorm, factorial

import pushforward as pf
from pushforward import LAWGD, CoinLAWGD
from pushforward.samplers.stein._lawgd import langevin_spectrum


def test_spectrum_of_the_ornstein_uhlenbeck_generator():
    """Eigenvalues 1, 2, 3, ... and normalised Hermite polynomials, up to sign; the error is of second order."""
    worst = []
    for count in (100, 200):
        axis = np.linspace(-9.0, 9.0, count)
        spectrum = langevin_spectrum(-0.5 * axis**2, [axis], 5)
        worst.append(np.max(np.abs(spectrum.values - np.arange(1, 6))))
        near = np.abs(axis) < 3
        for k in range(5):
            exact = eval_hermitenorm(k + 1, axis) / np.sqrt(factorial(k + 1))
            found = spectrum.functions[k] * np.sign(np.dot(spectrum.functions[k][near], exact[near]))
            np.testing.assert_allclose(found[near], exact[near], atol=0.2 if count == 100 else 0.06)
    assert worst[1] < 0.03
    assert 3.0 < worst[0] / worst[1] < 5.0


def test_spectrum_in_two_dimensions():
    """Independent coordinates of variances 1 and 4: eigenvalues i + j / 4."""
    x, y = np.linspace(-7.0, 7.0, 70), np.linspace(-14.0, 14.0, 70)
    spectrum = langevin_spectrum(-0.5 * x[:, None] ** 2 - 0.125 * y[None] ** 2, [x, y], 6)
    np.testing.assert_allclose(spectrum.values, [0.25, 0.5, 0.75, 1.0, 1.0, 1.25], rtol=0.02)


@pytest.mark.parametrize("build", [pytest.param(LAWGD, marks=pytest.mark.slow), CoinLAWGD])
def test_weights_of_two_modes_in_one_dimension(build, getkey):
    """Mean and variance of a mixture with weights 0.7 and 0.3; all particles start in the lighter mode."""

    def modes(x):
        left = jnp.log(0.7) - 0.5 * jnp.sum((x + 1.5) ** 2) / 0.5
        return jnp.logaddexp(left, jnp.log(0.3) - 0.5 * jnp.sum((x - 1.5) ** 2) / 0.5)

    target = pf.from_logdensity(modes, jnp.zeros(1))
    start = 1.5 + 0.3 * jax.random.normal(getkey(), (50, 1))
    posterior = pf.sample(target, build(-6.0, 6.0, 50), key=getkey(), num_steps=1000, init=start, progress=False)
    x = posterior.data["posterior"]["x"].values.ravel()
    assert abs((x < 0).mean() - 0.7) < 0.06
    assert abs(x.mean() + 0.6) < 0.15
    assert 0.85 < x.var() / (0.5 + 9.0 * 0.21) < 1.15


def test_gaussian_in_two_dimensions(getkey):
    precision = jnp.asarray([[3.0, -0.5], [-0.5, 1.0]])
    target = pf.from_logdensity(lambda x: -0.5 * x @ precision @ x, jnp.zeros(2))
    kernel = CoinLAWGD((-4.0, -5.0), (4.0, 5.0), 50, num_grid=48, num_functions=30)
    start = 0.5 * jax.random.normal(getkey(), (50, 2))
    x = pf.sample(target, kernel, key=getkey(), num_steps=500, init=start, progress=False).data["posterior"]["x"]
    ratio = np.diag(np.cov(x.values[0].T)) / np.diag(np.linalg.inv(precision))
    np.testing.assert_allclose(x.values[0].mean(0), 0.0, atol=0.15)
    assert 0.8 < ratio.min(), ratio
    assert ratio.max() < 1.2, ratio


def test_bad_boxes_are_refused_by_name():
    target = pf.from_logdensity(lambda x: -jnp.sum(x**2), jnp.zeros(3))
    far = lambda x: jnp.logaddexp(-0.5 * (x - 9.0) ** 2, -0.5 * (x + 9.0) ** 2)  # noqa: E731
    for build, message in (
        (lambda: LAWGD(1.0, -1.0), "lower=1.0"),
        (lambda: LAWGD((0.0, 0.0, 0.0), (1.0, 1.0, 1.0)), "one or two dimensions"),
        (lambda: LAWGD(-1.0, 1.0, num_grid=4), "num_grid=4"),
        (lambda: LAWGD(-1.0, 1.0).bind(target, 0), "3 unconstrained dimension"),
        (lambda: LAWGD(-14.0, 14.0).bind(pf.from_logdensity(far, jnp.zeros(())), 0), "falls into parts"),
        (
            lambda: LAWGD(-1.0, 1.0, num_grid=20).bind(pf.from_logdensity(lambda x: -x, jnp.zeros(())), 0),
            "at 20 points",
        ),
    ):
        with pytest.raises(ValueError, match=message):
            build()
