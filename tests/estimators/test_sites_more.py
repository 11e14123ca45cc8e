"""Strategies that move draws with their parameters, each against quadrature, and the known ladder of variances."""

from __future__ import annotations

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import pytest
from scipy import integrate, special
from scipy.stats import norm

from pushforward.estimators.sites import Implicit, Rejection, Relax, ScoreSite
from pushforward.estimators.sites._gamma import log_gamma_velocity
from pushforward.estimators.sites._von_mises import attach_von_mises

from .site_cases import SiteCase, estimates, exact
from .site_cases_more import FAST, MORE_SITES

COMPARISONS = sum(4 * len(case.theta) for case in MORE_SITES.values())
THRESHOLD = norm.isf(0.005 / COMPARISONS)
"""In standard errors; the whole table raises one false alarm in a hundred seeds."""


def worst(case: SiteCase, strategy: Any = None) -> tuple[float, float]:
    """Largest |z|, and largest standard error relative to the largest gradient of the same power."""
    truth = exact(case)
    mean, error = estimates(case, jax.random.key(11), case.count, strategy)
    rounding = 1e-9 * np.abs(truth).max()
    size = np.abs(truth).max(axis=1, keepdims=True)
    return float(np.max(np.abs(mean - truth) / (error + rounding))), float(np.max(error / size))


@pytest.mark.parametrize("name", [n if n in FAST else pytest.param(n, marks=pytest.mark.slow) for n in MORE_SITES])
def test_moments(name: str) -> None:
    z, relative = worst(MORE_SITES[name])
    assert z < THRESHOLD
    assert relative < 0.01


# -- implicit ------------------------------------------------------------------------------------------------------


class _Faster(Implicit):
    """Velocities a factor off."""

    def draw(self, key: Any, fn: Any) -> Any:
        value = super().draw(key, fn)
        return jax.lax.stop_gradient(value) + 1.02 * (value - jax.lax.stop_gradient(value))


class _Turned(Implicit):
    """The von Mises draw that turns along with its location, which carries probability across the cut."""

    def draw(self, key: Any, fn: Any) -> Any:
        value = super().draw(key, fn)
        return jax.lax.stop_gradient(value) + fn.loc - jax.lax.stop_gradient(fn.loc)


class _NoCorrection(Rejection):
    """The score term of the accepted noise left out."""

    def surrogate(self, key: Any, fn: Any, value: Any, outcome: Any, current: Any) -> Any:
        return jnp.zeros((), current.dtype)


class _OneTerm(eqx.Module):
    """The control variate subtracted, and not put back."""

    inner: Relax
    pathwise = False

    def draw(self, key: Any, fn: Any) -> Any:
        return self.inner.draw(key, fn)

    def surrogate(self, key: Any, fn: Any, value: Any, outcome: Any, current: Any) -> Any:
        return ScoreSite().surrogate(key, fn, value, outcome, current - 0.3 * outcome(value))


@pytest.mark.parametrize(
    ("name", "mutant"),
    [
        ("Mixture/Implicit", _Faster()),
        ("VonMises/Implicit", _Turned()),
        ("Gamma, no augmentation/Rejection", _NoCorrection(augmentation=0)),
        ("Bernoulli/Relax relax", _OneTerm(MORE_SITES["Bernoulli/Relax relax"].strategy)),
    ],
)
def test_mutants_are_caught(name: str, mutant: Any) -> None:
    assert worst(MORE_SITES[name], mutant)[0] > THRESHOLD


