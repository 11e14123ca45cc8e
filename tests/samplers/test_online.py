"""Figures over all steps in bounded memory, against the same figures from all draws."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
import registry
from arviz_stats.base import array_stats

import pushforward as pf


def model():
    with numpyro.plate("group", 2):
        numpyro.sample("scale", dist.LogNormal(0.0, 0.5))
    numpyro.sample("x", dist.Normal(1.0, 2.0))


def settings(getkey):
    start = {"scale": jnp.zeros((4, 2)), "x": jnp.zeros(4)}
    return {"key": getkey(), "num_chains": 4, "num_warmup": 100, "init": start, "progress": False}


def test_online_figures_equal_those_of_all_draws(getkey):
    target = pf.from_numpyro(model)
    common = settings(getkey)
    every = pf.sample(target, pf.SGLD(0.3), num_steps=6000, **common)
    few = pf.sample(target, pf.SGLD(0.3), num_steps=6000, max_draws=200, **common)
    online = few.data["online"]
    assert few.data["posterior"].sizes["draw"] == 187  # every 32nd of 6,000
    kept = every.data["posterior"]["x"].values[:, 31::32]
    np.testing.assert_array_equal(few.data["posterior"]["x"], kept)
    flat = np.concatenate([every.data["posterior"][n].values.reshape(24_000, -1) for n in ("scale", "x")], axis=1)
    np.testing.assert_allclose(online["covariance"], np.cov(flat.T), rtol=1e-8)
    for name, dims in (("scale", ("group",)), ("x", ())):
        draws = every.data["posterior"][name]
        figure = online[name]
        assert figure.dims == ("statistic", *dims)
        np.testing.assert_allclose(figure.sel(statistic="mean"), draws.mean(("chain", "draw")), rtol=1e-10)
        np.testing.assert_allclose(figure.sel(statistic="sd"), draws.std(("chain", "draw"), ddof=1), rtol=1e-10)
        for row, at in (("5%", 0.05), ("50%", 0.5), ("95%", 0.95)):
            of_kept = np.quantile(few.data["posterior"][name], at, axis=(0, 1))
            np.testing.assert_allclose(figure.sel(statistic=row), of_kept)
        values = draws.values.reshape(4, 6000, -1)
        for j in range(values.shape[2]):
            ess = array_stats.ess(values[..., j], method="mean")
            # Batch means of 46 or so batches per chain: a standard error of 2 / sqrt(2 x 184), twice that allowed.
            ratio = np.ravel(figure.sel(statistic="ess"))[j] / ess
            assert 0.75 < ratio < 1.35, ratio
            r_hat = array_stats.rhat(values[..., j], method="split")
            assert abs(np.ravel(figure.sel(statistic="r_hat"))[j] - r_hat) < 2e-3


def test_chains_that_disagree_have_a_large_online_r_hat(getkey):
    target = pf.from_logdensity(lambda x: jnp.logaddexp(-0.5 * (x - 10) ** 2, -0.5 * (x + 10) ** 2), jnp.zeros(()))
    start = jnp.asarray([10.0, -10.0, 10.0, -10.0])
    posterior = pf.sample(
        target, pf.SGLD(0.3), key=getkey(), num_steps=640, num_chains=4, init=start, max_draws=64, progress=False
    )
    figure = posterior.data["online"]["x"]
    assert float(figure.sel(statistic="r_hat")) > 3.0
    # At most one independent draw per batch: 40 batches of 16 steps in each of 4 chains.
    assert float(figure.sel(statistic="ess")) < 200
    assert posterior.verdict.status == "doubtful"
    assert any("R-hat of x" in reason for reason in posterior.verdict.reasons)


def test_the_verdict_goes_by_all_steps(getkey):
    """Sixteen draws of each chain say nothing, its 6,400 steps enough; steps that are too small are seen as such.

    An autoregression of coefficient 1 - eps: one effective draw in three steps, and one in 4,000.
    """
    target = pf.from_logdensity(lambda x: -0.5 * x**2, jnp.zeros(()))
    common = {"num_steps": 6400, "num_chains": 4, "num_warmup": 100, "init": jnp.zeros(4), "progress": False}
    good = pf.sample(target, pf.SGLD(0.5), key=getkey(), max_draws=16, **common).verdict
    assert good.status == "ok", good.reasons
    assert good.details["ess_mean_min"] == pytest.approx(25_600 / 3, rel=0.4)
    assert good.details["num_steps"] == 6400
    assert any("too few for intervals" in reason for reason in good.reasons)
    slow = pf.sample(target, pf.SGLD(0.0005), key=getkey(), max_draws=16, **common).verdict
    assert slow.status == "doubtful"
    assert any("mean effective sample size of x" in reason for reason in slow.reasons), slow.reasons


def test_kept_draws_show_what_means_do_not(getkey):
    """A chain as far as the others in the mean but wider: the ranks of the kept draws show it."""
    target = pf.from_logdensity(lambda x: -0.5 * x**2, jnp.zeros(()))
    common = {"num_steps": 6400, "num_chains": 4, "init": jnp.zeros(4), "progress": False}
    posterior = pf.sample(target, pf.SGLD(0.5), key=getkey(), max_draws=400, **common)
    assert posterior.verdict.status == "ok", posterior.verdict.reasons
    draws = posterior.data["unconstrained_posterior"]["position"]
    widened = draws.values * np.asarray([[5.0], [1.0], [1.0], [1.0]])
    posterior.data["unconstrained_posterior"]["position"] = draws.copy(data=widened)
    assert any("R-hat of position" in reason for reason in posterior.diagnose().reasons)
    assert posterior.verdict.details["rhat_max"] < 1.01 < posterior.verdict.details["rhat_kept_max"]


def test_online_r_hat_of_chains_that_drift_is_that_of_split_chains(getkey):
    """640 steps are 40 batches of 16, so that halves are halves; without the drift of a chain the variance is wrong."""
    target = pf.from_logdensity(lambda x: -0.5 * x**2, jnp.zeros(()))
    settings = {"key": getkey(), "num_steps": 640, "num_chains": 4, "init": jnp.full(4, 30.0), "progress": False}
    every = pf.sample(target, pf.SGLD(0.003), **settings).data["posterior"]["x"].values
    few = pf.sample(target, pf.SGLD(0.003), max_draws=16, **settings).data["online"]["x"]
    np.testing.assert_allclose(few.sel(statistic="r_hat"), array_stats.rhat(every, method="split"), rtol=5e-3)


def test_chains_put_aside_are_in_no_figure(getkey):
    """Chain 2 runs into a wall of NaN: mean and sd are those of the three others, which one far chain would move."""

    def logdensity(x):
        return jnp.where(x > 30.0, jnp.nan, jnp.where(x > 20.0, 1e6 * x, -0.5 * x**2))

    target = pf.from_logdensity(logdensity, jnp.zeros(()))
    start = {"key": getkey(), "num_chains": 4, "init": jnp.asarray([0.0, 1.0, 25.0, -1.0]), "progress": False}
    every = pf.sample(target, pf.SGLD(0.1), num_steps=300, **start)
    few = pf.sample(target, pf.SGLD(0.1), num_steps=300, max_draws=16, **start)
    online = few.data["online"]
    assert "covariance" not in online
    draws = every.data["posterior"]["x"]
    assert draws.sizes["chain"] == 3
    np.testing.assert_allclose(online["x"].sel(statistic="mean"), draws.mean(), rtol=1e-10)
    np.testing.assert_allclose(online["x"].sel(statistic="sd"), draws.std(ddof=1), rtol=1e-10)


def test_a_resumed_run_gives_the_same_figures(getkey, tmp_path):
    target = pf.from_numpyro(model)
    common = {**settings(getkey), "max_draws": 16}
    whole = pf.sample(target, pf.SGLD(0.3), num_steps=300, **common)
    pf.sample(target, pf.SGLD(0.3), num_steps=90, checkpoint=tmp_path / "run", **common)
    again = pf.resume(tmp_path / "run", num_steps=300, progress=False)
    for name in ("scale", "x", "covariance"):
        np.testing.assert_array_equal(whole.data["online"][name], again.data["online"][name])
    np.testing.assert_array_equal(whole.data["posterior"]["x"], again.data["posterior"]["x"])
    again.save(tmp_path / "result.nc")
    loaded = pf.load(tmp_path / "result.nc")
    np.testing.assert_array_equal(loaded.data["online"]["x"], whole.data["online"]["x"])


@pytest.mark.parametrize("max_draws", [7, 2, True, 10.0])
def test_bad_max_draws(max_draws, getkey):
    with pytest.raises(ValueError, match="max_draws"):
        pf.sample(
            registry.gaussian_target(), pf.SGLD(0.1), key=getkey(), num_steps=10, max_draws=max_draws, progress=False
        )


def test_thinning_is_refused_where_it_would_do_nothing(getkey):
    with pytest.raises(ValueError, match="thin=2 with max_draws=100"):
        pf.sample(
            registry.gaussian_target(),
            pf.SGLD(0.1),
            key=getkey(),
            num_steps=10,
            thin=2,
            max_draws=100,
            progress=False,
        )


def test_particles_that_are_draws_at_the_end_keep_nothing(getkey):
    with pytest.raises(ValueError, match="draws at the end only"):
        pf.sample(registry.gaussian_target(), pf.SVGD(10), key=getkey(), num_steps=10, max_draws=100, progress=False)
