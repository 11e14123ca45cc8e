"""The likelihood of a program against the density written out, and under a diffusion prior."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from jax.scipy import stats

import pushforward as pf


def observe(x, y, error=0.5):
    numpyro.sample("sum", dist.Normal(x.sum(), error), obs=y[0])
    with numpyro.plate("rows", 2):
        numpyro.sample("counts", dist.Poisson(jnp.exp(x)), obs=jnp.array([1.0, 3.0]))
    numpyro.factor("more", -0.1 * x[0] ** 2)


def test_equals_the_density_written_out():
    """Value and gradient, compiled and over many points."""
    found = pf.likelihood(observe, jnp.array([0.7]), error=0.3)

    def by_hand(x):
        counts = stats.poisson.logpmf(jnp.array([1.0, 3.0]), jnp.exp(x)).sum()
        return stats.norm.logpdf(0.7, x.sum(), 0.3) + counts - 0.1 * x[0] ** 2

    points = jax.random.normal(jax.random.key(0), (5, 2))
    for one, other in ((found, by_hand), (jax.grad(found), jax.grad(by_hand))):
        np.testing.assert_allclose(jax.jit(jax.vmap(one))(points), jax.vmap(other)(points), atol=1e-12)


def test_latent_sites_are_refused():
    """By name, with the remedy."""

    def program(x):
        scale = numpyro.sample("scale", dist.HalfNormal(1.0))
        numpyro.sample("y", dist.Normal(x[0], scale), obs=0.0)

    with pytest.raises(ValueError, match=r"latent site 'scale'.*from_numpyro"):
        pf.likelihood(program)(jnp.zeros(1))


def test_programs_without_observations_are_refused():
    """A forgotten ``obs=`` of the only site, or what is no program."""
    with pytest.raises(ValueError, match="observes nothing"):
        pf.likelihood(lambda x: numpyro.deterministic("y", x))(jnp.zeros(1))
    with pytest.raises(ValueError, match="program is NoneType"):
        pf.likelihood(None)


@pytest.mark.slow
def test_posterior_under_a_diffusion_prior():
    """A normal prior and a normal program: the evidence in closed form.

    The start at a signal of 1e-3 of the noise leaves weights that differ by about 1e-3: over 1,000 particles 3e-5.
    """
    si = pf.interpolants
    fields = si.MixtureFields(
        si.OneSidedLinear(), si.GaussianMixture(jnp.zeros(1), jnp.ones((1, 1)), 2.0 * jnp.eye(1)[None])
    )

    def program(x):
        numpyro.sample("y", dist.Normal(x[0], 0.5), obs=2.0)

    found = si.posterior(jax.random.key(1), fields, pf.likelihood(program), dim=1, num_particles=1_000, num_steps=20)
    assert float(found.log_evidence) == pytest.approx(float(stats.norm.logpdf(2.0, 1.0, 2.25**0.5)), abs=1.5e-4)
