"""Kilpisjarvi: trend of the summer temperature 1952-2013, covariate not centred."""

from __future__ import annotations

import jax.numpy as jnp
import numpyro
import numpyro.distributions as dist
from jaxtyping import Array
from numpyro.distributions import constraints

from ._entry import Call, Data, Entry


def kilpisjarvi(x: Array, y: Array | None = None, *, alpha_prior: Array, beta_prior: Array) -> None:
    """Linear regression with given (mean, sd) of the normal priors and a flat prior on the positive ``sigma``."""
    alpha = numpyro.sample("alpha", dist.Normal(alpha_prior[0], alpha_prior[1]))
    beta = numpyro.sample("beta", dist.Normal(beta_prior[0], beta_prior[1]))
    sigma = numpyro.sample("sigma", dist.ImproperUniform(constraints.positive, (), ()))
    with numpyro.plate("year", x.shape[0]):
        numpyro.sample("y", dist.Normal(alpha + beta * x, sigma), obs=y)


def _args(data: Data) -> Call:
    return (jnp.asarray(data["x"], float), jnp.asarray(data["y"], float)), {
        "alpha_prior": jnp.asarray([data["pmualpha"], data["psalpha"]], float),
        "beta_prior": jnp.asarray([data["pmubeta"], data["psbeta"]], float),
    }


ENTRY = Entry(
    name="kilpisjarvi",
    description="Temperature trend with an uncentred covariate: correlation of intercept and slope near -1.",
    model=kilpisjarvi,
    dim=3,
    build_args=_args,
    aliases=("kilpisjarvi_mod-kilpisjarvi",),
    coords={"year": tuple(range(1952, 2014))},
)
