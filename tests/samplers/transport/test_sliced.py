"""Sliced distances: exact where they can be, unbiased with controls, and how much these save."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tiers import fast

import pushforward as pf

CONTROLS = (None, "lower", "upper")


def clouds(dim=50, n=100, m=100, shift=1.0, seed=0):
    """Anisotropic Gaussian clouds, of axes that decay and are turned against each other, shifted."""
    rng = np.random.default_rng(seed)
    axes = np.sqrt(np.linspace(0.1, 2.0, dim))
    turn = np.linalg.qr(rng.normal(size=(dim, dim)))[0]
    x, y = rng.normal(size=(n, dim)) * axes, (rng.normal(size=(m, dim)) * axes[::-1]) @ turn
    return jnp.asarray(x), jnp.asarray(y + shift * rng.normal(size=dim) / dim**0.5 * 2.0)


def by_bases(key, x, y, num_bases):
    """Plain estimates, one per random orthonormal basis, over which quadratic forms add up to their trace."""
    dim = x.shape[1]

    def one(key):
        basis = jnp.linalg.qr(jax.random.normal(key, (dim, dim), x.dtype))[0]
        gap = jnp.sort(x @ basis, axis=0) - jnp.sort(y @ basis, axis=0)
        return jnp.mean(gap**2)

    values = jax.lax.map(one, jax.random.split(key, num_bases), batch_size=20)
    return float(values.mean()), float(values.std() / num_bases**0.5)


def estimates(key, x, y, num, **given):
    one = lambda k: pf.transport.sliced_wasserstein(k, x, y, **given)  # noqa: E731
    return np.asarray(jax.jit(lambda keys: jax.lax.map(one, keys, batch_size=50))(jax.random.split(key, num)))


@pytest.mark.parametrize("control", CONTROLS)
def test_on_the_line_it_is_the_distance(control, getkey):
    """Directions are +1 and -1, for which nothing is random; weights with zeros."""
    x, y = jax.random.normal(getkey(), (6, 1)), 1.0 + jax.random.normal(getkey(), (9, 1))
    a = jnp.array([0.2, 0.0, 0.3, 0.1, 0.4, 0.0])
    for weights in ({}, {"a": a}, {"a": a, "b": jnp.full(9, 1 / 9)}):
        exact = pf.transport.one_dimensional(x[:, 0], y[:, 0], **weights).cost
        found = pf.transport.sliced_wasserstein(getkey(), x, y, control=control, num_directions=3, **weights)
        np.testing.assert_allclose(found, exact, rtol=1e-12)


def test_equal_weights_in_any_form(getkey):
    """Equal sizes, unequal sizes and explicit weights are three programs."""
    x, y = clouds(dim=3, n=12, m=12)
    key = getkey()
    plain = [
        pf.transport.sliced_wasserstein(key, x, y, control=None, p=1.5),
        pf.transport.sliced_wasserstein(key, jnp.repeat(x, 2, axis=0), y, control=None, p=1.5),
        pf.transport.sliced_wasserstein(key, x, y, a=jnp.full(12, 1 / 12), control=None, p=1.5),
    ]
    np.testing.assert_allclose(plain, plain[0], rtol=1e-12)


@pytest.mark.parametrize("control", ["lower", "upper"])
def test_a_shift_has_no_noise(control, getkey):
    x, _ = clouds(dim=5, n=20)
    shift = jnp.arange(5.0)
    value, slope = jax.value_and_grad(
        lambda s: pf.transport.sliced_wasserstein(getkey(), x, x + s, control=control, num_directions=1)
    )(shift)
    np.testing.assert_allclose(value, jnp.sum(shift**2) / 5, rtol=1e-12)
    np.testing.assert_allclose(slope, 2 * shift / 5, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("control", ["lower", "upper"])
def test_a_dilation_has_no_noise_for_the_control_that_knows_variances(control, getkey):
    """W^2 of the projections of x and s x, both centred, is (1 - s)^2 times the projected variance."""
    x, _ = clouds(dim=5, n=20)
    x = x - x.mean(0)
    values = [
        float(pf.transport.sliced_wasserstein(getkey(), x, 3.0 * x, control=control, num_directions=2)) for _ in "ab"
    ]
    exact = float(4.0 * jnp.mean(jnp.sum(x**2, axis=1)) / 5)
    if control == "upper":
        np.testing.assert_allclose(values, exact, rtol=1e-12)
    else:
        assert min(abs(v - exact) for v in values) > 1e-3 * exact


def test_controls_are_unbiased(getkey):
    """Against plain averages over whole bases; false alarms below 1e-6 for each (five standard errors)."""
    x, y = clouds(dim=4, n=30, m=20, seed=1)
    truth = estimates(getkey(), x, y, 20_000, control=None, num_directions=10)
    for control in ("lower", "upper"):
        found = estimates(getkey(), x, y, 4_000, control=control, num_directions=2)
        error = (found.var() / len(found) + truth.var() / len(truth)) ** 0.5
        assert abs(found.mean() - truth.mean()) < 5 * error
        assert 5 * error < 0.05 * truth.mean()


@pytest.mark.parametrize("num", fast([1_000, 20_000], 1_000))
def test_savings(num, getkey, figure):
    """L = 10, d = 50: variance at most a tenth of plain Monte Carlo's, bias at most 1e-3."""
    x, y = clouds()
    truth, error = by_bases(getkey(), x, y, num // 2)
    plain = estimates(getkey(), x, y, 1_000, control=None)
    for control in ("lower", "upper"):
        found = estimates(getkey(), x, y, num, control=control)
        ratio = found.var() / plain.var()
        total = (found.var() / num + error**2) ** 0.5 / truth
        bias = abs(found.mean() - truth) / truth
        figure(f"sliced, {control}, variance relative to plain, {num} repeats", float(ratio), "0.1")
        figure(f"sliced, {control}, relative bias, standard error {total:.1e}", float(bias), "0.001")
        assert ratio < 0.1
        assert bias < 5 * total
        assert num < 20_000 or bias < 1e-3


def test_gradients_compiled_code_and_single_precision(getkey):
    x, y = clouds(dim=3, n=8, m=6)
    key = getkey()
    value = pf.transport.sliced_wasserstein(key, x, y)
    single = pf.transport.sliced_wasserstein(key, x.astype(jnp.float32), y.astype(jnp.float32))
    assert single.dtype == jnp.float32
    np.testing.assert_allclose(jax.jit(pf.transport.sliced_wasserstein)(key, x, y), value, rtol=1e-13)
    along = jax.random.normal(getkey(), x.shape)
    slope = jnp.vdot(jax.grad(pf.transport.sliced_wasserstein, argnums=1)(key, x, y), along)
    up, down = (pf.transport.sliced_wasserstein(key, x + s * 1e-6 * along, y) for s in (1, -1))
    np.testing.assert_allclose(slope, (up - down) / 2e-6, rtol=1e-6)
    # A cloud against itself, and clouds of one point, have derivatives too.
    assert jnp.isfinite(jax.grad(pf.transport.sliced_wasserstein, argnums=1)(key, x, x)).all()
    assert jnp.isfinite(jax.grad(pf.transport.sliced_wasserstein, argnums=1)(key, x[:1], y)).all()


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"key": 0}, "typed key"),
        ({"y": jnp.zeros((3, 5))}, "4 dimensions and y of 5"),
        ({"x": jnp.full((2, 4), jnp.nan)}, "nan at index"),
        ({"x": jnp.zeros((0, 4))}, "non-empty"),
        ({"a": jnp.array([1.5, -0.5])}, "negative weight"),
        ({"num_directions": 0}, "at least 1"),
        ({"control": "both"}, "'upper', 'lower' or None"),
        ({"p": 1.0}, "expected p=2"),
        ({"p": 0.5, "control": None}, "at least 1"),
    ],
)
def test_bad_input(change, says):
    given = {"key": jax.random.key(0), "x": jnp.zeros((2, 4)), "y": jnp.zeros((3, 4)), **change}
    with pytest.raises(ValueError, match=says):
        pf.transport.sliced_wasserstein(given.pop("key"), given.pop("x"), given.pop("y"), **given)
