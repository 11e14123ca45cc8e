"""The data tree of a result: schema, names, dtypes, tables, and its use with ArviZ."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest

import pushforward as pf
from pushforward.infer._build import build_posterior


def test_schema(schools_target, guided):
    posterior = guided(schools_target, num_draws=200, provenance={"seed": jax.random.key(7), "config": {"lr": 0.1}})
    tree = posterior.data
    assert set(tree.children) == {
        "posterior", "unconstrained_posterior", "sample_stats", "observed_data", "constant_data",
    }  # fmt: skip
    group = tree["posterior"]
    assert group["mu"].dims == ("chain", "draw")
    assert group["theta"].dims == ("chain", "draw", "school")
    assert group["better"].dims[:2] == ("chain", "draw")
    assert group.sizes["chain"] == 1
    assert group.sizes["draw"] == 200
    assert list(group["school"].values) == ["A", "B", "C", "D"]
    assert list(group.data_vars) == ["mu", "tau", "theta", "better", "twice"]
    assert group["better"].dtype == bool
    assert tree["observed_data"]["y"].dims == ("school",)
    np.testing.assert_array_equal(tree["constant_data"]["sigma"].values, [15, 10, 16, 11])
    for node in tree.subtree:
        assert not set(node.data_vars) & set(node.dims)
        assert {"created_at", "inference_library", "inference_library_version"} <= set(node.attrs)
    assert tree.attrs["sampler_kind"] == "variational"
    assert tree.attrs["dtype"] == "float64"
    assert tree.attrs["seed"] == "[0, 7]"
    assert tree.attrs["config"] == '{"lr": 0.1}'
    assert {"version_jax", "version_numpyro", "version_python", "device", "model"} <= set(tree.attrs)


def test_draws_are_the_positions_constrained(schools_target, guided):
    posterior = guided(schools_target, num_draws=50)
    positions = posterior.positions
    assert jax.tree.structure(positions) == jax.tree.structure(schools_target.example)
    third = jax.tree.map(lambda leaf: jnp.asarray(leaf[0, 3]), positions)
    for site, value in schools_target.constrain(third).items():
        np.testing.assert_allclose(posterior.draws(site)[3], value, rtol=1e-14)
    stats = posterior.data["sample_stats"]
    assert float(stats["lp"][0, 3]) == pytest.approx(float(schools_target.logdensity(third)), rel=1e-12)
    assert float(stats["log_q"][0, 3]) == pytest.approx(float(posterior.guide.log_prob(third)), rel=1e-12)


def test_log_q_is_computed_from_the_guide(schools_target, guided):
    first = guided(schools_target, num_draws=20)
    again = build_posterior(schools_target, first.positions, kind="variational", algorithm="x", guide=first.guide)
    np.testing.assert_allclose(again.data["sample_stats"]["log_q"], first.data["sample_stats"]["log_q"], rtol=1e-12)
    with pytest.raises(ValueError, match="log_q"):
        build_posterior(schools_target, first.positions, kind="variational", algorithm="x")


def awkward(y=None):
    """Every name and dtype that a file or the schema could trip over."""
    mu = numpyro.sample("mu", dist.Normal(0.0, 1.0).expand([3]).to_event(1))
    with numpyro.handlers.scope(prefix="inner"):
        w = numpyro.sample("w", dist.Dirichlet(jnp.ones(4)))
    numpyro.deterministic("count", jnp.arange(3))
    numpyro.deterministic("flag", mu > 0)
    numpyro.deterministic("half", mu.astype(jnp.bfloat16))
    numpyro.deterministic("wave", mu + 1j * mu)
    numpyro.deterministic("square", jnp.outer(mu, mu))
    numpyro.sample("y", dist.Normal(mu.sum() + w[0], 1.0), obs=y)


def test_awkward_names_and_dtypes(guided, tmp_path):
    target = pf.from_numpyro(awkward, y=jnp.asarray(1.0), dims={"square": ("row", "row"), "mu": ("mu",)})
    posterior = guided(target, num_draws=30)
    group = posterior.data["posterior"]
    assert group["mu"].dims == ("chain", "draw", "mu_dim")
    assert "inner.w" in group.data_vars
    assert group["square"].dims == ("chain", "draw", "row", "row_1")
    assert group["wave"].dims[-1] == "real_imag"
    assert group["half"].dtype == np.float32
    assert posterior.data["unconstrained_posterior"]["inner.w"].shape == (1, 30, 3)
    assert posterior.draws("inner/w").shape == (30, 4)
    posterior.save(tmp_path / "awkward.nc")
    again = pf.load(tmp_path / "awkward.nc")
    for name in group.data_vars:
        assert again.data["posterior"][name].dtype == group[name].dtype
        np.testing.assert_array_equal(again.data["posterior"][name].values, group[name].values)


def test_typed_keys_and_extra_axes_in_statistics(gaussian_target, tmp_path):
    keys = jax.random.split(jax.random.key(0), (1, 10))
    posterior = build_posterior(
        gaussian_target, {"x": np.random.default_rng(0).normal(size=(1, 10, 3))}, kind="particles", algorithm="x",
        sample_stats={"key": keys, "momentum": np.zeros((1, 10, 3), np.float32)},
    )  # fmt: skip
    assert posterior.data["sample_stats"]["key"].dims == ("chain", "draw", "key_dim_0")
    np.testing.assert_array_equal(posterior.data["sample_stats"]["key"], jax.random.key_data(keys))
    posterior.save(tmp_path / "keys.nc")


def test_any_pytree_is_a_position(guided):
    @jax.tree_util.register_dataclass
    @dataclasses.dataclass
    class Line:
        slope: jax.Array
        offsets: list

    example = Line(jnp.zeros(()), [jnp.zeros(2), jnp.zeros(1)])
    target = pf.from_logdensity(
        lambda v: -0.5 * (v.slope**2 + jnp.sum(v.offsets[0] ** 2) + v.offsets[1][0] ** 2), example
    )
    draws = jax.tree.map(lambda leaf: np.random.default_rng(0).normal(size=(2, 5, *leaf.shape)), example)
    posterior = build_posterior(target, draws, kind="particles", algorithm="x")
    assert jax.tree.structure(posterior.positions) == jax.tree.structure(draws)
    jax.tree.map(np.testing.assert_array_equal, posterior.positions, draws)


def test_float32_stays_float32(guided):
    with jax.enable_x64(False):
        target = pf.from_logdensity(lambda v: -0.5 * jnp.sum(v["x"] ** 2), {"x": jnp.zeros(2)})
        posterior = guided(target, num_draws=20)
    for name in ("posterior", "unconstrained_posterior"):
        assert posterior.data[name]["x"].dtype == np.float32
    assert posterior.data.attrs["dtype"] == "float32"


@pytest.mark.parametrize(
    ("positions", "kind", "message"),
    [
        ({"x": np.zeros((2, 0, 3))}, "mcmc", "no draws"),
        ({"x": np.zeros(3)}, "mcmc", "chain, draw"),
        ({"x": np.zeros((1, 5, 3))}, "magic", "'particles'"),
    ],
)
def test_bad_input(gaussian_target, positions, kind, message):
    with pytest.raises(ValueError, match=message):
        build_posterior(gaussian_target, positions, kind=kind, algorithm="x")


def test_statistics_of_the_wrong_shape(gaussian_target):
    with pytest.raises(ValueError, match=r"'energy' must begin with the axes"):
        build_posterior(
            gaussian_target,
            {"x": np.zeros((1, 5, 3))},
            kind="mcmc",
            algorithm="x",
            sample_stats={"energy": np.zeros(5)},
        )


def test_summary_columns_and_numbers(schools_target, guided):
    posterior = guided(schools_target, num_draws=400)
    table = posterior.summary(ci=0.8)
    assert list(table.columns) == ["mean", "sd", "10%", "90%", "mcse_mean"]
    assert list(table.index[:6]) == ["mu", "tau", "theta[A]", "theta[B]", "theta[C]", "theta[D]"]
    mu = posterior.draws("mu")
    expected = [mu.mean(), mu.std(ddof=1), np.quantile(mu, 0.1), np.quantile(mu, 0.9), mu.std(ddof=1) / 20]
    np.testing.assert_allclose(table.loc["mu"], expected, rtol=1e-12)
    assert list(posterior.summary("theta").index) == ["theta[A]", "theta[B]", "theta[C]", "theta[D]"]
    with pytest.raises(ValueError, match=r"Unknown site\(s\) \['nope'\]"):
        posterior.summary(["nope"])
    with pytest.raises(ValueError, match="strictly between"):
        posterior.summary(ci=1.0)


def test_chain_diagnostics_are_refused_for_independent_draws(schools_target, guided, chains):
    posterior = guided(schools_target, num_draws=100)
    for ask in (lambda: posterior.summary(diagnostics=True), posterior.rhat, posterior.ess):
        with pytest.raises(ValueError, match="refused for a variational result"):
            ask()
    draws = np.random.default_rng(0).normal(size=(4, 500, 3))
    mcmc = chains(draws)
    assert list(mcmc.summary().columns)[-4:] == ["mcse_mean", "ess_bulk", "ess_tail", "r_hat"]
    assert "r_hat" not in mcmc.summary(diagnostics=False)
    assert mcmc.rhat()["x"].shape == (3,)
    with pytest.raises(ValueError, match="'bulk' or 'tail'"):
        mcmc.ess(method="mean")


def test_summary_agrees_with_arviz(chains):
    import arviz_stats

    posterior = chains(np.random.default_rng(0).normal(size=(4, 500, 3)))
    theirs = arviz_stats.summary(posterior.data, round_to="none")
    ours = posterior.summary()
    for column in ("mean", "ess_bulk", "r_hat"):
        np.testing.assert_allclose(ours[column], theirs[column].astype(float), rtol=1e-6)
    # Their tail is that of the 89 % interval, ours the conventional 90 %.
    tail = arviz_stats.ess(posterior.data, method="tail", prob=(0.05, 0.95))["x"]
    np.testing.assert_allclose(ours["ess_tail"], tail, rtol=1e-6)
    # The sd here divides by n - 1, theirs by n.
    for column in ("sd", "mcse_mean"):
        np.testing.assert_allclose(ours[column], theirs[column].astype(float), rtol=1e-3)


def test_repr_is_short_and_carries_the_verdict(schools_target, guided):
    wide = pf.from_logdensity(lambda v: -0.5 * jnp.sum(v["x"] ** 2), {"x": jnp.zeros(100)})
    text = repr(guided(wide, 0.0, 0.1, 200))
    assert len(text.splitlines()) < 25
    assert "... 88 more: .summary()" in text
    assert "verdict: doubtful" in text
    assert "k-hat" in text
    html = guided(schools_target, num_draws=200)._repr_html_()
    assert "<table" in html
    assert "verdict" in html
    assert "<lambda>" not in guided(wide, num_draws=200)._repr_html_()


def test_fresh_draws_from_the_guide(conjugate_fit):
    posterior = conjugate_fit()
    fresh = posterior.sample(jax.random.key(3), 5000)["mu"]
    mean, sd = posterior.guide.mean["mu"], posterior.guide.sd["mu"]
    assert fresh.shape == (5000,)
    assert abs(fresh.mean() - mean) < 5 * sd / np.sqrt(5000)
    np.testing.assert_array_equal(fresh[:100], posterior.sample(jax.random.key(3), 100)["mu"])
    with pytest.raises(ValueError, match="positive integer"):
        posterior.sample(jax.random.key(3), 0)
    with pytest.raises(ValueError, match="typed key"):
        posterior.sample(0, 10)


def test_a_result_without_guide_says_so(chains):
    with pytest.raises(ValueError, match="no guide"):
        chains(np.random.default_rng(0).normal(size=(4, 50, 3))).sample(jax.random.key(0), 3)


def test_plots(schools_target, guided, chains):
    matplotlib = pytest.importorskip("matplotlib")
    pytest.importorskip("arviz_plots")
    matplotlib.use("Agg")
    from matplotlib import pyplot

    loss = np.linspace(3.0, 1.0, 50)[None]
    posterior = guided(schools_target, num_draws=100, optimization={"loss": (("restart", "step"), loss)})
    collection = posterior.plot(var_names=["mu", "theta"])
    assert {"mu", "theta"} <= set(collection.viz["plot"].data_vars)
    assert len(posterior.plot("loss").axes[0].lines) == 1
    posterior.predict(jax.random.key(0), num_draws=20)
    posterior.plot("predictive")
    assert chains(np.random.default_rng(0).normal(size=(4, 50, 3))).plot() is not None
    with pytest.raises(ValueError, match="how Markov chains mix"):
        posterior.plot("trace")
    with pytest.raises(ValueError, match="Unknown kind"):
        posterior.plot("pie")
    pyplot.close("all")
