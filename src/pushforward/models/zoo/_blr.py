"""BLR: Bayesian linear regression with correlated coefficients, simulated data."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
import numpyro
import numpyro.distributions as dist
from jaxtyping import Array

from ._entry import Call, Data, Entry, PyroCall
from ._tensor import tensor


def blr(x: Array, y: Array | None = None) -> None:
    """Linear regression without intercept under weak priors."""
    with numpyro.plate("covariate", x.shape[1]):
        beta = numpyro.sample("beta", dist.Normal(0.0, 10.0))
    sigma = numpyro.sample("sigma", dist.HalfNormal(10.0))
    with numpyro.plate("observation", x.shape[0]):
        numpyro.sample("y", dist.Normal(x @ beta, sigma), obs=y)


def _args(data: Data) -> Call:
    return (jnp.asarray(data["X"], float), jnp.asarray(data["y"], float)), {}


def _pyro(data: Data) -> PyroCall:
    import pyro
    import pyro.distributions as pdist

    def blr(x: Any, y: Any = None) -> None:
        with pyro.plate("covariate", x.shape[1]):
            beta = pyro.sample("beta", pdist.Normal(tensor(0.0), tensor(10.0)))
        sigma = pyro.sample("sigma", pdist.HalfNormal(tensor(10.0)))
        with pyro.plate("observation", x.shape[0]):
            pyro.sample("y", pdist.Normal(x @ beta, sigma), obs=y)

    return blr, (tensor(data["X"]), tensor(data["y"])), {}


ENTRY = Entry(
    name="blr",
    description="Linear regression with correlated covariates: posterior scales of 1e-3 under prior scales of 10.",
    model=blr,
    dim=6,
    build_args=_args,
    aliases=("sblrc-blr",),
    build_pyro=_pyro,
)
