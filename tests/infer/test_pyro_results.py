"""A Pyro target through the whole result object: predictions, log-likelihood, file."""

from __future__ import annotations

import jax
import numpy as np
import pytest

import pushforward as pf

torch = pytest.importorskip("torch")


def model(x, y=None):
    import pyro
    import pyro.distributions as dist

    slope = pyro.sample("slope", dist.Normal(torch.zeros((), dtype=torch.float64), 2.0))
    with pyro.plate("n", len(x)):
        pyro.sample("y", dist.Normal(slope * x, 0.5), obs=y)


def test_predict_log_likelihood_and_file(tmp_path, getkey):
    x = torch.linspace(-1, 1, 8, dtype=torch.float64)
    target = pf.from_pyro(model, x, 1.5 * x)
    posterior = pf.fit(target, key=getkey(), progress=False, num_draws=256)
    exact = 1 / (float((x**2).sum()) / 0.25 + 0.25)
    assert abs(float(np.std(posterior.draws("slope"))) / exact**0.5 - 1) < 0.02

    same = posterior.predict(getkey())["y"]
    assert same.dims == ("chain", "draw", "n")
    spread = np.asarray(same).std(axis=(0, 1))
    np.testing.assert_allclose(spread, np.sqrt(0.25 + exact * np.asarray(x) ** 2), rtol=5 / np.sqrt(2 * 256))
    new = posterior.predict(getkey(), torch.tensor([10.0, 20.0], dtype=torch.float64))["y"]
    assert new.shape == (1, 256, 2)
    assert (
        abs(float(new.mean(("chain", "draw"))[1]) - 20 * float(np.mean(posterior.draws("slope"))))
        < 5 * 20 * exact**0.5 / 16
    )
    assert posterior.prior_predictive(getkey(), 50)["y"].shape == (1, 50, 8)
    posterior.log_likelihood()
    assert posterior.loo() is not None

    posterior.save(tmp_path / "pyro.nc")
    again = pf.load(tmp_path / "pyro.nc")
    assert again.verdict.status == posterior.verdict.status
    position = jax.tree.map(lambda v: v[0, 0], posterior.positions)
    np.testing.assert_allclose(again.target.logdensity(position), target.logdensity(position), rtol=1e-12)
