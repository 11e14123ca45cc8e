"""The laboratory: bias is flagged at a known false-alarm rate, variances match closed forms, the advice follows."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
import pytest
import registry
from oracles import gaussian_bounds
from scipy import stats
from typer.testing import CliRunner

import pushforward as pf
from pushforward.infer import _cli
from pushforward.infer._automatic import automatic_gradient
from pushforward.infer._gradient_moments import Probe
from pushforward.infer._judge import z_scores

PARTICLES = (1, 4)
REPEATS = 4000
RUNS = 8
COLUMNS = ["estimator", "num_particles", "z", "variance", "snr", "seconds", "evaluations"]


class Tilted(pf.Reparam):
    """Reparameterisation gradient, 10 % too long: biased."""

    def value_and_grad(self, *args, **kwargs):
        estimate, gradient = super().value_and_grad(*args, **kwargs)
        return estimate, jax.tree.map(lambda g: 1.1 * g, gradient)


def guide_and_target():
    target = registry.gaussian_target()
    return registry.GUIDES["MeanField"].build(target), target


@pytest.fixture(scope="module")
def comparison():
    guide, target = guide_and_target()
    gradients = {"reparam": pf.Reparam(), "path": pf.Path, "tilted": Tilted(), "auto": "auto"}
    return pf.compare_estimators(
        target, guide, gradients, num_particles=PARTICLES, num_repeats=REPEATS, key=jax.random.key(3)
    )


def exact_variance(guide, name: str) -> dict[str, float]:
    """Trace of the covariance of one draw's ELBO gradient, for loc and log_scale.

    With b = P (m - mu) and M = P S (for `Path` minus 1/S) the gradients are b + M e and s e (b + M e) plus a constant.
    """
    precision = np.linalg.inv(np.asarray(registry.COVARIANCE))
    m, s = np.asarray(guide.loc), np.exp(np.asarray(guide.log_scale))
    b = precision @ (m - np.asarray(registry.MEAN))
    big = precision * s - (np.diag(1 / s) if name == "path" else 0.0)
    return {
        "loc": float((big**2).sum()),
        "log_scale": float((s**2 * (b**2 + (big**2).sum(1) + np.diag(big) ** 2)).sum()),
    }


def test_table(comparison):
    table = comparison.table
    assert list(table.columns)[:2] == COLUMNS[:2]
    assert set(COLUMNS) <= set(table.columns)
    assert len(table) == 4 * len(PARTICLES)
    assert (table["evaluations"] == table["num_particles"]).all()
    assert ((table["seconds"] > 0) & (table["seconds"] < 1)).all()
    blocks = comparison.blocks.groupby(["estimator", "num_particles"], sort=False)["variance"].sum()
    np.testing.assert_allclose(blocks.to_numpy(), table["variance"], rtol=1e-12)


@pytest.mark.parametrize("name", ["reparam", "path"])
def test_variance_matches_closed_form(comparison, name):
    guide, _ = guide_and_target()
    exact = exact_variance(guide, name)
    rows = comparison.table[comparison.table["estimator"] == name]
    for row in rows.itertuples():
        # Eight batches give the standard error: Student's t with 7 degrees, two-sided, 1e-6 for both rows together.
        limit = stats.t.isf(1e-6 / 4, 7) * row.variance_error
        assert abs(row.variance - sum(exact.values()) / row.num_particles) < limit < 0.5 * row.variance
    blocks = comparison.blocks[(comparison.blocks["estimator"] == name) & (comparison.blocks["num_particles"] == 1)]
    for block in blocks.itertuples():
        assert abs(block.variance / exact[block.block] - 1) < 0.25


def test_bias_is_flagged_and_nothing_else(comparison):
    assert set(comparison.biased) == {"tilted"}
    tilted = comparison.table[comparison.table["estimator"] == "tilted"]
    # A tenth of the gradient, in standard errors: what z should be, up to the noise of both means.
    expected = 0.1 * tilted["snr"].max() * np.sqrt(REPEATS)
    assert tilted["z"].max() > 0.3 * expected > 5
    assert "'tilted' is biased" in comparison.recommendation
    assert not comparison.disagreement


def test_false_alarms_come_at_the_rate_computed():
    """p-values of an unbiased estimator are below 0.1 in about a tenth of repetitions, and rarely below 0.01."""
    guide, target = guide_and_target()
    probe = Probe(pf.Reparam(), pf.ELBO(), target, guide, 2)
    keys = jax.random.split(jax.random.key(8), 300)
    reference = probe.measure(jax.random.key(9), guide, {}, 100_000)
    largest = np.array([np.abs(z_scores(probe.measure(k, guide, {}, 200), reference)[1]).max() for k in keys])
    for level in (0.1, 0.01):
        # Six coordinates, correlated: their joint correction is exact or on the safe side.
        limit = stats.t.isf((1 - (1 - level) ** (1 / 6)) / 2, 199)
        alarms = int((largest > limit).sum())
        assert alarms <= stats.binom.isf(1e-6, len(keys), level)
        if level == 0.1:
            assert alarms >= stats.binom.ppf(1e-6, len(keys), level / 3)


def test_auto_is_no_noisier_than_the_better(comparison):
    table = comparison.table.pivot_table(index="num_particles", columns="estimator", values="variance")
    error = comparison.table.pivot_table(index="num_particles", columns="estimator", values="variance_error")
    better = np.minimum(table["path"], table["reparam"])
    assert (table["auto"] <= 1.1 * better + 5 * error["auto"]).all()


def test_presentation(comparison, monkeypatch):
    matplotlib = pytest.importorskip("matplotlib")
    monkeypatch.setattr(matplotlib, "get_backend", lambda *_: "agg")
    matplotlib.use("agg", force=True)
    figure = comparison.plot()
    assert [len(axes.lines) for axes in figure.axes] == [4, 4, 4]
    assert "<table" in comparison._repr_html_()
    assert "tilted" not in comparison.recommendation.split("Use ")[1]
    assert "variance_x_seconds" in repr(comparison)
    with pytest.raises(ValueError, match="at='path'"):
        comparison.bound()


@pytest.mark.slow
def test_landing_and_the_choice_along_the_way(figure):
    """Constant steps, d = 10, a guide that contains the posterior: `Path` lands, `Reparam` does not, auto does."""
    dim, steps, particles, rate = 10, 3000, 8, 0.02
    rng = np.random.default_rng(0)
    root = rng.normal(size=(dim, dim))
    covariance, mean = root @ root.T / dim + 0.5 * np.eye(dim), np.arange(dim) / 3.0
    precision = np.linalg.inv(covariance)
    target = pf.from_logdensity(lambda x: -0.5 * (x - mean) @ jnp.asarray(precision) @ (x - mean), jnp.zeros(dim))
    start = pf.FullRank(target, init_scale=1.0)
    stops = (150, 400, 800, 1500)
    ends = {}
    for name, gradient in {"path": pf.Path(), "reparam": pf.Reparam(), "auto": pf.Adaptive()}.items():
        guide_after = descend(gradient.bind(target, start), target, start, rate, steps, particles)
        errors = {
            step: [
                max(float(jnp.abs(guide.loc - mean).max()), float(jnp.abs(guide.covariance() - covariance).max()))
                for guide in (guide_after(run, step) for run in range(RUNS))
            ]
            for step in (*stops, steps)
        }
        ends[name] = {step: (np.mean(each), max(each), min(each)) for step, each in errors.items()}
        if name == "path":
            places = {step: guide_after(0, step) for step in stops}
    figure("landing: largest parameter error after 3,000 constant steps, Path", ends["path"][steps][1], "<= 1e-6")
    figure("landing: smallest of eight runs, Reparam", ends["reparam"][steps][2], "> 1e-3")
    figure("landing: largest, the automatic choice", ends["auto"][steps][1], "<= 1e-6")
    assert ends["path"][steps][1] <= 1e-6
    assert ends["reparam"][steps][2] > 1e-3
    assert ends["auto"][steps][1] <= 1e-6
    for step in stops:
        assert ends["auto"][step][0] <= 1.1 * min(ends["path"][step][0], ends["reparam"][step][0])
    measured = pf.compare_estimators(
        target,
        start,
        {"path": pf.Path(), "reparam": pf.Reparam(), "auto": "auto"},
        num_particles=particles,
        num_repeats=2000,
        key=jax.random.key(5),
        at={"start": start, **{str(step): places[step] for step in stops}},
    )
    table = measured.table.pivot_table(index="at", columns="estimator", values="variance", sort=False)
    ratio = (table["auto"] / np.minimum(table["path"], table["reparam"])).max()
    figure("automatic choice: largest variance ratio to the better along the way", float(ratio), "<= 1.1")
    assert (table["auto"] <= 1.1 * np.minimum(table["path"], table["reparam"])).all()
    assert table["reparam"].iloc[-1] > 1e3 * table["path"].iloc[-1]
    assert not measured.biased
    assert "'path'" in measured.recommendation or "'auto'" in measured.recommendation


def descend(gradient, target, start, rate, steps, particles):
    """Plain stochastic gradient descent, several runs; returns a function that gives a run's guide at some step."""
    import equinox as eqx

    from pushforward.estimators.gradients import join, split

    parameters, static = split(target, start)
    own, fixed = eqx.partition(gradient, eqx.is_inexact_array)

    def run(key):
        def step(carry, i):
            parameters, own = carry
            _, guide = join(parameters, target, static)
            _, g = eqx.combine(own, fixed).value_and_grad(
                jax.random.fold_in(key, i), pf.ELBO(), target, guide, particles
            )
            own = own if g.estimator is None else jax.tree.map(jnp.subtract, own, g.estimator)
            moved = jax.tree.map(lambda p, d: p - rate * d, parameters.guide, g.guide)
            return (parameters._replace(guide=moved), own), moved

        return jax.lax.scan(step, (parameters, own), jnp.arange(steps))[1]

    trace = jax.jit(jax.vmap(run))(jax.random.split(jax.random.key(0), RUNS))
    return lambda which, i: eqx.combine(jax.tree.map(lambda x: x[which, i - 1], trace), static)


