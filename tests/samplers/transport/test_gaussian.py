"""Transport between Gaussians: conditions of optimality, limits, derivatives, bad input."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import pushforward as pf

DIM = 4


def gaussian(seed, dim=DIM):
    rng = np.random.default_rng(seed)
    root = rng.normal(size=(dim, dim))
    return jnp.asarray(rng.normal(size=dim)), jnp.asarray(root @ root.T + 0.1 * np.eye(dim))


def test_distance_on_the_line():
    """(m1 - m2)^2 + (s1 - s2)^2."""
    found = pf.transport.bures_wasserstein(jnp.array([1.0]), jnp.array([[9.0]]), jnp.array([-1.0]), jnp.array([[4.0]]))
    assert float(found) == pytest.approx(4.0 + 1.0, abs=1e-14)


def test_distance_is_that_of_the_optimal_map():
    """With cov2 = T cov1 T for a positive T, T is optimal and the distance is E|x - T x|^2."""
    (mean, cov), (_, T) = gaussian(0), gaussian(1)
    gap = jnp.eye(DIM) - T
    found = pf.transport.bures_wasserstein(mean, cov, mean + 1.0, T @ cov @ T)
    np.testing.assert_allclose(found, DIM + jnp.trace(gap @ cov @ gap), rtol=1e-12)
    plan = pf.transport.gaussian_transport(mean, cov, mean + 1.0, T @ cov @ T, 0.0)
    np.testing.assert_allclose(plan.linear_map, T, rtol=1e-9, atol=1e-9)
    np.testing.assert_allclose(plan.cost, found, rtol=1e-12)
    np.testing.assert_allclose(plan.barycentric(mean[None] + 2.0)[0], mean + 1.0 + T @ jnp.full(DIM, 2.0), rtol=1e-8)


@pytest.mark.parametrize("scale", [0.5, 1.0, 3.0])
def test_derivatives_where_covariances_are_multiples_of_each_other(scale):
    """B = s A: d/dB = (1 - s^-1/2) I, and along A twice: tr A / (2 s^1.5). At s = 1 eigenvalues coincide."""
    mean, cov = gaussian(2)
    distance = lambda other: pf.transport.bures_wasserstein(mean, cov, mean, other)  # noqa: E731
    np.testing.assert_allclose(jax.grad(distance)(scale * cov), (1 - scale**-0.5) * np.eye(DIM), atol=1e-12)
    second = jax.grad(jax.grad(lambda s: distance(s * cov)))(jnp.asarray(scale))
    np.testing.assert_allclose(second, jnp.trace(cov) / (2 * scale**1.5), rtol=1e-10)
    assert jnp.isfinite(jax.grad(lambda c: pf.transport.bures_wasserstein(mean, c, mean, c))(jnp.eye(DIM))).all()


def test_hessian_vector_product_against_finite_differences():
    (mean, cov), (_, other), (_, along) = gaussian(3), gaussian(4), gaussian(5)
    gradient = jax.grad(lambda c: pf.transport.gaussian_transport(mean, cov, mean, c, 0.7).cost)
    product = jax.jvp(gradient, (other,), (along,))[1]
    step = 1e-5
    difference = (gradient(other + step * along) - gradient(other - step * along)) / (2 * step)
    np.testing.assert_allclose(product, difference, rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("epsilon", [1e-6, 0.3, 20.0])
def test_entropic_plan_is_optimal(epsilon):
    """Its density is exp of a sum of functions of x and of y, less |x - y|^2 / epsilon: the cross block says so."""
    (mean1, cov1), (mean2, cov2) = gaussian(6), gaussian(7)
    plan = pf.transport.gaussian_transport(mean1, cov1, mean2, cov2, epsilon)
    joint = np.block([[cov1, plan.cross_covariance], [plan.cross_covariance.T, cov2]])
    # -1/2 z' J^-1 z has the cross term -x' (J^-1)_xy y, which must be 2 x' y / epsilon.
    if epsilon > 1e-3:
        np.testing.assert_allclose(np.linalg.inv(joint)[:DIM, DIM:], -2 / epsilon * np.eye(DIM), atol=1e-9)
    conditional = cov2 - plan.cross_covariance.T @ np.linalg.solve(cov1, plan.cross_covariance)
    np.testing.assert_allclose(plan.conditional_covariance, conditional, atol=1e-9)
    linear = jnp.sum((mean1 - mean2) ** 2) + jnp.trace(cov1 + cov2 - 2 * plan.cross_covariance)
    np.testing.assert_allclose(plan.linear_cost, linear, rtol=1e-12)
    log_det = lambda m: np.linalg.slogdet(m)[1]  # noqa: E731
    kl = 0.5 * (log_det(cov1) + log_det(cov2) - log_det(plan.conditional_covariance) - log_det(cov1))
    np.testing.assert_allclose(plan.kl, kl, rtol=1e-8)
    np.testing.assert_allclose(plan.cost, linear + epsilon * kl, rtol=1e-10)
    # What is optimal changes with epsilon by its second term only.
    slope = jax.grad(lambda e: pf.transport.gaussian_transport(mean1, cov1, mean2, cov2, e).cost)(epsilon)
    np.testing.assert_allclose(slope, kl, rtol=1e-8)


def test_limits_of_epsilon():
    (mean1, cov1), (mean2, cov2) = gaussian(8), gaussian(9)
    distance = pf.transport.bures_wasserstein(mean1, cov1, mean2, cov2)
    small = pf.transport.gaussian_transport(mean1, cov1, mean2, cov2, 1e-8)
    np.testing.assert_allclose(small.linear_cost, distance, rtol=1e-6)
    assert small.linear_cost >= distance - 1e-12
    large = pf.transport.gaussian_transport(mean1, cov1, mean2, cov2, 1e10)
    independent = jnp.sum((mean1 - mean2) ** 2) + jnp.trace(cov1 + cov2)
    np.testing.assert_allclose(large.cost, independent, rtol=1e-8)
    np.testing.assert_allclose(large.cross_covariance, 2e-10 * cov1 @ cov2, atol=1e-16)


def test_single_precision_and_batches():
    (mean1, cov1), (mean2, cov2) = gaussian(10), gaussian(11)
    exact = pf.transport.gaussian_transport(mean1, cov1, mean2, cov2, 0.5)
    small = [v.astype(jnp.float32) for v in (mean1, cov1, mean2, cov2)]
    found = jax.vmap(lambda e: pf.transport.gaussian_transport(*small, e))(jnp.array([0.5, 1.0], jnp.float32))
    assert found.cost.dtype == jnp.float32
    np.testing.assert_allclose(found.cost[0], exact.cost, rtol=1e-5)
    np.testing.assert_allclose(found.cross_covariance[0], exact.cross_covariance, atol=1e-4)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"mean1": jnp.zeros(2)}, "expected"),
        ({"mean1": jnp.array([0, 1, 2])}, "floating-point"),
        ({"mean2": jnp.array([0.0, jnp.nan, 0.0])}, "finite"),
        ({"cov1": jnp.eye(2)}, r"expected \(3, 3\)"),
        ({"cov1": jnp.eye(3).at[0, 1].set(0.5)}, "no covariance"),
        ({"cov2": -jnp.eye(3)}, "least eigenvalue -1"),
        ({"epsilon": -1.0}, "at least zero"),
    ],
)
def test_bad_input(change, says):
    given = {"mean1": jnp.zeros(3), "cov1": jnp.eye(3), "mean2": jnp.zeros(3), "cov2": jnp.eye(3), "epsilon": 1.0}
    with pytest.raises(ValueError, match=says):
        pf.transport.gaussian_transport(**{**given, **change})


AXIS = jnp.linspace(-7.0, 7.0, 32)


@pytest.mark.slow
def test_correlated_gaussians_on_a_grid(figure):
    """Two dimensions, axis by axis: value, cross-covariance, derivatives in mean and covariance, Hessian product."""
    grid, epsilon = pf.transport.Grid((AXIS, AXIS)), 1.5
    other = jnp.asarray([0.3, -0.2]), jnp.asarray([[0.8, -0.3], [-0.3, 1.1]])
    at = jnp.asarray([-0.4, 0.5, 1.0, 0.3, 0.9])

    def moments(parameters):
        return parameters[:2], jnp.stack([parameters[2:4], parameters[3:5]])

    def weights(mean, cov):
        away = grid.points - mean
        density = jnp.exp(-0.5 * jnp.sum(away * jnp.linalg.solve(cov, away.T).T, axis=1))
        return density / jnp.sum(density)

    def solved(parameters):
        return pf.transport.solve(grid, grid, a=weights(*moments(parameters)), b=weights(*other), epsilon=epsilon)

    def truth(parameters):
        return pf.transport.gaussian_transport(*moments(parameters), *other, epsilon)

    found, expected = solved(at), truth(at)
    assert found.converged
    figure("Normals on a grid: relative error of the value", abs(float(found.cost / expected.cost) - 1.0), "<= 1e-6")
    np.testing.assert_allclose(found.cost, expected.cost, rtol=1e-6)
    cross = (grid.points - at[:2]).T @ found.apply(grid.points - other[0])
    off = float(jnp.abs(cross - expected.cross_covariance).max())
    figure("Normals on a grid: error of the cross-covariance", off, "<= 1e-6")
    np.testing.assert_allclose(cross, expected.cross_covariance, atol=1e-6)
    slope = jax.jit(jax.grad(lambda p: solved(p).cost))
    exact = jax.grad(lambda p: truth(p).cost)(at)
    figure("Normals on a grid: error of the gradient", float(jnp.abs(slope(at) - exact).max()), "<= 1e-6")
    np.testing.assert_allclose(slope(at), exact, rtol=1e-6, atol=1e-7)
    along = jnp.asarray([0.6, -0.3, 0.2, 0.1, -0.4])
    product = jax.grad(lambda p: jnp.vdot(slope(p), along))(at)
    difference = (slope(at + 1e-4 * along) - slope(at - 1e-4 * along)) / 2e-4
    off = float(jnp.abs(product - difference).max())
    figure("Normals on a grid: Hessian-vector product less differences", off, "<= 1e-4")
    np.testing.assert_allclose(product, difference, rtol=1e-4, atol=1e-6)
