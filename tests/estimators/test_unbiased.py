"""Every objective with every gradient estimator against the exact gradient of its K-draw expectation.

A one-dimensional conjugate Gaussian with a learnable model parameter: y | z ~ N(theta z, 1), z ~ N(0, 1). The guide is
wider than the posterior, so that all weights are bounded and all estimators have moments. The exact gradients come from
Gauss-Hermite quadrature of definitions written in NumPy, never from the library.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
import registry
import scipy.stats

import pushforward as pf
from pushforward.estimators.gradients import _baselines, _path, _reparam, _score

from .conjugate import AT, CASES, LOG_CONSTANT, Y, exact_gradient

NUM_REPEATS = 40_000
FAMILY_WISE_ALPHA = 1e-6
"""False-alarm probability of this file, all its comparisons together (Bonferroni over two-sided z-tests)."""


def model(y):
    theta = numpyro.param("theta", AT[2])
    z = numpyro.sample("z", dist.Normal(0.0, 1.0))
    numpyro.sample("y", dist.Normal(theta * z, 1.0), obs=y)
    numpyro.factor("constant", LOG_CONSTANT)


class Bias(eqx.Module):
    """The smallest network: one number, and a function, as networks have them."""

    value: jax.Array
    activation: Callable = jnp.tanh

    def __call__(self, batch):
        return self.activation(self.value)


def estimators():
    """Every registered estimator, and the score gradient with every baseline."""
    running = _baselines.AverageBaseline(-0.1, 1.0)
    learned = pf.LearnedBaseline(Bias(jnp.asarray(0.3)), 0.01, running, _baselines.AverageBaseline(0.8, 1.0))
    baselines = {"none": "none", "number": -0.2, "function": lambda batch: 0.1, "average": running, "learned": learned}
    return {**registry.GRADIENTS, **{f"Score {name}": pf.Score(b) for name, b in baselines.items()}}


class Comparison(NamedTuple):
    """Mean gradient of many repeats and its standard error, against the exact one."""

    mean: np.ndarray
    error: np.ndarray
    exact: np.ndarray

    @property
    def z(self) -> float:
        """Largest deviation in standard errors."""
        certain = self.error < 1e-12
        if not np.allclose(self.mean[certain], self.exact[certain], atol=1e-6):
            return np.inf
        return float(np.max(np.abs(self.mean - self.exact)[~certain] / self.error[~certain], initial=0.0))


def bound():
    target = pf.from_numpyro(model, jnp.asarray(Y))
    guide = pf.MeanField(target, init_scale=float(np.exp(AT[1])))
    return target, guide.affine(jnp.asarray(AT[:1]), jnp.ones(1))


def accepted(gradient, case, num_particles: int) -> bool:
    target, guide = bound()
    try:
        gradient.check(case.objective, target, guide, num_particles)
    except ValueError:
        return False
    return True


def compare(gradient, cases, num_particles: int, key) -> dict[str, Comparison]:
    """Mean gradients of all objectives from the same draws, compiled together."""
    target, guide = bound()
    # Whatever numbers an estimator has learned so far, it is unbiased.
    gradient = jax.tree.map(lambda x: x + 0.4 if eqx.is_inexact_array(x) else x, gradient.bind(target, guide))

    def repeat(noise):
        def one(case):
            _, grads = gradient.value_and_grad(noise, case.objective, target, guide, num_particles)
            return jnp.stack([grads.guide.loc[0], grads.guide.log_scale[0], grads.model["theta"]])

        return {name: one(case) for name, case in cases.items()}

    @jax.jit
    def moments(noise):
        draws = jax.vmap(repeat)(noise)
        return jax.tree.map(lambda x: (x.mean(0), x.std(0) / x.shape[0] ** 0.5), draws)

    noise = jax.random.normal(key, (NUM_REPEATS, num_particles, 1))
    return {
        name: Comparison(*map(np.asarray, found), exact_gradient(name, num_particles))
        for name, found in moments(noise).items()
    }


def limit() -> float:
    """Largest |z| that a correct library exceeds anywhere in this file with probability FAMILY_WISE_ALPHA."""
    return scipy.stats.norm.isf(FAMILY_WISE_ALPHA / (2 * 3 * 2 * len(CASES) * len(estimators())))


def pairs():
    """Estimators and numbers of particles; those that only repeat what the others show are left to `make verify`."""
    for name in estimators():
        for num_particles in (1, 4):
            quick = num_particles == 4 and name in registry.GRADIENTS and name != "Adaptive"
            marks = [] if quick else [pytest.mark.slow]
            yield pytest.param(name, num_particles, marks=marks)


@pytest.mark.parametrize(("name", "num_particles"), list(pairs()))
def test_pair(name, num_particles, getkey):
    gradient = estimators()[name]
    cases = {k: case for k, case in CASES.items() if accepted(gradient, case, num_particles)}
    if num_particles > 1:
        assert "ELBO 0" in cases
    elif not cases:
        pytest.skip("refused with one particle")
    found = compare(gradient, cases, num_particles, getkey())
    worst = max(found, key=lambda k: found[k].z)
    assert found[worst].z < limit(), (worst, found[worst])
    # The comparison means something: what is estimated is known to a few per cent.
    for name, comparison in found.items():
        assert np.all(comparison.error < 0.05 * np.abs(comparison.exact).max() + 0.02), (name, comparison)


def test_the_quadrature_has_converged():
    for name in CASES:
        np.testing.assert_allclose(exact_gradient(name, 4), exact_gradient(name, 4, 24), atol=1e-5, err_msg=name)


class Mutant(NamedTuple):
    """A fault planted in an estimator: a function of its module replaced, and objectives where that must show."""

    estimator: str
    module: object
    function: str
    fault: object
    cases: tuple[str, ...]


def scaled(factor):
    """Replaces a function by a multiple of itself."""
    return lambda original: lambda gain, weights: factor * original(gain, weights)


def including_own(original):
    """A baseline that contains the draw it is subtracted from."""
    return lambda gain, weights: 0.5 * (original(gain, weights) + gain(weights))


def never_moving(original):
    """Draws that do not follow the guide: the path through z is dropped."""
    return lambda key, target, guide, count, batch, law=None: original(
        key, target, guide, count, batch, law=jax.lax.stop_gradient(guide)
    )


MUTANTS = {
    "Reparam: flipped sign": Mutant("Reparam", _reparam, "derivatives", scaled(-1.0), ("ELBO 0", "IWELBO 0")),
    "Reparam: missing 1/K": Mutant("Reparam", _reparam, "derivatives", scaled(4.0), ("ELBO 0", "VIS 0")),
    "Reparam: dropped path": Mutant("Reparam", _reparam, "log_weights", never_moving, ("IWELBO 0", "TVO 0")),
    "Path: dropped F_kk": Mutant("Path", _path, "second_derivatives", scaled(0.0), ("IWELBO 0", "Renyi 0", "CUBO 1")),
    "Path: flipped F_kk": Mutant("Path", _path, "second_derivatives", scaled(-1.0), ("VIS 0", "ForwardKL 0")),
    "Path: missing 1/K": Mutant("Path", _path, "derivatives", scaled(4.0), ("ELBO 0", "custom")),
    "Score: dropped F_k": Mutant("Score", _score, "derivatives", scaled(0.0), ("IWELBO 0", "ForwardKL 0")),
    "Score: flipped F_k": Mutant("Score", _score, "derivatives", scaled(-1.0), ("IWELBO 0", "Renyi 1")),
    "Score: missing 1/K": Mutant("Score", _score, "derivatives", scaled(4.0), ("VIS 0", "CUBO 1")),
    "Score: own draw in the baseline": Mutant("Score", _baselines, "leave_one_out", including_own, ("ELBO 0", "TVO 0")),
}


@pytest.mark.parametrize("name", [pytest.param(n, marks=[pytest.mark.slow] if "missing" in n else []) for n in MUTANTS])
def test_mutant_is_seen(name, getkey, monkeypatch):
    mutant = MUTANTS[name]
    monkeypatch.setattr(mutant.module, mutant.function, mutant.fault(getattr(mutant.module, mutant.function)))
    cases = {k: CASES[k] for k in mutant.cases}
    for case, found in compare(registry.GRADIENTS[mutant.estimator], cases, 4, getkey()).items():
        assert found.z > 2 * limit(), (case, found)


@pytest.mark.slow
@pytest.mark.parametrize("name", list(registry.GRADIENTS))
def test_any_estimator_with_a_wrong_sign_or_scale_is_seen(name, getkey):
    """For estimators that join by a registry entry: the suite rejects their gradient negated, or K times too large."""
    gradient = registry.GRADIENTS[name]
    cases = {k: CASES[k] for k in ("ELBO 0", "IWELBO 0") if accepted(gradient, CASES[k], 4)}
    for found in compare(gradient, cases, 4, getkey()).values():
        for factor in (-1.0, 4.0, 0.0):
            wrong = found._replace(mean=factor * found.mean, error=np.maximum(abs(factor), 1.0) * found.error)
            assert wrong.z > 2 * limit(), (factor, found)


@pytest.mark.slow
@pytest.mark.parametrize("name", list(registry.GRADIENTS))
def test_forward_kl_tends_to_the_exact_gradient(name, getkey):
    """Bias of self-normalised weights falls like 1/K; all estimators share it."""
    if not accepted(registry.GRADIENTS[name], CASES["ForwardKL 0"], 8):
        pytest.skip("refused")
    precision = 1.0 + AT[2] ** 2
    mean = AT[2] * Y / precision
    spread = 1 / precision + (mean - AT[0]) ** 2
    exact = -np.array([(mean - AT[0]) / np.exp(2 * AT[1]), spread / np.exp(2 * AT[1]) - 1.0])
    target, guide = bound()

    def one(key, count):
        grads = registry.GRADIENTS[name].value_and_grad(key, pf.ForwardKL(), target, guide, count)[1].guide
        return jnp.stack([grads.loc[0], grads.log_scale[0]])

    biases = []
    for count in (8, 64, 512):
        repeats = 400_000 // count
        draws = jax.jit(lambda keys, c=count: jax.lax.map(lambda k: one(k, c), keys, batch_size=64))(
            jax.random.split(getkey(), repeats)
        )
        error = np.asarray(draws.std(0)) / np.sqrt(repeats)
        biases.append(np.asarray(draws.mean(0)) - exact)
        # First-order bias with K draws, from the exact K = 8 bias, within noise.
        assert np.all(np.abs(biases[-1]) < 1.2 * 8 / count * np.abs(forward_kl_bias(exact)) + limit() * error)
    assert np.abs(biases[-1]).max() < 0.05 * np.abs(exact).max()


def forward_kl_bias(exact):
    """Bias with four draws, halved: the bias at eight, up to second order."""
    return 0.5 * (exact_gradient("ForwardKL 0", 4)[:2] - exact)
