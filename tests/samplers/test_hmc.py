"""Shared suite over exact samplers: first and second moments, and what they refuse."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import registry
import scipy.stats
from arviz_stats.base import array_stats

import pushforward as pf

FAMILY_WISE_ALPHA = 1e-6


@pytest.mark.parametrize("name", list(registry.KERNELS))
def test_moments_of_a_correlated_gaussian(name, getkey):
    """Means and all second moments by z-tests with MCMC standard errors; 9 tests at a family-wise rate of 1e-6."""
    target = registry.gaussian_target()
    posterior = pf.sample(
        target, registry.KERNELS[name](), key=getkey(), num_steps=2000, num_warmup=500, num_chains=4, progress=False
    )
    draws = np.concatenate([np.asarray(posterior.data["posterior"][n]).reshape(4, 2000, -1) for n in ("a", "b")], -1)
    limit = scipy.stats.norm.isf(FAMILY_WISE_ALPHA / 18)
    centred = draws - registry.MEAN
    for i in range(3):
        z = centred[..., i].mean() / array_stats.mcse(centred[..., i], method="mean")
        assert abs(z) < limit
        for j in range(i + 1):
            product = centred[..., i] * centred[..., j]
            z = (product.mean() - registry.COVARIANCE[i, j]) / array_stats.mcse(product, method="mean")
            assert abs(z) < limit
    assert posterior.verdict.status == "ok", posterior.verdict.reasons


def test_adding_chains_changes_none(getkey):
    target, key = registry.gaussian_target(), getkey()
    settings = {"key": key, "num_steps": 20, "num_warmup": 20, "progress": False}
    start = target.initial(getkey(), 3)
    two = pf.sample(target, pf.NUTS(), num_chains=2, init=jax.tree.map(lambda x: x[:2], start), **settings)
    three = pf.sample(target, pf.NUTS(), num_chains=3, init=start, **settings)
    np.testing.assert_allclose(two.data["posterior"]["b"], three.data["posterior"]["b"][:2], rtol=1e-6)


@pytest.mark.slow
def test_warm_start_from_a_fit_needs_no_adaptation_of_the_mass_matrix(getkey):
    target = registry.gaussian_target()
    fit = pf.fit(target, pf.FullRank(), key=getkey(), progress=False)
    posterior = pf.sample(
        target,
        pf.NUTS(dense_mass=True),
        key=getkey(),
        num_steps=200,
        num_warmup=30,
        num_chains=2,
        init=fit,
        progress=False,
    )
    # A whitened Gaussian of dimension 3 takes few leapfrog steps; badly scaled chains take many more.
    assert float(np.mean(posterior.data["sample_stats"]["n_steps"])) < 8
    np.testing.assert_allclose(fit.guide.covariance(), registry.COVARIANCE, rtol=0.02, atol=0.02)


@pytest.mark.parametrize(
    ("kernel", "settings", "message"),
    [
        (pf.NUTS(), {"num_warmup": 0}, "num_warmup is 0"),
        (pf.NUTS(), {"thin": 3}, "thin=3 does not divide"),
        (pf.NUTS(), {"num_chains": 0}, "num_chains=0"),
        (pf.NUTS(inverse_mass_matrix=jnp.ones(2)), {}, "inverse_mass_matrix has shape"),
        (pf.NUTS(), {"init": {"a": jnp.zeros(2)}}, "init has structure"),
        (pf.MeanField(), {}, "expected a sampler"),
    ],
)
def test_bad_input(kernel, settings, message, getkey):
    arguments = {"num_steps": 10, "num_warmup": 10, "num_chains": 1, "progress": False, **settings}
    with pytest.raises(ValueError, match=message):
        pf.sample(registry.gaussian_target(), kernel, key=getkey(), **arguments)


@pytest.mark.parametrize(
    "build",
    [
        lambda: pf.NUTS(step_size=0.0),
        lambda: pf.NUTS(target_accept=1.0),
        lambda: pf.NUTS(max_tree_depth=0),
        lambda: pf.HMC(num_leapfrog=0),
        lambda: pf.HMC(num_leapfrog=3, trajectory_length=1.0),
    ],
)
def test_bad_settings(build):
    with pytest.raises(ValueError, match=r"NUTS|HMC"):
        build()