def test_fit_chooses_and_says_why():
    _, target = guide_and_target()
    posterior = pf.fit(
        target,
        pf.MeanField(),
        gradient="auto",
        num_steps=1000,
        num_restarts=1,
        num_draws=256,
        key=jax.random.key(1),
        progress=False,
    )
    assert any("gradient='auto' chose Adaptive" in reason for reason in posterior.verdict.reasons)
    path, reparam, adaptive = posterior.data.attrs["gradient_variances"]
    assert adaptive <= path < reparam
    # A point mass has one pathwise gradient only; neither is there any where the estimator is refused.
    assert "point mass" in automatic_gradient(pf.ELBO(), target, pf.Delta(target), 1)[1]


@pytest.mark.parametrize("factor", [1.5, 0.3])
def test_evidence_lies_between_its_bounds(factor):
    """A Gaussian guide with the posterior's mean and a multiple of its covariance."""
    target = registry.gaussian_target()
    guide = pf.FullRank(target).affine(
        jnp.asarray(registry.MEAN), jnp.asarray(registry.ROOT) * np.sqrt(factor) / pf.FullRank().init_scale
    )
    bounds = pf.evidence_bounds(target, guide, key=jax.random.key(2))
    p = gaussian_bounds.gaussian(registry.MEAN, registry.COVARIANCE)
    q = gaussian_bounds.gaussian(registry.MEAN, factor * np.asarray(registry.COVARIANCE))
    assert bounds.elbo <= bounds.iwelbo <= bounds.cubo
    assert abs(bounds.elbo - gaussian_bounds.elbo(q, p, registry.LOG_EVIDENCE)) < 5 * bounds.elbo_error
    if factor > 1:
        assert abs(bounds.cubo - gaussian_bounds.cubo(q, p, registry.LOG_EVIDENCE, 2.0)) < 5 * bounds.cubo_error
        assert abs(bounds.iwelbo - registry.LOG_EVIDENCE) < 5 * bounds.iwelbo_error
        assert bounds.khat < 0.5
        assert not bounds.notes
    else:
        assert any("k-hat" in note for note in bounds.notes)
    if factor > 1:
        weighed = pf.from_logdensity(lambda x: -0.5 * x @ x, jnp.zeros(2))
        (name,) = [site.name for site in weighed.program.sites][:1] or ["x"]
        tempered = pf.evidence_bounds(weighed.scaled({name: 0.5}), pf.MeanField(), key=jax.random.key(2))
        assert any("tempered" in note for note in tempered.notes)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"estimators": {}}, "expected a dict of names and gradients"),
        ({"estimators": {"x": "fast"}}, "expected pf.Path"),
        ({"estimators": {"loo": pf.Score()}, "num_particles": 1}, "'loo' with num_particles=1"),
        ({"num_particles": 0}, "num_particles=0"),
        ({"num_particles": ()}, "num_particles is empty"),
        ({"num_repeats": 2}, "num_repeats=2"),
        ({"at": "everywhere"}, "expected start, middle, optimum, path"),
        ({"objective": "elbo"}, "expected pf.ELBO"),
        ({"key": 0}, "typed key"),
    ],
)
def test_bad_input(changes, message):
    guide, target = guide_and_target()
    given = {"estimators": {"path": pf.Path()}, "num_particles": 1, "key": jax.random.key(0), **changes}
    with pytest.raises(ValueError, match=message):
        pf.compare_estimators(target, guide, given.pop("estimators"), **given)


