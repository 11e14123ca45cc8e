"""Free energies: against work of known law, and between mixtures in ten dimensions."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import optimize, special

import pushforward as pf

si = pf.interpolants


def normal_work(seed: int, truth: float, spread: float, n: int, m: int) -> tuple[np.ndarray, np.ndarray]:
    """Work that obeys Crooks' relation: normal with means ``truth - s^2 / 2`` and ``-truth - s^2 / 2``."""
    rng = np.random.default_rng(seed)
    forward = truth - spread**2 / 2 + spread * rng.standard_normal(n)
    return forward, -truth - spread**2 / 2 + spread * rng.standard_normal(m)


@pytest.mark.parametrize("spread", [0.3, pytest.param(2.0, marks=pytest.mark.slow)])
def test_normal_work(spread):
    """Unequal numbers: Bennett's root by another solver; errors and coverage over 400 replicates."""
    truth, n, m = -3.0, 300, 900
    found = jax.jit(jax.vmap(si.free_energy))(
        *(
            jnp.asarray(np.stack(v))
            for v in zip(*(normal_work(i, truth, spread, n, m) for i in range(400)), strict=True)
        )
    )
    forward, backward = normal_work(0, truth, spread, n, m)
    shift = np.log(n / m)

    def equation(value):
        return special.expit(forward - value - shift).sum() - special.expit(backward + value + shift).sum()

    root = optimize.brentq(equation, -20, 20, xtol=1e-13)
    np.testing.assert_allclose(found.bennett.value[0], root, atol=1e-9)
    low, high = found.bennett.interval
    covered = np.mean((low < truth) & (truth < high))
    # Five standard errors of a frequency of 400.
    assert abs(covered - 0.95) < 5 * (0.95 * 0.05 / 400) ** 0.5
    scatter = np.std(found.bennett.value)
    assert abs(np.mean(found.bennett.standard_error) / scatter - 1) < 5 / 800**0.5
    errors = [np.sqrt(np.mean((np.asarray(e.value) - truth) ** 2)) for e in (found.forward, found.backward)]
    assert np.sqrt(np.mean((np.asarray(found.bennett.value) - truth) ** 2)) < min(errors)
    assert np.mean(found.lower.value) < truth < np.mean(found.upper.value)
    np.testing.assert_allclose(found.lower.value[0], forward.mean(), rtol=1e-12)
    np.testing.assert_allclose(found.upper.value[0], -backward.mean(), rtol=1e-12)
    assert (0.9 < np.mean(found.overlap)) == (spread < 1)


def test_equal_work_and_dead_paths(strict):
    """Constant work is the answer itself; paths that cannot be taken back count as such."""
    same = si.free_energy(jnp.full(5, 2.0), jnp.full(7, -2.0))
    np.testing.assert_allclose([e.value for e in same[:5]], 2.0, atol=1e-9)
    np.testing.assert_allclose(same.overlap, 1.0, atol=1e-9)
    half = si.free_energy(jnp.array([0.0, -jnp.inf, 0.0, -jnp.inf]), jnp.zeros(4))
    np.testing.assert_allclose([half.bennett.value, half.forward.value], -np.log(2.0), atol=1e-9)


def test_refused():
    with pytest.raises(ValueError, match="backward has shape"):
        si.free_energy(jnp.ones(4), jnp.ones(1))


def mixture(num: int, seed: int, dim: int = 10) -> si.GaussianMixture:
    rng = np.random.default_rng(seed)
    factors = 0.4 * rng.normal(size=(num, dim, dim)) / dim**0.5
    covariances = 0.5 * np.eye(dim) + factors @ factors.swapaxes(1, 2)
    return si.GaussianMixture(0.5 * rng.normal(size=num), 1.5 * rng.normal(size=(num, dim)), covariances)


class Biased(si.AbstractFields):
    path: si.AbstractPath
    exact: si.MixtureFields
    bias: jax.Array

    def velocity(self, t, x, condition=None):
        return self.exact.velocity(t, x) + self.bias

    def score(self, t, x, condition=None):
        return self.exact.score(t, x)


BASE, TARGET = mixture(2, 0), mixture(3, 1)


def between(key: int, bias: float, count: int, **settings: object) -> tuple[si.Weighted, si.Weighted]:
    exact = si.MixtureFields(si.Linear(), BASE, TARGET)
    keys = jax.random.split(jax.random.key(key), 3)
    base, target = BASE.sample(keys[0], count), TARGET.sample(keys[1], count)
    fields = Biased(exact.path, exact, jnp.asarray(bias))
    ends = {"log_base": BASE.log_prob, "log_target": lambda x: TARGET.log_prob(x) + 2.0}
    ahead = si.weighted(keys[2], fields, base, **ends, **settings)
    back = si.weighted(jax.random.fold_in(keys[2], 1), fields, target, reverse=True, **ends, **settings)
    return ahead, back


@pytest.mark.slow
def test_ten_dimensions_with_exact_fields(figure):
    ahead, back = between(0, 0.0, 4000)
    share = float(min(ahead.ess, back.ess)) / 4000
    found = si.free_energy(ahead.log_weights, back.log_weights)
    error = max(abs(float(e.value) - 2.0) for e in found[:3])
    figure("Evidence, 10-D mixtures, 100 steps: error", error, "<= 0.03")
    figure("Evidence, 10-D mixtures, 100 steps: effective share", share, ">= 0.6")
    assert error <= 0.03
    assert share >= 0.6


@pytest.mark.slow
def test_ten_dimensions_with_a_biased_drift(figure):
    ahead, back = between(1, 0.3, 4000, epsilon=2.0)
    found = si.free_energy(ahead.log_weights, back.log_weights)
    for name in ("forward", "backward", "bennett"):
        estimate = getattr(found, name)
        assert abs(estimate.value - 2.0) < 3 * estimate.standard_error
    assert found.lower.value + 3 * found.lower.standard_error < 2.0 < found.upper.value - 3 * found.upper.standard_error
    errors = abs(float(found.bennett.value - 2.0)) / float(found.bennett.standard_error)
    figure("Evidence, drift off by 0.3: Bennett's error in standard errors", errors, "<= 3")


@pytest.mark.slow
@pytest.mark.parametrize("bias", [0.0, 0.3])
def test_ten_dimensions_over_replicates(bias, figure):
    """200 replicates of 200 particles: coverage, and what two sides gain over the better one."""
    ahead, back = between(2, bias, 200 * 200, epsilon=2.0, num_steps=60)
    work = (v.log_weights.reshape(200, 200) for v in (ahead, back))
    found = jax.jit(jax.vmap(si.free_energy))(*work)
    low, high = found.bennett.interval
    covered = float(np.mean((low < 2.0) & (2.0 < high)))
    error = {k: np.sqrt(np.mean((np.asarray(getattr(found, k).value) - 2.0) ** 2)) for k in found._fields[:3]}
    ratio = float(error["bennett"] / min(error["forward"], error["backward"]))
    figure(f"Bennett, bias {bias}: coverage of 95 % intervals", covered, "in [0.91, 0.98]")
    figure(f"Bennett, bias {bias}: error over the better one-sided", ratio, "<= 0.7")
    assert 0.91 <= covered <= 0.98
    assert ratio <= 0.7