@pytest.mark.parametrize("concentration", [0.003, 0.05, 1.0, 50.0, 2e5])
def test_gamma_velocity(concentration: float) -> None:
    """Against differences of the distribution function, in both precisions, into tails where the variate underflows."""
    u = np.array([1e-3, 0.05, 0.5, 0.95, 0.999])
    z = special.gammaincinv(concentration, u)
    # Where the quantile itself underflows, F = z^a / Gamma(a + 1) exactly.
    log_z = np.where(
        z > 1e-250, np.log(np.maximum(z, 1e-300)), (np.log(u) + special.gammaln(concentration + 1)) / concentration
    )
    h = 1e-5 * concentration

    def quantile(a: float) -> np.ndarray:
        inside = np.log(np.maximum(special.gammaincinv(a, u), 1e-300))
        return np.where(z > 1e-250, inside, (np.log(u) + special.gammaln(a + 1)) / a)

    truth = (quantile(concentration + h) - quantile(concentration - h)) / (2 * h)
    velocity = jax.jit(log_gamma_velocity)
    found = velocity(jnp.asarray(log_z), jnp.asarray(concentration))
    np.testing.assert_allclose(found, truth, rtol=2e-5)
    with jax.enable_x64(False):
        single = velocity(jnp.asarray(log_z, jnp.float32), jnp.asarray(concentration, jnp.float32))
        assert single.dtype == jnp.float32
    np.testing.assert_allclose(single, found, rtol=3e-3 if concentration > 1e3 else 2e-5)


@pytest.mark.parametrize(("loc", "concentration"), [(0.3, 0.01), (0.3, 2.0), (-2.0, 30.0), (0.0, 4000.0)])
def test_von_mises_velocity(loc: float, concentration: float) -> None:
    """Against quadrature of the density's derivatives from the cut."""
    spread = min(1.0, concentration**-0.5)
    z = np.array([loc - 2.5 * spread, loc - 0.4 * spread, loc + 0.1 * spread, loc + 3.0 * spread])
    z = z[np.abs(z) < np.pi]

    def density(x: float, k: float) -> float:
        return np.exp(k * (np.cos(x - loc) - 1)) / (2 * np.pi * special.i0e(k))

    mean = special.i1e(concentration) / special.i0e(concentration)
    by_concentration = [
        -integrate.quad(
            lambda x: (np.cos(x - loc) - mean) * density(x, concentration),
            -np.pi, point, points=[max(-np.pi, loc - 8 * spread), loc], limit=400, epsabs=1e-14,
        )[0] / density(point, concentration)
        for point in z
    ]  # fmt: skip
    by_loc = 1.0 - density(-np.pi, concentration) / density(z, concentration)
    ones = jnp.ones(len(z))
    args = (jnp.asarray(z), loc * ones, concentration * ones)
    zeros = jnp.zeros(len(z))
    found_loc = jax.jvp(attach_von_mises, args, (zeros, ones, zeros))[1]
    found_concentration = jax.jvp(attach_von_mises, args, (zeros, zeros, ones))[1]
    np.testing.assert_allclose(found_loc, by_loc, atol=1e-9)
    np.testing.assert_allclose(found_concentration, by_concentration, rtol=1e-6, atol=1e-9 * spread)


def test_symmetric_beta_of_tiny_concentration() -> None:
    """Both gamma variates underflow in single precision; their ratio and its gradient must not."""
    with jax.enable_x64(False):
        a = jnp.full((10_000,), 0.004, jnp.float32)

        def total_outcome(a: Any) -> Any:
            value = Implicit().draw(jax.random.key(0), dist.Beta(a, jnp.full_like(a, 0.5)))
            return jnp.sum(value * (1 - value))

        gradient = jax.jit(jax.grad(total_outcome))(a)
    assert gradient.dtype == jnp.float32
    exact_slope = float(jax.grad(lambda a: a * 0.5 / ((a + 0.5) * (a + 1.5)))(0.004))
    error = float(jnp.std(gradient)) / np.sqrt(a.size)
    assert abs(float(jnp.mean(gradient)) - exact_slope) < 5 * error
    assert error < 0.2 * exact_slope


