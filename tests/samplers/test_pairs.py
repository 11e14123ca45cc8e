"""The all-pairs engine against brute force, its memory, its derivatives, and the bandwidth rules."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pushforward.samplers.engine import reduce_pairs
from pushforward.samplers.pairs import IMQ, RBF, Laplace, Median, stein_force
from pushforward.samplers.pairs._distance import squared_distances

RADIAL = {"RBF": RBF, "IMQ": IMQ, "Laplace": Laplace}


def brute_kernel(name, x, y, width):
    """One pair, from the definition."""
    squared = jnp.sum((x - y) ** 2)
    if name == "RBF":
        return jnp.exp(-squared / (2 * width**2))
    if name == "IMQ":
        return (1 + squared / width**2) ** -0.5
    safe = jnp.where(squared > 0, squared, 1.0)
    return jnp.where(squared > 0, jnp.exp(-jnp.sqrt(safe) / width), 1.0)


def brute_force(name, x, scores, width):
    """The Stein force by automatic differentiation of every pair."""
    pair = lambda y, z: brute_kernel(name, y, z, width)  # noqa: E731
    value = jax.vmap(lambda z: jax.vmap(lambda y: pair(y, z))(x))(x)
    slope = jax.vmap(lambda z: jax.vmap(lambda y: jax.grad(pair)(y, z))(x))(x)
    return (value @ scores + slope.sum(1)) / x.shape[0]


@pytest.mark.parametrize("dim", [1, 3, 50])
@pytest.mark.parametrize("name", list(RADIAL))
@pytest.mark.parametrize(("dtype", "tolerance"), [(jnp.float64, 1e-12), (jnp.float32, 2e-5)])
def test_force_equals_brute_force(name, dim, dtype, tolerance, getkey):
    """Ragged n = 777, small blocks, points off the origin."""
    x = 3.0 + jax.random.normal(getkey(), (777, dim), jnp.float64)
    scores = jax.random.normal(getkey(), (777, dim), jnp.float64)
    width = 0.7 * np.sqrt(dim)
    kernel = RADIAL[name](width)
    exact = brute_force(name, x, scores, width)
    small = [a.astype(dtype) for a in (x, scores)]
    found = stein_force(kernel, kernel.bandwidth(small[0], jnp.ones(777, bool)), *small, jnp.ones(777, dtype))
    if dtype == jnp.float32:
        exact = brute_force(name, *[a.astype(jnp.float64) for a in small], width)
    assert found.dtype == dtype
    assert np.linalg.norm(found - exact) <= tolerance * np.linalg.norm(exact)


def _gauss(scale, x, column, weight):
    y, v = column
    return jnp.exp(-squared_distances(x, y) / scale) @ (weight[:, None] * v)


def _logits(scale, x, column, weight):
    return -squared_distances(x, column[0]) / scale


@pytest.mark.parametrize(("term", "reduction"), [(_gauss, "sum"), (_logits, "logsumexp")])
@pytest.mark.parametrize("budget", [64, 2**12, 2**20])
def test_reductions_and_their_derivatives_equal_dense_ones(term, reduction, budget, getkey):
    x, y = jax.random.normal(getkey(), (37, 2)), jax.random.normal(getkey(), (23, 2))
    v, weight = jax.random.normal(getkey(), (23, 4)), jnp.linspace(0.1, 2.0, 23)

    def dense(scale, x, y, v, weight):
        squared = jnp.sum((x[:, None] - y[None]) ** 2, -1)
        if reduction == "sum":
            return jnp.exp(-squared / scale) @ (weight[:, None] * v)
        return jax.scipy.special.logsumexp(-squared / scale, axis=1, b=weight)

    def blocked(scale, x, y, v, weight):
        return reduce_pairs(term, scale, x, (y, v), weight=weight, reduction=reduction, budget=budget)

    arguments = (jnp.asarray(1.3), x, y, v, weight)
    np.testing.assert_allclose(blocked(*arguments), dense(*arguments), rtol=1e-12)
    probe = jax.random.normal(getkey(), dense(*arguments).shape)
    gradients = [
        jax.grad(lambda *a, f=f: jnp.sum(probe * f(*a)), argnums=(0, 1, 2, 4))(*arguments) for f in (blocked, dense)
    ]
    for ours, exact in zip(*gradients, strict=True):
        np.testing.assert_allclose(ours, exact, rtol=1e-10, atol=1e-12)


def test_columns_of_weight_zero_do_not_count(getkey):
    x, v = jax.random.normal(getkey(), (9, 3)), jax.random.normal(getkey(), (9, 1))
    weight = jnp.where(jnp.arange(9) < 6, 1.0, 0.0)
    for term, reduction in ((_gauss, "sum"), (_logits, "logsumexp")):
        kept = reduce_pairs(term, 1.0, x, (x[:6], v[:6]), reduction=reduction)
        found = reduce_pairs(term, 1.0, x, (x, v), weight=weight, reduction=reduction)
        np.testing.assert_allclose(found, kept, rtol=1e-13)
    nothing = reduce_pairs(_logits, 1.0, x, (x, v), weight=jnp.zeros(9), reduction="logsumexp")
    assert bool(jnp.all(nothing == -jnp.inf))


def test_memory_of_a_step_is_linear_in_the_particles():
    """Temporary memory of the compiled force with its bandwidth; the bound of 8 MiB at n = 4,000, and the slope."""

    def step(x, s):
        kernel = RBF()
        return stein_force(kernel, kernel.bandwidth(x, jnp.ones(x.shape[0], bool)), x, s, jnp.ones(x.shape[0], x.dtype))

    sizes = []
    for n in (4_000, 16_000, 64_000):
        shape = jax.ShapeDtypeStruct((n, 50), jnp.float32)
        sizes.append(jax.jit(step).lower(shape, shape).compile().memory_analysis().temp_size_in_bytes)
    assert sizes[0] <= 8 * 2**20, sizes
    slope = np.log(sizes[2] / sizes[1]) / np.log(4.0)
    assert slope <= 1.05, sizes


@pytest.mark.parametrize("diagonal", [True, False])
@pytest.mark.parametrize("num_points", [512, None])
@pytest.mark.parametrize("n", [2, 7, 40])
def test_median_is_the_sorted_one(n, diagonal, num_points, getkey):
    x = jax.random.normal(getkey(), (n, 3))
    squared = np.sum((np.asarray(x)[:, None] - np.asarray(x)[None]) ** 2, -1)
    values = squared.ravel() if diagonal else squared[~np.eye(n, dtype=bool)]
    rule = Median(scale=1.0, log=False, diagonal=diagonal, num_points=num_points)
    expected = np.median(values) or 1.0
    np.testing.assert_allclose(rule(x, jnp.ones(n, bool)), expected, rtol=1e-12)
    logarithmic = Median(diagonal=diagonal, num_points=num_points)
    np.testing.assert_allclose(logarithmic(x, jnp.ones(n, bool)), 0.5 * expected / np.log(n + 1), rtol=1e-12)


def test_median_of_some_particles_sees_all_parts_of_a_sorted_cloud(getkey):
    """600 particles sorted by mode, 64 of them looked at; places that fill up a device change nothing."""
    x = jnp.concatenate([-5.0 + jax.random.normal(getkey(), (300, 2)), 5.0 + jax.random.normal(getkey(), (300, 2))])
    alive = jnp.arange(600) % 7 != 3
    whole, some = (Median(scale=1.0, log=False, num_points=k) for k in (None, 64))
    np.testing.assert_allclose(some(x, alive), whole(x, alive), rtol=0.15)
    filled = jnp.concatenate([x, jnp.ones((2, 2))]), jnp.concatenate([alive, jnp.zeros(2, bool)])
    assert float(some(*filled)) == float(some(x, alive))
    few = jnp.arange(600) % 20 == 0
    np.testing.assert_allclose(some(x, few), whole(x, few), rtol=1e-12)


def test_median_leaves_out_the_dead_and_survives_coincidence():
    x = jnp.asarray([[0.0], [1.0], [3.0], [1e9]])
    alive = jnp.asarray([True, True, True, False])
    assert float(Median(scale=1.0, log=False)(x, alive)) == 4.0
    assert float(Median(scale=1.0, log=False)(jnp.zeros((5, 2)), jnp.ones(5, bool))) == 1.0
    for rule in (Median(), Median(num_points=None)):
        assert float(rule(x, jnp.asarray([False, True, False, False]))) == 1.0


def test_bad_input_is_named():
    with pytest.raises(ValueError, match="rows has leaves of leading shapes"):
        reduce_pairs(_logits, 1.0, jnp.zeros((0, 2)), (jnp.zeros((3, 2)), jnp.zeros((3, 1))))
    with pytest.raises(ValueError, match="reduction='mean'"):
        reduce_pairs(_logits, 1.0, jnp.zeros((2, 2)), (jnp.zeros((3, 2)), jnp.zeros((3, 1))), reduction="mean")
    with pytest.raises(ValueError, match="bandwidth=-1"):
        RBF(-1)
    with pytest.raises(ValueError, match="exponent=-2"):
        IMQ(exponent=-2)
    with pytest.raises(ValueError, match="scale=0"):
        Median(scale=0)
