"""Streaming: blocks of draws give what one call would, within a memory budget."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import pushforward as pf
from pushforward.infer import _streaming
from pushforward.infer._streaming import stream_draws


def _scaled(scale, position):
    return {"y": scale * position["x"], "n": position["x"] > 0}


def _noisy(scale, position, key):
    return position["x"] + scale * jax.random.normal(key, position["x"].shape)


@pytest.mark.parametrize("block_size", [None, 1, 8, 50, 1000])
def test_blocks_equal_one_call(block_size):
    x = np.random.default_rng(0).normal(size=(50, 3))
    out = stream_draws(_scaled, jnp.asarray(2.0), {"x": x}, block_size=block_size)
    np.testing.assert_array_equal(out["y"], 2 * x)
    np.testing.assert_array_equal(out["n"], x > 0)
    noisy = stream_draws(_noisy, jnp.asarray(2.0), {"x": x}, key=jax.random.key(0), block_size=block_size)
    direct = np.stack([x[i] + 2 * jax.random.normal(jax.random.fold_in(jax.random.key(0), i), (3,)) for i in range(50)])
    np.testing.assert_allclose(noisy, direct, rtol=1e-14)


def test_budget_bounds_the_block(monkeypatch):
    seen = []
    original = _streaming._evaluate_block

    def spy(function, operand, block, indices, key):
        seen.append(indices.size)
        return original(function, operand, block, indices, key)

    monkeypatch.setattr(_streaming, "_evaluate_block", spy)
    x = np.zeros((1000, 16))
    # One draw: 128 bytes in, 144 out, times four for temporaries.
    stream_draws(_scaled, jnp.asarray(1.0), {"x": x}, budget=100 * 4 * (128 + 128 + 16))
    assert seen == [100] * 10


def test_result_that_cannot_fit_is_refused(monkeypatch):
    monkeypatch.setattr(_streaming, "_free_memory", lambda: 10_000)
    with pytest.raises(MemoryError, match="num_draws"):
        stream_draws(_scaled, jnp.asarray(1.0), {"x": np.zeros((1000, 16))})


def test_bad_blocks_and_draws():
    with pytest.raises(ValueError, match='or "auto"'):
        stream_draws(_scaled, jnp.asarray(1.0), {"x": np.zeros((10, 2))}, block_size=0)
    with pytest.raises(ValueError, match="no draws"):
        stream_draws(_scaled, jnp.asarray(1.0), {"x": np.zeros((0, 2))})


def test_log_likelihood_is_pointwise_and_streamed(schools_target, guided):
    posterior = guided(schools_target, num_draws=64)
    dataset = posterior.log_likelihood(batch_size=10)
    assert dataset["y"].dims == ("chain", "draw", "school")
    assert "log_likelihood" in posterior.data.children
    theta = posterior.draws("theta")
    y, sigma = (posterior.data[g][v].values for g, v in (("observed_data", "y"), ("constant_data", "sigma")))
    expected = -0.5 * ((y - theta) / sigma) ** 2 - np.log(sigma) - 0.5 * np.log(2 * np.pi)
    np.testing.assert_allclose(dataset["y"].values[0], expected, rtol=1e-12)
    np.testing.assert_allclose(posterior.log_likelihood()["y"], dataset["y"], rtol=1e-14)


def test_posterior_predictive_has_the_right_moments(conjugate_fit):
    posterior = conjugate_fit(num_draws=4000)
    dataset = posterior.predict(jax.random.key(1))
    assert list(dataset.data_vars) == ["y"]
    assert dataset["y"].dims == ("chain", "draw", "obs")
    y = dataset["y"].values[0]
    mean, sd = float(posterior.guide.mean["mu"]), float(posterior.guide.sd["mu"])
    total = np.sqrt(sd**2 + 1)
    assert abs(y[:, 0].mean() - mean) < 5 * total / np.sqrt(4000)
    assert abs(y[:, 0].std() / total - 1) < 5 / np.sqrt(2 * 4000)
    # Observations of one draw share mu: their covariance is its posterior variance.
    cov = np.cov(y[:, 0], y[:, 1])[0, 1]
    assert abs(cov - sd**2) < 5 * total**2 / np.sqrt(4000)
    np.testing.assert_array_equal(posterior.predict(jax.random.key(1), batch_size=33)["y"], dataset["y"])
    assert not np.array_equal(posterior.predict(jax.random.key(2))["y"], dataset["y"])


def test_prediction_for_new_arguments(schools_target, guided):
    posterior = guided(schools_target, num_draws=400)
    before = posterior.predict(jax.random.key(1))
    dataset = posterior.predict(jax.random.key(1), y=None, sigma=np.full(4, 1e-6), num_draws=100)
    assert set(dataset.data_vars) == {"y", "better", "twice"}
    assert dataset.sizes["draw"] == 100
    assert dataset["draw"].values[-1] == 399
    kept = posterior.data["posterior"].sel(draw=dataset["draw"])
    np.testing.assert_allclose(dataset["y"], kept["theta"], atol=1e-5)
    np.testing.assert_allclose(dataset["twice"], 2 * kept["mu"])
    np.testing.assert_array_equal(posterior.data["predictions_constant_data"]["sigma"], np.full(4, 1e-6))
    np.testing.assert_array_equal(posterior.data["posterior_predictive"]["y"], before["y"])


def test_prior_predictive(schools_target, guided):
    posterior = guided(schools_target, num_draws=20)
    dataset = posterior.prior_predictive(jax.random.key(0), 4000)
    assert dataset["y"].dims == ("chain", "draw", "school")
    mu = posterior.data["prior"]["mu"].values
    assert abs(mu.mean()) < 5 * 5 / np.sqrt(4000)
    assert abs(mu.std() / 5 - 1) < 5 / np.sqrt(8000)
    variance = 25 + 25 + np.array([15.0, 10, 16, 11]) ** 2
    ratio = dataset["y"].values[0].var(axis=0) / variance
    assert (abs(ratio - 1) < 5 * np.sqrt(3 / 4000)).all()


def test_bad_requests(schools_target, guided, gaussian_target):
    posterior = guided(schools_target, num_draws=20)
    key = jax.random.key(0)
    with pytest.raises(ValueError, match="typed key"):
        posterior.predict(jnp.zeros(2, jnp.uint32))
    with pytest.raises(ValueError, match="from 1 to 20"):
        posterior.predict(key, num_draws=21)
    with pytest.raises(ValueError, match='"auto"'):
        posterior.predict(key, batch_size=-1)
    with pytest.raises(ValueError, match="nope"):
        posterior.predict(key, nope=3)
    plain = guided(gaussian_target, num_draws=20)
    with pytest.raises(ValueError, match="no observed site"):
        plain.log_likelihood()
    with pytest.raises(ValueError, match="no observed site"):
        plain.predict(key)


def test_draws_of_all_chains_are_thinned_alike(conjugate_fit):
    from pushforward.infer._build import build_posterior

    target = conjugate_fit().target
    mu = np.arange(40.0).reshape(4, 10)
    posterior = build_posterior(target, {"mu": mu}, kind="mcmc", algorithm="x")
    assert posterior.predict(jax.random.key(0), num_draws=8)["draw"].values.tolist() == [0, 9]
    with pytest.raises(ValueError, match="multiple of the 4 chains"):
        posterior.predict(jax.random.key(0), num_draws=10)
    y = posterior.predict(jax.random.key(0))["y"].values
    # Row (chain, draw) is centred on its own mu: chain and draw are not mixed up.
    assert (abs(y.mean(axis=-1) - mu) < 5 / np.sqrt(20)).all()


def test_facade_names():
    assert pf.Posterior is not None
