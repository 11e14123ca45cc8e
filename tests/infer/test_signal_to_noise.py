"""Signal-to-noise of importance-weighted gradients where every datum has its own K log-weights."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest

import pushforward as pf

X = jnp.asarray([0.8, -1.1, 0.3, 1.9, -0.4, 0.1])


def model(x):
    with numpyro.plate("data", len(X)):
        z = numpyro.sample("z", dist.Normal(0.0, 1.0))
        numpyro.sample("x", dist.Normal(z, 1.0), obs=x)


def encoder(x):
    """The posterior is N(x / 2, 0.71): near, and narrower, so that the weights have all moments."""
    slope, shift = numpyro.param("slope", 0.55), numpyro.param("shift", 0.1)
    scale = numpyro.param("scale", 0.8, constraint=dist.constraints.positive)
    with numpyro.plate("data", len(X)):
        numpyro.sample("z", dist.Normal(slope * x + shift, scale))


@pytest.mark.slow
def test_slopes_with_per_datum_plates(figure):
    """IWELBO over K = 1..1024, datum by datum: slopes -1/2 and +1/2 (arXiv:1802.04537, arXiv:1810.04152).

    At full data. The choice of a minibatch adds noise as large as the signal, which no number of particles takes away.
    """
    measured = pf.compare_estimators(
        pf.from_numpyro(model, X),
        pf.program_guide(encoder),
        {"reparam": pf.Reparam(), "path": pf.Path()},
        objective=pf.IWELBO(),
        num_particles=(1, 8, 64, 1024),
        num_repeats=600,
        key=jax.random.key(4),
    )
    assert not measured.biased
    for name, slope in {"reparam": -0.5, "path": 0.5}.items():
        rows = measured.table[measured.table["estimator"] == name]
        fitted = np.polyfit(np.log(rows["num_particles"]), np.log(rows["snr"]), 1)[0]
        figure(f"slope of log signal-to-noise against log K, per-datum plate, {name}", float(fitted), f"{slope} +- 0.1")
        assert abs(fitted - slope) < 0.1, (name, fitted, rows)
