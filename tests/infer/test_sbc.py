"""Simulation-based calibration: exact inferences pass, wrong ones fail in the way they are wrong."""

from __future__ import annotations

import jax
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest

import pushforward as pf
from pushforward.infer._build import build_posterior
from pushforward.infer._sbc import Calibration, _null, _table, envelope, sbc


def model(y=None):
    mu = numpyro.sample("mu", dist.Normal(np.array([1.0, -1.0]), 2.0).to_event(1))
    with numpyro.plate("obs", 5, dim=-1):
        numpyro.sample("y", dist.Normal(mu, 1.0).to_event(1), obs=y)


def exact(shift=0.0, widen=1.0, *, ignore_data=False):
    """The closed-form posterior, or one that is wrong on purpose."""

    def infer(target, key):
        y = np.asarray(target.observed()["y"])
        precision = 0.25 + 5
        mean, sd = (np.array([1.0, -1.0]) * 0.25 + y.sum(axis=0)) / precision, precision**-0.5
        if ignore_data:
            mean, sd = np.array([1.0, -1.0]), 2.0
        draws = mean + sd * (shift + widen * np.asarray(jax.random.normal(key, (1, 100, 2))))
        return build_posterior(target, {"mu": draws}, kind="particles", algorithm="exact")

    return infer


@pytest.fixture(scope="module")
def target():
    return pf.from_numpyro(model, y=np.zeros((5, 2)))


def run(target, infer, num_simulations=100):
    return sbc(target, infer, key=jax.random.key(3), num_simulations=num_simulations, num_draws=100)


def test_exact_inference_is_calibrated(target):
    result = run(target, exact())
    assert list(result.table.index) == ["mu[0]", "mu[1]", "log density"]
    assert result.ranks.shape == (100, 3)
    assert result.calibrated, result
    assert result.verdicts["ok"] == 100
    # Mean of 100 uniforms: sd 0.029.
    assert (abs(result.table["mean_rank"] - 0.5) < 5 * 0.029).all()
    assert "no deviation found" in repr(result)


def test_bias_width_and_blindness_are_found(target):
    biased = run(target, exact(shift=0.7), 40)
    assert not biased.calibrated
    assert (biased.table.loc[["mu[0]", "mu[1]"], "mean_rank"] < 0.4).all()
    narrow = run(target, exact(widen=0.5), 40)
    assert not narrow.calibrated
    assert (narrow.table.loc[["mu[0]", "mu[1]"], "rank_spread"] > 1.15).all()
    assert "NOT calibrated" in repr(narrow)
    # The prior is calibrated in every parameter; only the log-density shows that the data is ignored.
    blind = run(target, exact(ignore_data=True), 40)
    assert (blind.table.loc[["mu[0]", "mu[1]"], "p_value"] > 0.001).all()
    assert blind.table.loc["log density", "p_adjusted"] < 0.001


def test_p_values_of_uniform_ranks_are_uniform():
    import pandas as pd

    rng = np.random.default_rng(0)
    ranks = pd.DataFrame(rng.integers(0, 51, (80, 400)))
    p_values = _table(ranks, 50, rng)["p_value"].to_numpy()
    for level in (0.05, 0.2, 0.5):
        share = np.mean(p_values <= level)
        assert abs(share - level) < 5 * np.sqrt(level * (1 - level) / 400)


def test_envelope_covers_simultaneously():
    rng = np.random.default_rng(1)
    low, high = envelope(80, 50, rng)
    inside = 0
    for _ in range(1000):
        counts = np.cumsum(np.bincount(rng.integers(0, 51, 80), minlength=51))[:50] / 80
        inside += ((low <= counts) & (counts <= high)).all()
    # Ranks are discrete: at least 95 %, and not much more.
    assert 0.93 < inside / 1000 < 0.995
    assert _null(80, 50, rng).min() > 0


def test_same_key_same_ranks(target):
    first, again = (run(target, exact(), 10).ranks for _ in range(2))
    assert first.equals(again)


def test_plot(target):
    matplotlib = pytest.importorskip("matplotlib")
    matplotlib.use("Agg")
    figure = run(target, exact(), 20).plot()
    assert len(figure.axes) == 3
    matplotlib.pyplot.close(figure)


def test_bad_input(target, gaussian_target):
    with pytest.raises(ValueError, match="num_simulations must be an integer of at least 10"):
        run(target, exact(), 3)
    with pytest.raises(ValueError, match="no observed site"):
        run(gaussian_target, exact())
    with pytest.raises(ValueError, match="must return a Posterior, got int"):
        run(target, lambda t, k: 3)
    with pytest.raises(ValueError, match="returned 100 draws"):
        sbc(target, exact(), key=jax.random.key(0), num_simulations=10, num_draws=200)
    with pytest.raises(ValueError, match=r"Unknown latent site\(s\) \['nu'\]"):
        sbc(target, exact(), key=jax.random.key(0), sites="nu")
    assert Calibration is not None
