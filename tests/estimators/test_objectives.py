"""Objectives against closed forms on a conjugate Gaussian, their order, their limits and their refusals."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import registry
import scipy.stats
from oracles import gaussian_bounds, k_draws

import pushforward as pf
from pushforward.estimators.gradients._base import derivatives, leave_one_out, second_derivatives
from pushforward.estimators.objectives import log_power_mean

LOG_EVIDENCE = -1.25
ROOT_Q, ROOT_P = np.array([[0.88, 0.0], [-0.05, 0.77]]), np.array([[0.8, 0.0], [-0.1, 0.7]])
Q = gaussian_bounds.gaussian([0.2, 0.1], ROOT_Q @ ROOT_Q.T)
P = gaussian_bounds.gaussian([0.0, 0.3], ROOT_P @ ROOT_P.T)
NUM_DRAWS = 100_000
ALL = {f"{name} {i}": case for name, cases in registry.OBJECTIVES.items() for i, case in enumerate(cases)}


@functools.cache
def log_weights() -> jax.Array:
    """Log-weights of a guide that covers a Gaussian posterior; drawn and evaluated by the library."""
    precision = np.linalg.inv(P.covariance)
    constant = LOG_EVIDENCE - 0.5 * np.linalg.slogdet(2 * np.pi * P.covariance)[1]

    def logdensity(z):
        d = z - P.mean
        return constant - 0.5 * d @ precision @ d

    target = pf.from_logdensity(logdensity, jnp.zeros(2))
    guide = pf.FullRank(target, init_scale=1.0).affine(jnp.asarray(Q.mean), jnp.asarray(ROOT_Q))

    def one(key):
        z, log_q = guide.sample_and_log_prob(key)
        return target.logdensity(z) - log_q

    return jax.jit(jax.vmap(one))(jax.random.split(jax.random.key(5), NUM_DRAWS))


def tvo_limit(partition) -> float:
    """Left Riemann sum of d log E_q[w^b] / db, by differences of the closed form."""
    slope = lambda b: k_draws.derivative(lambda x: gaussian_bounds.log_moment(Q, P, x[0]), np.array([b]), 1e-3)[0]  # noqa: E731
    return LOG_EVIDENCE + sum((hi - lo) * slope(lo) for lo, hi in zip(partition, partition[1:], strict=False))


CLOSED_FORMS = {
    "ELBO": (pf.ELBO(), gaussian_bounds.elbo(Q, P, LOG_EVIDENCE)),
    "IWELBO": (pf.IWELBO(), LOG_EVIDENCE),
    "VIS": (pf.VIS(), LOG_EVIDENCE),
    "ForwardKL": (pf.ForwardKL(), LOG_EVIDENCE),
    **{
        f"Renyi({a})": (pf.Renyi(a), gaussian_bounds.renyi(Q, P, LOG_EVIDENCE, a))
        for a in (-1.0, 0.0, 0.5, 0.95, 1.0, 1.3, 2.0)
    },
    **{f"CUBO({n})": (pf.CUBO(n), gaussian_bounds.cubo(Q, P, LOG_EVIDENCE, n)) for n in (1.5, 2.0, 3.0)},
    "TVO": (pf.TVO(registry.PARTITION), tvo_limit(registry.PARTITION)),
    "TVO(1)": (pf.TVO(1), gaussian_bounds.elbo(Q, P, LOG_EVIDENCE)),
}
LOSSES = {
    "VIS: log second moment": (pf.VIS(), 2 * gaussian_bounds.cubo(Q, P, LOG_EVIDENCE, 2.0)),
    "ForwardKL: KL(p || q)": (pf.ForwardKL(), gaussian_bounds.kl(P, Q)),
    "ELBO: KL(q || p)": (pf.ELBO(), gaussian_bounds.kl(Q, P) - LOG_EVIDENCE),
    "CUBO: exponential": (
        pf.CUBO(2.0, exponential=True, offset=-1.0),
        np.exp(2 * (gaussian_bounds.cubo(Q, P, LOG_EVIDENCE, 2.0) + 1.0)),
    ),
}


def jackknife(function, weights, blocks: int = 50) -> tuple[float, float]:
    """Bias-corrected value of a function of all draws, and its standard error."""
    parts = np.asarray(weights).reshape(blocks, -1)
    whole = float(function(weights))
    without = np.array([float(function(np.delete(parts, i, axis=0).ravel())) for i in range(blocks)])
    error = np.sqrt((blocks - 1) * np.mean((without - without.mean()) ** 2))
    return whole - (blocks - 1) * (without.mean() - whole), float(error)


def standard_errors(per_test: float = 3.0) -> float:
    """The bound for all comparisons together that has the false-alarm rate of ``per_test`` for one."""
    count = len(CLOSED_FORMS) + len(LOSSES)
    return scipy.stats.norm.isf(scipy.stats.norm.sf(per_test) / count)


@pytest.mark.parametrize("name", [*CLOSED_FORMS, *LOSSES])
def test_closed_form(name):
    is_value = name in CLOSED_FORMS
    objective, exact = CLOSED_FORMS[name] if is_value else LOSSES[name]
    function = jax.jit(objective if is_value else objective.guide_loss)
    value, error = jackknife(function, log_weights())
    assert 0 < error < 0.02
    assert abs(value - exact) < standard_errors() * error
    # The check means something: a value that forgets the number of draws, or has the wrong sign, is far away.
    assert abs(value + np.log(2.0) - exact) > 5 * standard_errors() * error


def test_bounds_in_order():
    values = {name: float(objective(log_weights())) for name, (objective, _) in CLOSED_FORMS.items()}
    assert values["ELBO"] < values["TVO"] < values["IWELBO"] < values["CUBO(2.0)"] < values["CUBO(3.0)"]
    exact = {name: value for name, (_, value) in CLOSED_FORMS.items()}
    assert exact["ELBO"] < exact["TVO"] < LOG_EVIDENCE < exact["CUBO(2.0)"] < exact["CUBO(3.0)"]
    assert exact["Renyi(2.0)"] < exact["ELBO"] < exact["Renyi(0.5)"] < LOG_EVIDENCE < exact["Renyi(-1.0)"]
    finer = [float(pf.TVO(n)(log_weights())) for n in (1, 2, 5, 50)]
    assert finer == sorted(finer)


def test_chi_square_of_vis():
    second = -float(pf.VIS().guide_gain(log_weights()))
    assert np.expm1(second - 2 * LOG_EVIDENCE) == pytest.approx(gaussian_bounds.chi_square(Q, P), rel=0.05)


SMALL = jnp.asarray([0.3, -1.2, 2.5, 0.31, -4.0])


@pytest.mark.parametrize("name", list(ALL))
def test_definition_symmetry_and_shift(name, strict):
    case = ALL[name]
    for function, exact in [
        (case.objective, case.value),
        (case.objective.model_gain, case.model),
        *([] if case.objective.fixed_draws else [(case.objective.guide_gain, case.guide)]),
    ]:
        assert float(function(SMALL)) == pytest.approx(float(exact(np.asarray(SMALL))), rel=1e-12)
        assert float(function(SMALL[::-1])) == pytest.approx(float(function(SMALL)), rel=1e-12)
    for shift in (-3e3, 2e3):
        assert float(case.objective(SMALL + shift)) == pytest.approx(float(case.objective(SMALL)) + shift, rel=1e-12)
    assert float(case.objective(jnp.full(7, -1.5))) == pytest.approx(-1.5, rel=1e-12)


@pytest.mark.parametrize("x64", [True, False])
def test_derivatives_agree_with_automatic_ones(x64):
    gains = {name: case.objective.guide_gain for name, case in ALL.items()}

    def both(weights):
        def one(gain):
            swapped = [gain(weights.at[k].set(jnp.delete(weights, k).mean())) for k in range(weights.size)]
            automatic = jax.grad(gain)(weights), jnp.diagonal(jax.hessian(gain)(weights)), jnp.stack(swapped)
            return automatic, (
                derivatives(gain, weights),
                second_derivatives(gain, weights),
                leave_one_out(gain, weights),
            )

        return {name: one(gain) for name, gain in gains.items()}

    with jax.enable_x64(x64):
        found = jax.jit(both)(jnp.asarray(np.asarray(SMALL), jnp.result_type(float)))
        for name, pair in found.items():
            for automatic, ours in zip(*pair, strict=True):
                assert ours.dtype == jnp.result_type(float)
                scale = max(1.0, float(jnp.abs(automatic).max()))
                np.testing.assert_allclose(ours, automatic, atol=(1e-10 if x64 else 3e-5) * scale, err_msg=name)


def test_renyi_limits():
    np.testing.assert_allclose(pf.Renyi(1.0)(SMALL), pf.ELBO()(SMALL), rtol=1e-15)
    np.testing.assert_allclose(pf.Renyi(0.0)(SMALL), pf.IWELBO()(SMALL), rtol=1e-15)
    assert float(pf.Renyi(np.inf)(SMALL)) == float(SMALL.min())
    assert float(pf.Renyi(-np.inf)(SMALL)) == float(SMALL.max())
    assert float(pf.Renyi(1e4)(SMALL)) == pytest.approx(float(SMALL.min()), abs=1e-3)
    decreasing = [float(pf.Renyi(a)(SMALL)) for a in (-np.inf, -2.0, 0.0, 0.5, 0.999, 1.0, 1.001, 2.0, 9.0, np.inf)]
    assert decreasing == sorted(decreasing, reverse=True)


POWERS = (1e-1, 1e-2, 1e-3, 1e-5, 1e-9, 1e-16, -1e-9, -1e-4, -9e-2)


@pytest.mark.parametrize("offset", [0.0, -300.0])
def test_renyi_near_one_loses_no_digits(offset):
    """Single precision against the same formula in extended precision; value and gradient."""
    with jax.enable_x64(False):
        weights = jnp.asarray(np.asarray(SMALL) + offset, jnp.float32)
        exact_w = np.asarray(weights).astype(np.longdouble)
        found = jax.jit(lambda w: {p: jax.value_and_grad(log_power_mean)(w, p) for p in POWERS})(weights)
    for power, (value, slope) in found.items():
        assert value.dtype == jnp.float32
        d = power * (exact_w - exact_w.mean())
        exact = exact_w.mean() + np.log1p(np.expm1(d).mean()) / power
        np.testing.assert_allclose(float(value), float(exact), atol=3e-7 * (7 + abs(offset)), err_msg=str(power))
        np.testing.assert_allclose(slope, (np.exp(d) / np.exp(d).sum()).astype(float), rtol=1e-5, err_msg=str(power))


def test_far_draws_and_zero_weights():
    wide = jnp.asarray([-1e4, 0.0, 3.0, -jnp.inf])
    for power in (1.0, 0.5, 0.05, 1e-6):
        value, slope = jax.value_and_grad(log_power_mean)(wide, power)
        exact = np.log(np.mean(np.exp(power * np.asarray(wide)))) / power
        np.testing.assert_allclose(value, exact, rtol=1e-6)
        assert bool(jnp.all(jnp.isfinite(slope)))
        assert float(slope[3]) == 0.0
    assert float(pf.ELBO()(wide)) == -np.inf
    np.testing.assert_allclose(jax.grad(pf.CUBO(2.0))(jnp.asarray([800.0, 0.0])), [1.0, 0.0], atol=1e-12)


def test_custom():
    @pf.objective
    def middle(log_weights):
        return jax.nn.logsumexp(0.5 * log_weights) * 2.0 - 2.0 * jnp.log(1.0 * log_weights.shape[0])

    np.testing.assert_allclose(middle(SMALL), pf.Renyi(0.5)(SMALL), rtol=1e-12)
    assert middle.smooth
    assert middle.common
    assert not middle.upper

    @pf.objective(minimise=True)
    def spread(log_weights):
        return jnp.var(log_weights)

    assert spread.upper
    assert not spread.common
    np.testing.assert_allclose(spread.guide_gain(SMALL), -jnp.var(SMALL), rtol=1e-12)
    np.testing.assert_allclose(spread.model_gain(SMALL), pf.IWELBO()(SMALL), rtol=1e-12)
    with jax.enable_x64(False):
        assert middle(jnp.zeros(3, jnp.float32)).dtype == jnp.float32


def test_jumps_in_the_slope_are_found():
    for function in (jnp.var, pf.CUBO(3.0)):
        assert pf.objective(function).smooth
    for function in (
        lambda w: jnp.mean(jnp.sort(w)[1:]),
        lambda w: jnp.mean(jnp.clip(w, -5.0, 5.0)),
        lambda w: jnp.mean(jnp.maximum(w, -222.0)),
        lambda w: jnp.mean(jnp.abs(w - jnp.mean(w))),
    ):
        assert not pf.objective(function).smooth
    with jax.enable_x64(False):
        assert pf.objective(jnp.var).smooth
        assert not pf.objective(jnp.max).smooth


BAD = {
    "order": (lambda: pf.CUBO(1.0), "log evidence itself"),
    "order nan": (lambda: pf.CUBO(float("nan")), "finite order above 1"),
    "offset": (lambda: pf.CUBO(2.0, exponential=True, offset=float("inf")), "finite guess"),
    "alpha": (lambda: pf.Renyi(float("nan")), "real number or infinity"),
    "no interval": (lambda: pf.TVO(0), "at least one interval"),
    "no start": (lambda: pf.TVO((0.1, 1.0)), "start at 0 and end at 1"),
    "decreasing": (lambda: pf.TVO((0.0, 0.6, 0.5, 1.0)), "increasing"),
    "nan": (lambda: pf.TVO((0.0, float("nan"), 1.0)), "increasing"),
    "float": (lambda: pf.TVO(5.0), "number of intervals"),
    "vector": (lambda: pf.objective(lambda w: w), "expected a floating-point scalar"),
    "integer": (lambda: pf.objective(lambda w: jnp.argmax(w)), "expected a floating-point scalar"),
    "broken": (lambda: pf.objective(lambda w, other: w.sum()), "failed on 4 log-weights"),
    "host": (lambda: pf.objective(lambda w: float(w.sum())), "failed on 4 log-weights"),
    "no function": (lambda: pf.objective(3.0), "expected a JAX function"),
    "CUBO, one draw": (lambda: pf.CUBO(2.0).check(1), "exponential=True"),
    "VIS, one draw": (lambda: pf.VIS().check(1), "flee the posterior"),
    "Renyi, one draw": (lambda: pf.Renyi(-1.0).check(1), "flee the posterior"),
    "ForwardKL, one draw": (lambda: pf.ForwardKL().check(1), "always one"),
}


@pytest.mark.parametrize("name", list(BAD))
def test_bad_settings_are_refused(name):
    build, message = BAD[name]
    with pytest.raises(ValueError, match=message):
        build()


def test_one_draw_is_accepted_where_it_makes_sense():
    for objective in (pf.ELBO(), pf.IWELBO(), pf.Renyi(0.5), pf.TVO(), pf.CUBO(2.0, exponential=True)):
        objective.check(1)


@pytest.mark.slow
def test_default_draws_keep_an_upper_bound_from_collapsing():
    """With 8 draws the chi-square bound of this three-dimensional Gaussian is smallest for a guide of no width."""
    target = registry.gaussian_target()
    posterior = gaussian_bounds.gaussian(registry.MEAN, registry.COVARIANCE)
    for objective in (pf.CUBO(2.0), pf.CUBO(2.0, exponential=True, offset=1.5)):
        fitted = pf.fit(
            target,
            pf.MeanField(),
            objective=objective,
            num_restarts=1,
            num_steps=500,
            key=jax.random.key(0),
            progress=False,
        ).guide
        found = gaussian_bounds.gaussian(fitted.loc, fitted.covariance())
        assert gaussian_bounds.cubo(found, posterior, 0.0, 2.0) < 0.25, fitted


def test_path_refuses_objectives_whose_slope_jumps():
    target = registry.gaussian_target()
    guide = pf.MeanField(target)
    for objective in (pf.Renyi(np.inf), pf.objective(lambda w: jnp.max(w))):
        with pytest.raises(ValueError, match="jumps"):
            pf.Path().check(objective, target, guide, 4)
        pf.Reparam().check(objective, target, guide, 4)
