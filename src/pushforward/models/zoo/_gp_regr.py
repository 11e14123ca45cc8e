"""GP regression: hyperparameters of a Gaussian process with the latent function integrated out."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
import numpyro
import numpyro.distributions as dist
from jaxtyping import Array

from ._entry import Call, Data, Entry, PyroCall
from ._tensor import tensor


def gp_regr(x: Array, y: Array | None = None) -> None:
    """Squared-exponential kernel plus noise; note that ``sigma``, not its square, is the noise variance."""
    rho = numpyro.sample("rho", dist.Gamma(25.0, 4.0))
    alpha = numpyro.sample("alpha", dist.HalfNormal(2.0))
    sigma = numpyro.sample("sigma", dist.HalfNormal(1.0))
    distance = (x[:, None] - x[None, :]) / rho
    covariance = alpha**2 * jnp.exp(-0.5 * distance**2) + sigma * jnp.eye(x.shape[0])
    numpyro.sample("y", dist.MultivariateNormal(jnp.zeros_like(x), covariance_matrix=covariance), obs=y)


def _args(data: Data) -> Call:
    return (jnp.asarray(data["x"], float), jnp.asarray(data["y"], float)), {}


def _pyro(data: Data) -> PyroCall:
    import pyro
    import pyro.distributions as pdist
    import torch

    def gp_regr(x: Any, y: Any = None) -> None:
        rho = pyro.sample("rho", pdist.Gamma(tensor(25.0), tensor(4.0)))
        alpha = pyro.sample("alpha", pdist.HalfNormal(tensor(2.0)))
        sigma = pyro.sample("sigma", pdist.HalfNormal(tensor(1.0)))
        distance = (x[:, None] - x[None, :]) / rho
        covariance = alpha**2 * torch.exp(-0.5 * distance**2) + sigma * torch.eye(x.shape[0], dtype=x.dtype)
        pyro.sample("y", pdist.MultivariateNormal(torch.zeros_like(x), covariance_matrix=covariance), obs=y)

    return gp_regr, (tensor(data["x"]), tensor(data["y"])), {}


ENTRY = Entry(
    name="gp_regr",
    description="Gaussian-process regression, three hyperparameters and a Cholesky factorisation; needs float64.",
    model=gp_regr,
    dim=3,
    build_args=_args,
    aliases=("gp_pois_regr-gp_regr",),
    dims={"y": ("point",)},
    build_pyro=_pyro,
)
