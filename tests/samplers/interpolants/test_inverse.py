"""Inverse problems against posteriors and evidences in closed form."""

from __future__ import annotations

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

import pushforward as pf

si = pf.interpolants


class Observed(eqx.Module):
    """``y = A x + noise``, normal."""

    matrix: jax.Array
    y: jax.Array
    scale: float

    def __call__(self, x):
        white = (self.y - self.matrix @ x) / self.scale
        return -0.5 * white @ white - self.y.shape[0] * jnp.log(self.scale * jnp.sqrt(2 * jnp.pi))


def exact(prior: si.GaussianMixture, seen: Observed) -> tuple[si.GaussianMixture, float]:
    """Posterior and log evidence."""
    a, y, means, covs = (np.asarray(v) for v in (seen.matrix, seen.y, prior.means, prior.covariances))
    logits, new_means, new_covs = [], [], []
    for log_weight, mean, cov in zip(np.asarray(prior.log_weights), means, covs, strict=True):
        total = a @ cov @ a.T + float(seen.scale) ** 2 * np.eye(len(y))
        gain = cov @ a.T @ np.linalg.inv(total)
        logits.append(log_weight + stats.multivariate_normal.logpdf(y, a @ mean, total))
        new_means.append(mean + gain @ (y - a @ mean))
        left = cov - gain @ a @ cov
        new_covs.append(0.5 * (left + left.T))
    return si.GaussianMixture(logits, np.stack(new_means), np.stack(new_covs)), float(np.logaddexp.reduce(logits))


