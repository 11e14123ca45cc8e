"""Each rule of the verdict is shown to fire and not to fire."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import xarray as xr

import pushforward as pf
from pushforward.infer import Verdict, diagnose
from pushforward.infer._build import build_posterior
from pushforward.infer._variational_checks import khat_threshold, pareto_khat


def test_exact_guide_is_ok_and_its_elbo_is_the_evidence(conjugate_fit):
    posterior = conjugate_fit()
    details = posterior.verdict.details
    assert posterior.verdict.status == "ok", posterior.verdict.reasons
    assert posterior.verdict.reasons == ()
    y = posterior.data["observed_data"]["y"].values
    # y ~ Normal(0, I + 400 11').
    cov = np.eye(y.size) + 400.0
    log_evidence = -0.5 * (y @ np.linalg.solve(cov, y) + np.linalg.slogdet(cov)[1] + y.size * np.log(2 * np.pi))
    assert details["elbo"] == pytest.approx(log_evidence, abs=1e-9)
    assert details["elbo_se"] < 1e-9
    assert details["khat"] == 0.0


def test_elbo_and_its_standard_error_match_the_closed_form(gaussian_target, guided):
    sd, num_draws = 1.3, 20_000
    details = guided(gaussian_target, 0.2, sd, num_draws).verdict.details
    kl = 3 * 0.5 * (sd**2 + 0.04 - 1 - 2 * np.log(sd))
    # The log weight is a quadratic in the standard normal e: a e^2 + b e + const per dimension.
    a, b = 0.5 * (1 - sd**2), -0.2 * sd
    se = np.sqrt(3 * (2 * a**2 + b**2) / num_draws)
    assert details["elbo_se"] == pytest.approx(se, rel=0.1)
    assert abs(details["elbo"] - (1.5 * np.log(2 * np.pi) - kl)) < 5 * se


def test_khat_tells_narrow_from_wide(gaussian_target, guided):
    # A normal guide of sd s has weights with tail index 1 - s^2 (0.98 for s = 0.15), and bounded weights for s > 1.
    narrow = guided(gaussian_target, 0.0, 0.15, 40_000).verdict
    wide = guided(gaussian_target, 0.0, 1.15, 4000).verdict
    assert narrow.status == "doubtful"
    assert narrow.details["khat"] > 0.7 == narrow.details["khat_threshold"]
    assert "k-hat is" in narrow.reasons[0]
    assert "pf.NUTS()" in narrow.reasons[0]
    assert wide.status == "ok", wide.reasons
    assert wide.details["khat"] < 0.3


def test_pareto_khat_recovers_a_known_tail_index():
    # Weights with an exact Pareto tail of index k: w = u^-k. The fit uses 3 sqrt(S) draws; its sd is (1 + k) / sqrt(M).
    num_draws = 40_000
    u = np.random.default_rng(3).uniform(size=num_draws)
    for k in (0.2, 0.6, 0.9):
        _, khat = pareto_khat(-k * np.log(u))
        assert abs(khat - k) < 5 * (1 + k) / np.sqrt(3 * np.sqrt(num_draws))


def test_smoothed_weights_estimate_an_expectation():
    z = np.random.default_rng(4).normal(0.0, 1.2, 20_000)
    log_weights = -0.5 * z**2 + 0.5 * (z / 1.2) ** 2
    smoothed, khat = pareto_khat(log_weights)
    assert khat < 0.5
    assert np.exp(smoothed).sum() == pytest.approx(1.0)
    weights = np.exp(smoothed)
    second = np.sum(weights * z**2)
    assert abs(second - 1.0) < 5 * np.sqrt(np.sum(weights**2 * (z**2 - 1) ** 2))


def test_khat_threshold_falls_with_few_draws():
    assert khat_threshold(100) == pytest.approx(0.5)
    assert khat_threshold(1_000_000) == 0.7


def test_constant_and_rounded_weights_have_no_tail():
    rounded = np.random.default_rng(0).choice([0.0, 6e-5, 1.2e-4], 1000)
    assert pareto_khat(np.zeros(1000))[1] == 0.0
    assert pareto_khat(rounded, rounding=6e-5)[1] == 0.0
    assert np.isnan(pareto_khat(np.random.default_rng(0).normal(size=10))[1])


def test_float32_fit_of_an_exact_guide_is_ok(guided):
    with jax.enable_x64(False):
        target = pf.from_logdensity(lambda v: -0.5 * jnp.sum(v["x"] ** 2) + 3e3, {"x": jnp.zeros(3)})
        posterior = guided(target)
        assert posterior.draws("x").dtype == np.float32
        assert posterior.verdict.status == "ok", posterior.verdict.reasons
        huge = pf.from_logdensity(lambda v: -0.5 * jnp.sum(v["x"] ** 2) + 3e7, {"x": jnp.zeros(3)})
        assert any("enable_x64" in reason for reason in guided(huge).verdict.reasons)


def test_importance_weights_reveal_an_off_centre_or_narrow_guide(conjugate_fit):
    moved = conjugate_fit(shift=0.6).verdict
    narrow = conjugate_fit(widen=0.72).verdict
    assert any("off centre" in reason and "mu" in reason for reason in moved.reasons)
    assert moved.details["psis_mean_shift"] == pytest.approx(-0.6, abs=0.1)
    assert any("too narrow in mu" in reason for reason in narrow.reasons)
    assert narrow.details["psis_sd_ratio"] == pytest.approx(1 / 0.72, rel=0.1)
    # Errors below the thresholds pass.
    assert conjugate_fit(shift=0.1).verdict.ok
    assert conjugate_fit(widen=0.9).verdict.ok


def test_few_draws_are_doubtful(conjugate_fit):
    assert any("Monte Carlo error" in reason for reason in conjugate_fit(num_draws=60).verdict.reasons)
    assert not any("Monte Carlo error" in reason for reason in conjugate_fit(num_draws=101).verdict.reasons)


def test_nonfinite_weights_and_draws_fail(gaussian_target, guided):
    half_line = pf.from_logdensity(
        lambda v: jnp.where(v["x"][0] > 0, -0.5 * jnp.sum(v["x"] ** 2), -jnp.inf), {"x": jnp.zeros(3)}
    )
    verdict = guided(half_line).verdict
    assert verdict.status == "failed"
    assert "importance weights are not finite" in verdict.reasons[0]
    draws = np.random.default_rng(0).normal(size=(1, 100, 3))
    draws[0, 3, 1] = np.nan
    failed = build_posterior(
        gaussian_target, {"x": draws}, kind="variational", algorithm="x", sample_stats={"log_q": np.zeros((1, 100))}
    )
    assert failed.verdict.status == "failed"
    assert "1 of 300 values of 'x' are not finite" in failed.verdict.reasons[0]


def restarts(elbo, mean, sd, converged=None, **more):
    elbo, mean, sd = np.asarray(elbo, float), np.asarray(mean, float), np.asarray(sd, float)
    return {
        "restart_elbo": (("restart",), elbo),
        "restart_elbo_se": (("restart",), np.full(elbo.shape, 0.05)),
        "restart_mean": (("restart", "parameter"), mean),
        "restart_sd": (("restart", "parameter"), sd),
        "converged": (("restart",), np.ones(elbo.shape, bool) if converged is None else np.asarray(converged)),
        "parameter": (("parameter",), ["a", "b"]),
        **more,
    }


@pytest.mark.parametrize(
    ("record", "expected"),
    [
        (restarts([-10.0, -10.1], [[0, 1], [0.2, 1]], [[1, 1], [1, 1.2]]), None),
        (restarts([-10.0, -10.1], [[0, 1], [0, 4]], [[1, 1], [1, 1]]), "means of b differ by 3.0 posterior sd"),
        (restarts([-10.0, -10.1], [[0, 1], [0, 1]], [[1, 1], [2, 1]]), "sds of a differ by a factor 2.0"),
        # The pooled sd of 1 and 1.4 is 1.217: 0.55 is 0.452 of it.
        (restarts([-10.0, -10.1], [[0, 1], [0.55, 1]], [[1, 1], [1.4, 1]]), None),
        # A clearly worse optimum holds no mass worth mentioning: no fault.
        (restarts([-10.0, -16.0], [[0, 1], [0, 4]], [[1, 1], [1, 1]]), None),
        (restarts([-10.0, -10.1], [[0, 1], [0, 1]], [[1, 1], [1, 1]], [False, True]), "had not converged"),
        (restarts([-10.0, -10.1], [[0, 1], [0, 1]], [[1, 1], [1, 1]], [True, False]), None),
        (restarts([-10.0, np.nan], [[0, 1], [0, 1]], [[1, 1], [1, 1]]), "1 of 2 restarts ended with a non-finite"),
    ],
)
def test_restart_rules(conjugate_fit, record, expected):
    verdict = conjugate_fit(optimization=record).verdict
    if expected is None:
        assert verdict.ok, verdict.reasons
    else:
        assert verdict.status == "doubtful"
        assert expected in " ".join(verdict.reasons)
    assert len(verdict.details["restarts"]) == 2
    assert verdict.details["restarts_agree"] is (expected is None or "differ" not in expected)


def test_named_best_restart_is_the_one_judged(conjugate_fit):
    record = restarts([-10.0, -10.1], [[0, 1]] * 2, [[1, 1]] * 2, [True, False], best_restart=((), np.asarray(1)))
    assert any("had not converged" in reason for reason in conjugate_fit(optimization=record).verdict.reasons)


def iid(seed=0, num_chains=4, num_draws=1000):
    return np.random.default_rng(seed).normal(size=(num_chains, num_draws, 3))


def test_good_chains_are_ok(chains):
    posterior = chains(
        iid(), diverging=np.zeros((4, 1000), bool), energy=np.random.default_rng(1).normal(size=(4, 1000)),
        reached_max_treedepth=np.zeros((4, 1000), bool), acceptance_rate=np.full((4, 1000), 0.8),
    )  # fmt: skip
    verdict = posterior.verdict
    assert verdict.ok, verdict.reasons
    assert verdict.reasons == ()
    assert verdict.details["rhat_max"] < 1.01
    assert verdict.details["ess_bulk_min"] > 3000
    assert verdict.details["bfmi_min"] > 1.5


def autocorrelated(rho, num_draws=1000):
    noise = iid(2, num_draws=num_draws)
    out = np.empty_like(noise)
    out[:, 0] = noise[:, 0]
    for i in range(1, num_draws):
        out[:, i] = rho * out[:, i - 1] + np.sqrt(1 - rho**2) * noise[:, i]
    return out


def test_slow_chains_are_doubtful_with_the_expected_ess(chains):
    verdict = chains(autocorrelated(0.9)).verdict
    # An AR(1) chain has ESS = n (1 - rho) / (1 + rho) = 210 of 4000, below 100 per chain.
    assert verdict.details["ess_bulk_min"] == pytest.approx(210, rel=0.35)
    assert verdict.status == "doubtful"
    assert "effective sample size" in " ".join(verdict.reasons)


def test_separated_chains_are_doubtful(chains):
    draws = iid()
    draws[0, :, 1] += 3.0
    verdict = chains(draws).verdict
    assert verdict.status == "doubtful"
    assert "R-hat of x[1]" in " ".join(verdict.reasons)


def test_stuck_chain_fails(chains):
    draws = iid()
    draws[2] = 0.5
    verdict = chains(draws).verdict
    assert verdict.status == "failed"
    assert "Chain(s) [2] never moved" in verdict.reasons[0]


def test_transition_rules(chains):
    diverging = np.zeros((4, 1000), bool)
    diverging[1, :7] = True
    verdict = chains(iid(), diverging=diverging).verdict
    assert verdict.status == "doubtful"
    assert "7 of 4000 transitions diverged" in verdict.reasons[0]
    assert "target_accept" in verdict.reasons[0]
    assert chains(iid(), diverging=~diverging).verdict.status == "failed"

    deep = np.full((4, 1000), 3)
    deep[:, :100] = 10
    verdict = chains(iid(), tree_depth=deep, attrs={"max_tree_depth": 10}).verdict
    assert "10 % of the transitions hit the largest tree depth" in verdict.reasons[0]
    assert chains(iid(), tree_depth=deep, attrs={"max_tree_depth": 11}).verdict.ok

    slow = autocorrelated(0.95)[..., 0]
    verdict = chains(iid(), energy=slow).verdict
    # An AR(1) energy has E-BFMI 2 (1 - rho) = 0.1.
    assert verdict.details["bfmi_min"] == pytest.approx(0.1, abs=0.06)
    assert "E-BFMI" in verdict.reasons[0]


def test_few_chains_are_mentioned_not_faulted(chains):
    verdict = chains(iid(num_chains=2)).verdict
    assert verdict.ok
    assert "4 or more" in verdict.reasons[0]


def test_screen_finds_the_one_bad_scalar_of_many():
    from pushforward.infer._mcmc_checks import _worst_by_screen

    draws = np.random.default_rng(0).normal(size=(5000, 2, 50))
    draws[1234, 1] += 5.0
    draws[4321] = np.cumsum(draws[4321], axis=-1)
    chosen = _worst_by_screen(draws)
    assert {1234, 4321} <= set(chosen.tolist())
    assert len(chosen) <= 2000


def test_particles(gaussian_target):
    def cloud(draws):
        return build_posterior(gaussian_target, {"x": draws}, kind="particles", algorithm="SVGD").verdict

    assert cloud(iid(num_chains=2, num_draws=300)).ok
    collapsed = np.ones((1, 300, 3))
    assert cloud(collapsed).status == "failed"
    assert "9 particles" in cloud(iid(num_chains=1, num_draws=9)).reasons[0]
    assert cloud(iid(num_chains=1, num_draws=10)).ok
    apart = iid(num_chains=2, num_draws=300)
    apart[1] += 2.0
    assert "Replicas disagree" in cloud(apart).reasons[0]


@pytest.mark.parametrize(("error", "status"), [(0.4, "ok"), (0.6, "doubtful")])
def test_an_evidence_of_large_error_is_doubtful(gaussian_target, error, status):
    attrs = {"log_evidence": -1.0, "log_evidence_error": error}
    draws = iid(num_chains=2, num_draws=400)
    posterior = build_posterior(gaussian_target, {"x": draws}, kind="particles", algorithm="SMC", attrs=attrs)
    assert posterior.verdict.status == status, posterior.verdict.reasons
    assert ("log evidence" in " ".join(posterior.verdict.reasons)) == (status == "doubtful")


def test_point_estimate_is_ok_but_says_what_it_is(gaussian_target):
    def point(converged):
        return build_posterior(
            gaussian_target, {"x": np.zeros((1, 1, 3))}, kind="point", algorithm="Delta",
            optimization={"converged": (("restart",), np.array([converged]))},
        ).verdict  # fmt: skip

    assert point(True).ok
    assert "point estimate" in point(True).reasons[0]
    assert point(False).status == "doubtful"


def test_verdict_survives_json_and_prints(conjugate_fit):
    verdict = conjugate_fit(widen=0.3).verdict
    again = Verdict.from_json(verdict.to_json())
    assert again == verdict
    assert str(verdict).startswith("verdict: doubtful\n  - k-hat")


def test_diagnose_refuses_trees_of_others():
    with pytest.raises(ValueError, match="arviz_stats"):
        diagnose(xr.DataTree())


def test_diagnose_recomputes(conjugate_fit):
    posterior = conjugate_fit()
    assert posterior.verdict.ok
    posterior.data["sample_stats"]["lp"][:] += np.linspace(0, 30, 2000) ** 2
    assert posterior.verdict.ok
    assert posterior.diagnose().status == "doubtful"
    assert posterior.verdict.status == "doubtful"


def test_site_weights_are_noted(schools_target, guided):
    site = next(s.name for s in schools_target.program.sites if s.kind == "observed")
    for target, noted in ((schools_target, False), (schools_target.scaled({site: 2.0}), True)):
        verdict = guided(target).verdict
        assert ("site_weights" in verdict.details) == noted
        assert any(f"{site} x 2" in reason and "no bound" in reason for reason in verdict.reasons) == noted
