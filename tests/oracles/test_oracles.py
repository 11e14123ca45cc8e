"""Each oracle against an independent computation: brute-force joint Gaussians, quadrature, numerical optimisation."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import integrate, optimize, stats

from oracles import gaussian_bounds, gaussian_mixture, gaussian_process, k_draws, linear_regression, ppca, state_space

RNG = np.random.default_rng(7)
Q, P = gaussian_bounds.gaussian(0.3, 0.9**2), gaussian_bounds.gaussian(-0.2, 0.7**2)


def by_quadrature(function):
    return integrate.quad(function, -12, 12, points=[-1, 0, 1], limit=500, epsabs=1e-12)[0]


def ratio(z):
    return stats.norm.pdf(z, -0.2, 0.7) / stats.norm.pdf(z, 0.3, 0.9)


@pytest.mark.parametrize("power", [-0.5, 0.3, 2.0, 2.4])
def test_moments_of_the_ratio(power):
    exact = by_quadrature(
        lambda z: np.exp((1 - power) * stats.norm.logpdf(z, 0.3, 0.9) + power * stats.norm.logpdf(z, -0.2, 0.7))
    )
    assert gaussian_bounds.log_moment(Q, P, power) == pytest.approx(np.log(exact), rel=1e-9)


def test_moment_is_infinite_where_the_integral_diverges():
    assert gaussian_bounds.log_moment(P, Q, 3.0) == np.inf


def test_divergences():
    log_ratio = lambda z: stats.norm.logpdf(z, 0.3, 0.9) - stats.norm.logpdf(z, -0.2, 0.7)  # noqa: E731
    exact = by_quadrature(lambda z: stats.norm.pdf(z, 0.3, 0.9) * log_ratio(z))
    assert gaussian_bounds.kl(Q, P) == pytest.approx(exact, rel=1e-9)
    chi = by_quadrature(lambda z: stats.norm.pdf(z, 0.3, 0.9) * (ratio(z) - 1) ** 2)
    assert gaussian_bounds.chi_square(Q, P) == pytest.approx(chi, rel=1e-9)
    grid = np.linspace(-20, 20, 200_001)
    assert gaussian_bounds.essential_minimum(P, Q) == pytest.approx(-np.log(ratio(grid)).max(), rel=1e-6)


def test_bounds_in_two_dimensions_by_monte_carlo():
    root = np.array([[1.2, 0.0], [0.5, 0.9]])
    q = gaussian_bounds.gaussian([0.2, -0.1], root @ root.T)
    p = gaussian_bounds.gaussian([0.0, 0.3], [[0.8, 0.2], [0.2, 0.6]])
    z = q.mean + RNG.standard_normal((200_000, 2)) @ root.T
    log_w = stats.multivariate_normal(p.mean, p.covariance).logpdf(z)
    log_w = log_w - stats.multivariate_normal(q.mean, q.covariance).logpdf(z) + 1.5
    for values, exact in [
        (log_w, gaussian_bounds.elbo(q, p, 1.5)),
        (np.exp(0.5 * log_w), np.exp(0.5 * gaussian_bounds.renyi(q, p, 1.5, 0.5))),
        (np.exp(2 * log_w), np.exp(2 * gaussian_bounds.cubo(q, p, 1.5, 2.0))),
    ]:
        assert abs(values.mean() - exact) < 4 * values.std() / np.sqrt(values.size)


def test_k_draw_quadrature():
    # Symmetric reduction against the full tensor grid, and known moments of the largest of two normals.
    points, weights = np.polynomial.hermite_e.hermegauss(12)
    grid = np.stack(np.meshgrid(points, points, points, indexing="ij"), -1).reshape(-1, 3)
    full = np.prod(np.stack(np.meshgrid(*[weights / weights.sum()] * 3, indexing="ij"), -1).reshape(-1, 3), -1)
    f = lambda e: np.log(np.exp(e).mean(-1))  # noqa: E731
    assert k_draws.expectation(f, 3, 12) == pytest.approx(full @ f(grid), rel=1e-12)
    assert k_draws.expectation(lambda e: e.prod(-1) ** 2, 4) == pytest.approx(1.0)
    gradient = k_draws.derivative(lambda x: np.sin(x[0]) * np.exp(x[1]), np.array([0.4, 0.2]))
    np.testing.assert_allclose(gradient, [np.cos(0.4) * np.exp(0.2), np.sin(0.4) * np.exp(0.2)], rtol=1e-11)


def test_ppca_is_the_maximum():
    x = RNG.standard_normal((60, 2)) @ RNG.standard_normal((2, 4)) + 0.4 * RNG.standard_normal((60, 4))
    best = ppca.maximum_likelihood(x, 2)
    assert ppca.log_likelihood(x, best.mean, best.loadings, best.variance) == pytest.approx(best.log_likelihood)
    c = best.loadings @ best.loadings.T + best.variance * np.eye(4)
    assert stats.multivariate_normal(best.mean, c).logpdf(x).mean() == pytest.approx(best.log_likelihood)

    def loss(v):
        return -ppca.log_likelihood(x, v[:4], v[4:12].reshape(4, 2), np.exp(v[12]))

    found = min(optimize.minimize(loss, RNG.standard_normal(13)).fun for _ in range(3))
    assert -found == pytest.approx(best.log_likelihood, abs=1e-6)


def test_linear_regression():
    x, b = RNG.standard_normal((9, 3)), np.array([0.5, -1.0, 0.2])
    y = x @ b + 0.6 * RNG.standard_normal(9)
    joint = stats.multivariate_normal(np.zeros(9), 2.0 * x @ x.T + 0.36 * np.eye(9))
    assert linear_regression.log_evidence(x, y, 0.36, 2.0) == pytest.approx(joint.logpdf(y))
    mean, covariance = linear_regression.posterior(x, y, 0.36, 2.0)
    # Bayes: log prior + log likelihood - log posterior is the evidence at any point.
    for at in RNG.standard_normal((2, 3)):
        log_joint = stats.norm.logpdf(at, 0, np.sqrt(2.0)).sum() + stats.norm.logpdf(y, x @ at, 0.6).sum()
        log_posterior = stats.multivariate_normal(mean, covariance).logpdf(at)
        assert log_joint - log_posterior == pytest.approx(joint.logpdf(y))


def test_gaussian_process():
    x, at = np.linspace(0, 3, 7), np.array([0.4, 2.2])
    y = np.sin(x)
    everything = np.concatenate([x, at])
    big = gaussian_process.kernel(everything, everything, 1.3, 0.8)
    big[:7, :7] += 0.3**2 * np.eye(7)
    assert gaussian_process.log_evidence(x, y, 1.3, 0.8, 0.3) == pytest.approx(
        stats.multivariate_normal(np.zeros(7), big[:7, :7]).logpdf(y)
    )
    # Conditioning through the precision of the joint, which shares no formula with the Cholesky route.
    precision = np.linalg.inv(big)
    covariance = np.linalg.inv(precision[7:, 7:])
    mean, got = gaussian_process.posterior(x, y, at, 1.3, 0.8, 0.3)
    np.testing.assert_allclose(got, covariance, rtol=1e-8)
    np.testing.assert_allclose(mean, -covariance @ precision[7:, :7] @ y, rtol=1e-8)


def test_state_space_against_the_joint_gaussian():
    a, c = np.array([[0.9, 0.2], [-0.1, 0.7]]), np.array([[1.0, 0.5]])
    model = state_space.StateSpace(np.array([0.3, -0.2]), 0.8 * np.eye(2), a, 0.3 * np.eye(2), c, np.array([[0.2]]))
    steps, y = 4, RNG.standard_normal((4, 1))
    # z = G e + drift, e stacked innovations.
    g = np.block(
        [[np.linalg.matrix_power(a, i - j) if i >= j else np.zeros((2, 2)) for j in range(steps)] for i in range(steps)]
    )
    innovation = np.kron(np.eye(steps), 0.3 * np.eye(2))
    innovation[:2, :2] = 0.8 * np.eye(2)
    mean = np.concatenate([np.linalg.matrix_power(a, t) @ model.mean for t in range(steps)])
    cov_z, emit = g @ innovation @ g.T, np.kron(np.eye(steps), c)
    cov_y = emit @ cov_z @ emit.T + 0.2 * np.eye(steps)
    got = state_space.smooth(model, y)
    assert got.log_evidence == pytest.approx(stats.multivariate_normal(emit @ mean, cov_y).logpdf(y[:, 0]))
    gain = cov_z @ emit.T @ np.linalg.inv(cov_y)
    np.testing.assert_allclose(got.mean.ravel(), mean + gain @ (y[:, 0] - emit @ mean))
    posterior = cov_z - gain @ emit @ cov_z
    for t in range(steps):
        np.testing.assert_allclose(got.covariance[t], posterior[2 * t : 2 * t + 2, 2 * t : 2 * t + 2], atol=1e-12)
    np.testing.assert_allclose(got.filtered_mean[-1], got.mean[-1])


def test_gaussian_mixture():
    mixture = gaussian_mixture.Mixture(np.array([0.3, 0.7]), np.array([[-1.0], [2.0]]), np.array([[[0.5]], [[1.2]]]))
    pdf = lambda z: np.exp(gaussian_mixture.log_density(mixture, np.array([[z]])))[0]  # noqa: E731
    mean, covariance = gaussian_mixture.moments(mixture)
    assert by_quadrature(pdf) == pytest.approx(1.0)
    assert by_quadrature(lambda z: z * pdf(z)) == pytest.approx(mean[0])
    assert by_quadrature(lambda z: (z - mean[0]) ** 2 * pdf(z)) == pytest.approx(covariance[0, 0])
    assert gaussian_mixture.expectation(mixture, np.cos) == pytest.approx(by_quadrature(lambda z: np.cos(z) * pdf(z)))
    x = gaussian_mixture.draw(RNG, mixture, 100_000)
    assert abs(x.mean() - mean[0]) < 4 * np.sqrt(covariance[0, 0] / len(x))