@pytest.mark.parametrize(
    ("strategy", "fn", "message"),
    [
        (Implicit(), dist.Poisson(1.0), "discrete"),
        (Implicit(), dist.SineBivariateVonMises(0.0, 0.0, 1.0, 1.0, 0.1), "no univariate cdf"),
        (Rejection(), dist.Normal(0.0, 1.0), "not made of gamma variates"),
        (Relax("rebar"), dist.Poisson(1.0), "no relaxed twin"),
        (Relax("rebar"), dist.Categorical(logits=jnp.zeros(3)), "integer values"),
        (Relax("relax"), dist.Multinomial(4, jnp.ones(3) / 3), "total_count=1"),
    ],
)
def test_refusals(strategy: Any, fn: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        strategy.check("angle", fn)
    assert "'angle'" in str(caught.value)
    assert "pf." in str(caught.value)


# -- rejection -----------------------------------------------------------------------------------------------------


def test_augmentation_shrinks_the_score_term() -> None:
    fn, keys = dist.Gamma(1.5, 1.0), jax.random.split(jax.random.key(5), 4000)

    def variance(augmentation: int) -> float:
        strategy = Rejection(augmentation=augmentation)

        def one(key: Any) -> Any:
            current = jnp.log(strategy.draw(key, fn))
            fixed = jax.lax.stop_gradient(current)
            return jax.grad(
                lambda a: strategy.surrogate(key, dist.Gamma(a, 1.0), current, jnp.log, fixed).astype(float)
            )(1.5)

        return float(jnp.var(jax.jit(jax.vmap(one))(keys)))

    none, ten = variance(0), variance(10)
    assert ten < 0.05 * none


# -- relaxations ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["rebar", "relax"])
def test_control_variate_learns(method: str) -> None:
    """On (b - 0.499)^2, where the score function has nothing to hold on to, steps bring the variance down."""

    def outcome(b: Any) -> Any:
        return (jnp.asarray(b, float) - 0.499) ** 2

    def gradient(strategy: Any, key: Any, logit: Any) -> Any:
        value = strategy.draw(key, dist.Bernoulli(logits=logit))
        current = outcome(value)
        return jax.grad(
            lambda x: strategy.surrogate(key, dist.Bernoulli(logits=x), value, outcome, current).astype(float)
        )(logit)

    @jax.jit
    def train(strategy: Any, keys: Any) -> Any:
        dynamic, static = eqx.partition(strategy, eqx.is_inexact_array)

        def step(dynamic: Any, key: Any) -> tuple[Any, None]:
            strategy = eqx.combine(dynamic, static)
            fn = dist.Bernoulli(logits=jnp.asarray(0.0))

            def one(key: Any) -> Any:
                value = strategy.draw(key, fn)
                return eqx.filter(strategy.steps(key, fn, value, outcome, outcome(value)), eqx.is_inexact_array)

            steps = jax.tree.map(lambda s: s.mean(0), jax.vmap(one)(jax.random.split(key, 8)))
            return jax.tree.map(jnp.subtract, dynamic, steps), None

        return jax.lax.scan(step, dynamic, keys)[0]

    def variance(strategy: Any) -> float:
        keys = jax.random.split(jax.random.key(1), 20_000)
        return float(jnp.var(jax.jit(jax.vmap(lambda k: gradient(strategy, k, jnp.asarray(0.0))))(keys)))

    start = Relax(method)
    learned = eqx.combine(train(start, jax.random.split(jax.random.key(2), 1000)), start)
    plain, before, after = variance(ScoreSite()), variance(start), variance(learned)
    assert after < before
    # The relaxed square is as symmetric as the true one: rebar can only find out that it is of no use.
    assert after < (0.5 if method == "relax" else 1.05) * plain
    assert jax.tree.structure(learned) == jax.tree.structure(start)


def test_the_biased_method_has_to_be_asked_for_and_says_so() -> None:
    assert not Relax().bias
    with pytest.warns(UserWarning, match="biased"):
        strategy = Relax("gumbel-softmax", temperature=0.4)
    assert strategy.bias
    assert strategy.pathwise
    case = MORE_SITES["Bernoulli/Relax rebar"]
    assert worst(case._replace(strategy=strategy))[0] > THRESHOLD
    with pytest.raises(ValueError, match="expected one of"):
        Relax("straight-through")
    with pytest.raises(ValueError, match="positive temperature"):
        Relax(temperature=0.0)


def test_relaxed_sites_in_plates_and_events() -> None:
    """Elements of a plate reach their own outcomes; elements of an event share one. Same answer as one by one."""
    logits = jnp.asarray([[0.3, -0.5], [1.0, 0.2], [-0.7, 0.1]])
    strategy, key = MORE_SITES["Bernoulli/Relax relax"].strategy, jax.random.key(3)

    def gradient(event: bool) -> Any:
        def outcome(b: Any) -> Any:
            cells = (jnp.asarray(b, float) - 0.3) ** 2
            return jnp.sum(cells, -1) if event else cells

        def law(logits: Any) -> Any:
            fn = dist.Bernoulli(logits=logits)
            return fn.to_event(1) if event else fn

        value = strategy.draw(key, law(logits))
        current = outcome(value)
        return jax.grad(lambda x: strategy.surrogate(key, law(x), value, outcome, current))(logits), value

    apart, value = gradient(event=False)
    assert value.dtype == jnp.result_type(int)
    together, same = gradient(event=True)
    np.testing.assert_array_equal(value, same)
    assert apart.shape == together.shape == logits.shape
    # Shared outcomes add a cross term: the score of one cell times the outcome of the other.
    assert float(jnp.max(jnp.abs(apart - together))) > 1e-3


# -- ladder --------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_dirichlet_variance_ladder(figure: Any) -> None:
    """Dirichlet with K = N = 100 at the exact posterior of multinomial counts, coordinate of an unseen category."""
    counts = jnp.asarray(np.random.default_rng(1).multinomial(100, np.ones(100) / 100), float)
    posterior = 1.0 + counts.at[0].set(0.0).at[1].add(counts[0])
    num_draws = 10_000
    alpha = jnp.broadcast_to(posterior, (num_draws, 100))

    def law(alpha: Any) -> Any:
        return dist.Dirichlet(alpha, validate_args=False)

    def log_joint(z: Any) -> Any:
        return jnp.log(z) @ (posterior - 1.0)

    @jax.jit
    def gradients(alpha: Any) -> tuple[Any, ...]:
        z, pull = jax.vjp(lambda a: Implicit().draw(jax.random.key(3), law(a)), alpha)
        slope = jax.grad(lambda z: jnp.sum(log_joint(z)))(z)
        entropy = jax.grad(lambda z: jnp.sum(law(posterior).log_prob(z)))(z)

        def score(baseline: Any) -> Any:
            current = log_joint(z) - baseline
            return jax.grad(lambda a: ScoreSite().surrogate(jax.random.key(3), law(a), z, log_joint, current))(alpha)

        found = pull(slope)[0], pull(slope - entropy)[0], score(0.0), score(jnp.mean(log_joint(z)))
        return tuple(g[:, 0] for g in found)

    implicit, path, plain, baseline = (np.asarray(g) for g in gradients(alpha))
    exact_slope = -100.0 * float(special.polygamma(1, 200.0))
    assert abs(implicit.mean() - exact_slope) < 5 * implicit.std() / np.sqrt(num_draws)
    figure("Dirichlet K = N = 100: variance, implicit", float(implicit.var()), "<= 0.08")
    figure("Dirichlet: the same with the path gradient", float(path.var()), "<= 1e-10")
    figure("Dirichlet: REINFORCE over implicit", float(plain.var() / implicit.var()), ">= 1e6")
    figure(
        "Dirichlet: REINFORCE with constant baseline over implicit", float(baseline.var() / implicit.var()), ">= 500"
    )
    assert implicit.var() <= 0.08
    assert path.var() <= 1e-10
    assert np.abs(path).max() < 1e-9
    assert plain.var() >= 1e6 * implicit.var()
    assert baseline.var() >= 500 * implicit.var()