def grid_prior(dim: int = 8) -> si.GaussianMixture:
    """25 modes, 8 apart, of unequal weights."""
    rng = np.random.default_rng(0)
    spots = 8.0 * np.array([(i, j) for i in range(-2, 3) for j in range(-2, 3)])
    covariances = np.broadcast_to(np.eye(dim), (25, dim, dim))
    return si.GaussianMixture(np.log(rng.chisquare(1, size=25)), np.tile(spots, (1, dim // 2)), covariances)


def normal_problem() -> tuple[si.MixtureFields, Observed]:
    rng = np.random.default_rng(1)
    root = rng.normal(size=(3, 3))
    prior = si.GaussianMixture([0.0], rng.normal(size=(1, 3)), (0.2 * np.eye(3) + root @ root.T)[None])
    seen = Observed(jnp.asarray(rng.normal(size=(2, 3))), jnp.asarray([1.0, -0.5]), 0.3)
    return si.MixtureFields(si.OneSidedLinear(), prior), seen


@pytest.mark.parametrize("prior", ["density", pytest.param("chain", marks=pytest.mark.slow)])
def test_nothing_is_left_to_weigh_for_normal_laws(prior):
    """All weights equal and the evidence exact, up to the signal of 1e-5 that the start leaves out."""
    fields, seen = normal_problem()
    times = jnp.array([1e-5, 0.3, 0.6, 0.9])
    found = si.posterior(jax.random.key(0), fields, seen, dim=3, num_particles=2000, times=times, prior=prior)
    truth, evidence = exact(fields.mixtures[0], seen)
    np.testing.assert_allclose(found.log_weights, evidence, atol=5e-4)
    white = np.linalg.solve(np.linalg.cholesky(truth.covariances[0]), (found.particles - truth.means[0]).T)
    assert np.abs(white.mean(axis=1)).max() < 5 / 2000**0.5
    assert np.abs(np.cov(white) - np.eye(3)).max() < 5 * (2 / 2000) ** 0.5


@pytest.mark.slow
@pytest.mark.parametrize("path", [si.OneSidedLinear(), si.VariancePreserving(), si.EDM(0.002, 80.0)])
def test_any_likelihood(path):
    """A count with a log-linear rate, at 20 steps: evidence and mean by quadrature."""
    prior = si.GaussianMixture([0.0, 0.7], [[-1.5], [1.0]], [[[0.3]], [[0.8]]])
    seen = lambda x: 4.0 * x[0] - jnp.exp(x[0])  # noqa: E731
    fields = si.MixtureFields(path, prior)
    found = si.posterior(jax.random.key(2), fields, seen, dim=1, num_particles=8000, num_steps=20)
    points = np.linspace(-6, 6, 4001)
    logs = np.asarray(jax.vmap(lambda x: prior.log_prob(x) + seen(x))(points[:, None]))
    mass = np.exp(logs).sum() * (points[1] - points[0])
    assert abs(found.log_evidence - np.log(mass)) < 4.5 * found.standard_error
    assert found.standard_error < 0.05
    weights = np.exp(found.log_weights - found.log_evidence) / 8000
    mean = (points * np.exp(logs)).sum() / np.exp(logs).sum()
    spread = np.sqrt(((points - mean) ** 2 * np.exp(logs)).sum() / np.exp(logs).sum())
    assert abs(weights @ found.particles[:, 0] - mean) < 4.5 * spread * 2.0 / float(found.ess) ** 0.5


def sliced(x: np.ndarray, y: np.ndarray) -> float:
    """Sliced W2 of equal numbers of points over 200 directions."""
    directions = np.random.default_rng(3).normal(size=(x.shape[1], 200))
    directions /= np.linalg.norm(directions, axis=0)
    return float(np.mean((np.sort(x @ directions, 0) - np.sort(y @ directions, 0)) ** 2) ** 0.5)


@pytest.mark.slow
def test_grid_of_modes(figure):
    """What is promised of 4,096 particles and 100 steps."""
    prior = grid_prior()
    rng = np.random.default_rng(0)
    matrix, truth = rng.normal(size=(1, 8)), np.asarray(prior.sample(jax.random.key(0), 1))[0]
    seen = Observed(jnp.asarray(matrix), jnp.asarray(matrix @ truth + 0.5 * rng.normal(size=1)), 0.5)
    law, evidence = exact(prior, seen)
    found = si.posterior(jax.random.key(1), si.MixtureFields(si.OneSidedLinear(), prior), seen, dim=8)
    weights = np.exp(found.log_weights - found.log_evidence) / 4096
    mode = np.asarray(jax.vmap(lambda x: jnp.argmax(law.responsibilities(x)[0]))(found.particles))
    shares = np.bincount(mode, weights=weights, minlength=25)
    variation = 0.5 * float(np.abs(shares - np.exp(law.log_weights)).sum())
    # Systematic: independent choices add the noise of a second sample, by which exact draws would have sqrt(3 / 2).
    combs = (np.arange(4096) + np.random.default_rng(4).uniform()) / 4096
    drawn = found.particles[np.minimum(np.searchsorted(np.cumsum(weights), combs), 4095)]
    draws = [np.asarray(law.sample(jax.random.key(k), 4096)) for k in range(40)]
    pair = np.sqrt(np.mean([sliced(a, b) ** 2 for a, b in zip(draws[::2], draws[1::2], strict=True)]))
    mine = np.sqrt(np.mean([sliced(drawn, a) ** 2 for a in draws[:20]]))
    error = abs(float(found.log_evidence) - evidence)
    figure("Inversion, 25 modes: sliced W2 over that of two exact samples", float(mine / pair), "<= 1.25")
    figure("Inversion, 25 modes: total variation of mode weights", variation, "<= 0.05")
    figure("Inversion, 25 modes: error of the log evidence", error, "<= 0.05")
    assert mine <= 1.25 * pair
    assert variation <= 0.05
    assert error <= 0.05


@pytest.mark.slow
def test_calibrated_over_problems(figure):
    """Ranks of the truth among weighted particles are uniform over 200 problems."""
    prior = grid_prior()
    fields = si.MixtureFields(si.OneSidedLinear(), prior)
    rng = np.random.default_rng(5)
    truths, ranks = np.asarray(prior.sample(jax.random.key(6), 200)), []
    for i, truth in enumerate(truths):
        matrix = rng.normal(size=(1, 8))
        seen = Observed(jnp.asarray(matrix), jnp.asarray(matrix @ truth + 0.5 * rng.normal(size=1)), jnp.asarray(0.5))
        found = si.posterior(jax.random.key(100 + i), fields, seen, dim=8, num_particles=256, num_steps=30)
        weights = np.exp(found.log_weights - found.log_evidence) / 256
        side = rng.normal(size=8)
        ranks.append(weights @ (found.particles @ side < truth @ side))
    p_value = float(stats.kstest(np.clip(ranks, 0, 1), "uniform").pvalue)
    figure("Inversion, 25 modes: p-value of calibration over 200 problems", p_value, "> 0.01")
    assert p_value > 0.01


@pytest.mark.slow
def test_baselines_on_a_normal_problem():
    """RED-Diff ends at the mode without spread; DPS stays near, and neither is the posterior."""
    fields, seen = normal_problem()
    truth, _ = exact(fields.mixtures[0], seen)
    start = jnp.zeros((64, 3))
    modes = si.red_diff(jax.random.key(7), fields, seen, start, weight=1.0, learning_rate=0.02, num_steps=2000)
    spread = np.sqrt(np.diagonal(truth.covariances[0]))
    assert np.all(modes.std(axis=0) < 0.5 * spread)
    assert np.abs((modes.mean(axis=0) - truth.means[0]) / spread).max() < 1.0
    draws = si.dps(jax.random.key(8), fields, seen, dim=3, num_particles=2000, num_steps=200)
    assert np.abs((draws.mean(axis=0) - truth.means[0]) / spread).max() < 1.0
    free = si.dps(jax.random.key(8), fields, seen, dim=3, num_particles=2000, num_steps=200, scale=0.0)
    prior = fields.mixtures[0]
    np.testing.assert_allclose(free.mean(axis=0), prior.means[0], atol=5 * (4.0 / 2000) ** 0.5)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"fields": si.Linear()}, "expected a one-sided path"),
        ({"fields": si.Mirror()}, "expected it positive, finite and rising"),
        ({"prior": "exact"}, "prior='exact'"),
        ({"resample": 0}, "resample=0"),
    ],
)
def test_refused(settings, message):
    path = settings.pop("fields", si.OneSidedLinear())
    fields = si.MixtureFields(path, *[si.GaussianMixture([0.0], [[0.0]], [[[1.0]]])] * path.num_ends)
    with pytest.raises(ValueError, match=message):
        si.posterior(jax.random.key(0), fields, lambda x: x[0], dim=1, **settings)
