"""Leave-one-out accuracy against a closed form, and comparisons of fits."""

from __future__ import annotations

import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest

import pushforward as pf
from pushforward.infer._build import build_posterior

Y = np.random.default_rng(5).normal(3.0, 1.0, 20)


def exact_elpd(y):
    """Leave-one-out density of y ~ Normal(mu, 1), mu ~ Normal(0, 20)."""
    total = 0.0
    for i in range(y.size):
        rest = np.delete(y, i)
        precision = 1 / 400 + rest.size
        mean, var = rest.sum() / precision, 1 / precision + 1
        total += -0.5 * (y[i] - mean) ** 2 / var - 0.5 * np.log(2 * np.pi * var)
    return total


@pytest.mark.parametrize("widen", [1.0, 1.3])
def test_loo_matches_the_closed_form(conjugate_fit, widen):
    # With widen = 1.3 the plain formula would be off: log p and log q correct for the guide.
    result = conjugate_fit(widen=widen, num_draws=8000).loo()
    assert abs(result.elpd - exact_elpd(Y)) < 0.05
    assert result.elpd_i.dims == ("obs",)
    assert (result.pareto_k < 0.7).all()


def test_loo_of_chains_matches_the_closed_form(conjugate_fit):
    fit = conjugate_fit(num_draws=8000)
    chains = build_posterior(fit.target, {"mu": fit.draws("mu").reshape(4, 2000)}, kind="mcmc", algorithm="NUTS")
    assert abs(chains.loo().elpd - exact_elpd(Y)) < 0.05
    import arviz_stats

    assert chains.loo().elpd == pytest.approx(arviz_stats.loo(chains.data).elpd)


def two_sites(a=None, b=None):
    mu = numpyro.sample("mu", dist.Normal(0.0, 1.0))
    with numpyro.plate("i", 3):
        numpyro.sample("a", dist.Normal(mu, 1.0), obs=a)
    with numpyro.plate("j", 2):
        numpyro.sample("b", dist.Normal(mu, 1.0), obs=b)


def test_site_must_be_chosen(guided):
    posterior = guided(pf.from_numpyro(two_sites, a=np.zeros(3), b=np.ones(2)), 0.3, 0.4, 2000)
    with pytest.raises(ValueError, match=r"several sites \['a', 'b'\]"):
        posterior.loo()
    assert posterior.loo("a").n_data_points == 3
    assert posterior.loo("b").n_data_points == 2
    with pytest.raises(ValueError, match="Unknown observed site 'c'"):
        posterior.loo("c")


def test_loo_is_refused_without_draws(conjugate_fit):
    target = conjugate_fit().target
    point = build_posterior(target, {"mu": np.full((1, 1), 3.0)}, kind="point", algorithm="Delta")
    with pytest.raises(ValueError, match="point estimate"):
        point.loo()


def test_compare_same_model(conjugate_fit):
    exact, wide = conjugate_fit(num_draws=4000), conjugate_fit(widen=1.2, shift=0.2, num_draws=4000)
    result = pf.compare({"exact": exact, "wide": wide})
    row = result.differences.query("fit == 'wide'").iloc[0]
    assert row["parameter"] == "mu"
    assert row["mean_difference"] == pytest.approx(0.2, abs=5 * 1.6 / np.sqrt(4000))
    assert row["sd_ratio"] == pytest.approx(1.2, abs=5 * 1.2 / np.sqrt(4000))
    assert set(result.table.index) == {"exact", "wide"}
    assert result.table["weight"].sum() == pytest.approx(1.0)
    assert result.table.iloc[0]["delta"] == 0.0
    assert (result.table["verdict"] == "ok").all()
    assert "largest difference of means from exact" in repr(result)


def test_compare_ranks_models_and_pairs_the_differences(conjugate_fit, guided):
    def fixed(y=None, num=20):
        mu = numpyro.sample("mu", dist.Normal(0.0, 0.1))
        with numpyro.plate("obs", num):
            numpyro.sample("y", dist.Normal(mu, 1.0), obs=y)

    good = conjugate_fit()
    precision = 100 + 20
    tight = guided(pf.from_numpyro(fixed, y=Y, num=20), float(Y.sum() / precision), precision**-0.5, 2000)
    result = pf.compare(
        {"tight": tight, "good": good}, reference="good", distance=lambda x, y: abs(x.mean() - y.mean())
    )
    assert list(result.table.index) == ["good", "tight"]
    assert list(result.table["rank"]) == [0, 1]
    gap = result.loo["good"].elpd_i.values - result.loo["tight"].elpd_i.values
    assert result.table.loc["tight", "delta"] == pytest.approx(gap.sum())
    assert result.table.loc["tight", "delta_se"] == pytest.approx(np.sqrt(20 * gap.var()))
    assert result.table.loc["good", "weight"] > 0.9
    shift = abs(good.draws("mu").mean() - tight.draws("mu").mean()) / good.draws("mu").std()
    assert result.table.loc["tight", "distance"] == pytest.approx(shift)


def test_compare_refuses_nonsense(conjugate_fit):
    fit = conjugate_fit()
    with pytest.raises(ValueError, match="different data"):
        pf.compare([fit, conjugate_fit(y=Y + 1)])
    with pytest.raises(ValueError, match="different data"):
        pf.compare([fit, conjugate_fit(y=Y[:-1])])
    with pytest.raises(ValueError, match="at least two"):
        pf.compare([fit])
    with pytest.raises(ValueError, match="at least two posteriors"):
        pf.compare([fit, "other"])
    with pytest.raises(ValueError, match="reference must be one of"):
        pf.compare([fit, fit], reference="none")


def test_compare_numbers_fits_of_one_name(conjugate_fit):
    fit = conjugate_fit()
    assert set(pf.compare([fit, fit]).table.index) == {"NormalGuide 0", "NormalGuide 1"}


def test_one_observation_is_no_reason_to_warn(guided, recwarn):
    def single(y):
        mu = numpyro.sample("mu", dist.Normal(0.0, 1.0))
        numpyro.sample("y", dist.Normal(mu, 1.0), obs=y)

    fit = guided(pf.from_numpyro(single, 0.4), 0.2, 0.7, 500)
    result = pf.compare([fit, fit])
    assert np.isfinite(result.table["elpd"]).all()
    assert not [str(w.message) for w in recwarn if "point-wise LOO" in str(w.message)]


def test_compare_without_data_still_compares_posteriors(gaussian_target, guided):
    result = pf.compare({"a": guided(gaussian_target), "b": guided(gaussian_target, 0.5)})
    assert result.table["elpd"].isna().all()
    assert len(result.differences) == 3
    assert result.differences["mean_difference"].mean() == pytest.approx(0.5, abs=0.15)
    repr(result)