def test_command_line(tmp_path):
    (tmp_path / "gaussian.py").write_text(
        "import numpyro\nimport numpyro.distributions as dist\n\n\n"
        "def model(y):\n    mu = numpyro.sample('mu', dist.Normal(0.0, 1.0))\n"
        "    numpyro.sample('y', dist.Normal(mu, 1.0), obs=y)\n"
    )
    (tmp_path / "data.json").write_text('{"y": [1.0, 2.0]}')
    arguments = ["compare-estimators", f"{tmp_path}/gaussian.py", "--data", f"{tmp_path}/data.json", "--at", "start"]
    arguments += ["--guide", "mean-field", "--num-particles", "2", "--num-repeats", "100", "-o", f"{tmp_path}/t.csv"]
    done = CliRunner().invoke(_cli.app, arguments)
    assert done.exit_code == 0, done.output
    assert "Use '" in done.output
    assert set(COLUMNS) <= set(pd.read_csv(tmp_path / "t.csv").columns)
    refused = CliRunner().invoke(_cli.app, [*arguments, "--objective", "elbow"])
    assert refused.exit_code == 1
    assert "--objective must be one of" in refused.output


@pytest.mark.slow
def test_signal_to_noise_falls_with_reparam_and_rises_with_path(figure):
    """IWELBO over K = 1..1024: log-log slopes of the signal-to-noise ratio are -1/2 and +1/2 (arXiv:1802.04537)."""
    dim, particles = 4, (1, 8, 64, 1024)
    target = pf.from_logdensity(lambda x: -0.5 * x @ x, jnp.zeros(dim))
    guide = pf.MeanField(target, init_scale=1.0).affine(jnp.full((dim,), 0.2), jnp.full((dim,), 1.1))
    measured = pf.compare_estimators(
        target,
        guide,
        {"reparam": pf.Reparam(), "path": pf.Path()},
        objective=pf.IWELBO(),
        num_particles=particles,
        num_repeats=600,
        key=jax.random.key(4),
    )
    assert not measured.biased
    for name, slope in {"reparam": -0.5, "path": 0.5}.items():
        rows = measured.table[measured.table["estimator"] == name]
        fitted = np.polyfit(np.log(rows["num_particles"]), np.log(rows["snr"]), 1)[0]
        figure(f"slope of log signal-to-noise against log K, IWELBO, {name}", float(fitted), f"{slope} +- 0.1")
        assert abs(fitted - slope) < 0.1


