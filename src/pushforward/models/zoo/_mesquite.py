"""Mesquite: leaf biomass of 46 bushes on their measurements, all in logarithms, flat priors."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
from jaxtyping import Array
from numpyro.distributions import constraints

from ._entry import Call, Data, Entry, PyroCall
from ._tensor import tensor

_LOGGED = ("diam1", "diam2", "canopy_height", "total_height", "density")


def mesquite(x: Array, log_weight: Array | None = None) -> None:
    """Linear regression with flat priors on every parameter."""
    beta = numpyro.sample("beta", dist.ImproperUniform(constraints.real, (), (x.shape[1],)))
    sigma = numpyro.sample("sigma", dist.ImproperUniform(constraints.positive, (), ()))
    with numpyro.plate("bush", x.shape[0]):
        numpyro.sample("log_weight", dist.Normal(x @ beta, sigma), obs=log_weight)


def _arrays(data: Data) -> tuple[Any, Any]:
    group = np.asarray(data["group"], float)
    columns = [np.ones_like(group), *(np.log(np.asarray(data[name], float)) for name in _LOGGED), group]
    return np.stack(columns, axis=-1), np.log(np.asarray(data["weight"], float))


def _args(data: Data) -> Call:
    x, log_weight = _arrays(data)
    return (jnp.asarray(x, float), jnp.asarray(log_weight, float)), {}


def _pyro(data: Data) -> PyroCall:
    import pyro
    import pyro.distributions as pdist

    def mesquite(x: Any, log_weight: Any = None) -> None:
        beta = pyro.sample("beta", pdist.ImproperUniform(pdist.constraints.real, (), (x.shape[1],)))
        sigma = pyro.sample("sigma", pdist.ImproperUniform(pdist.constraints.positive, (), ()))
        with pyro.plate("bush", x.shape[0]):
            pyro.sample("log_weight", pdist.Normal(x @ beta.to(x.dtype), sigma), obs=log_weight)

    x, log_weight = _arrays(data)
    return mesquite, (tensor(x), tensor(log_weight)), {}


ENTRY = Entry(
    name="mesquite",
    description="Linear regression on logarithms with flat priors everywhere: improper priors, collinear covariates.",
    model=mesquite,
    dim=8,
    build_args=_args,
    aliases=("mesquite-logmesquite", "logmesquite"),
    coords={"coefficient": ("intercept", *(f"log_{name}" for name in _LOGGED), "group")},
    dims={"beta": ("coefficient",)},
    build_pyro=_pyro,
)
