"""What is special to HMC and NUTS: chains, warm starts, and what they refuse."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import registry

import pushforward as pf


def test_adding_chains_changes_none(getkey):
    target, key = registry.gaussian_target(), getkey()
    settings = {"key": key, "num_steps": 20, "progress": False}
    start = target.initial(getkey(), 3)
    two = pf.sample(target, pf.SGLD(0.1), num_chains=2, init=jax.tree.map(lambda x: x[:2], start), **settings)
    three = pf.sample(target, pf.SGLD(0.1), num_chains=3, init=start, **settings)
    np.testing.assert_allclose(two.data["posterior"]["b"], three.data["posterior"]["b"][:2], rtol=1e-12)


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