@pytest.mark.slow
def test_bound_grows_with_dimension_for_full_rank_only():
    """E|g|^2 for a unit Gaussian, far from the optimum: 2 |m|^2 for mean-field, (d + 3) / 2 |m|^2 for full-rank."""
    growth = {}
    for family in (pf.MeanField, pf.FullRank):
        for dim in (4, 16):
            target = pf.from_logdensity(lambda x: -0.5 * x @ x, jnp.zeros(dim))
            centre = family(target, init_scale=1.0)
            places = {
                f"{r}": centre.affine(jnp.full((dim,), r / np.sqrt(dim)), jnp.ones(dim)) for r in (0.0, 1.0, 4.0, 16.0)
            }
            measured = pf.compare_estimators(
                target,
                centre,
                {"reparam": pf.Reparam()},
                num_particles=1,
                num_repeats=3000,
                key=jax.random.key(6),
                at=places,
            )
            row = measured.bound().iloc[0]
            assert row["slack"] < 1.2
            # Loss gap and squared gradient are proportional here: only their sum is determined.
            growth[family.__name__, dim] = 0.5 * row["A"] + row["B"]
    assert abs(growth["MeanField", 16] / growth["MeanField", 4] - 1) < 0.2
    assert abs(growth["FullRank", 16] / growth["FullRank", 4] - 19 / 7) < 0.4
