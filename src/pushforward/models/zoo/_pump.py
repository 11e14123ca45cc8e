"""Pump: failures of ten power-plant pumps, a hierarchical Gamma-Poisson model."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
import numpyro
import numpyro.distributions as dist
from jaxtyping import Array

from ._entry import Call, Data, Entry, PyroCall
from ._tensor import tensor


def pump(exposure: Array, x: Array | None = None) -> None:
    """Poisson counts with rate ``theta`` times exposure; the rates are Gamma with learned shape and rate."""
    alpha = numpyro.sample("alpha", dist.Exponential(1.0))
    beta = numpyro.sample("beta", dist.Gamma(0.1, 1.0))
    with numpyro.plate("pump", exposure.shape[0]):
        theta = numpyro.sample("theta", dist.Gamma(alpha, beta))
        numpyro.sample("x", dist.Poisson(theta * exposure), obs=x)


def _args(data: Data) -> Call:
    return (jnp.asarray(data["t"], float), jnp.asarray(data["x"])), {}


def _pyro(data: Data) -> PyroCall:
    import pyro
    import pyro.distributions as pdist

    def pump(exposure: Any, x: Any = None) -> None:
        alpha = pyro.sample("alpha", pdist.Exponential(tensor(1.0)))
        beta = pyro.sample("beta", pdist.Gamma(tensor(0.1), tensor(1.0)))
        with pyro.plate("pump", exposure.shape[0]):
            theta = pyro.sample("theta", pdist.Gamma(alpha, beta))
            pyro.sample("x", pdist.Poisson(theta * exposure), obs=x)

    return pump, (tensor(data["t"]), tensor(data["x"])), {}


ENTRY = Entry(
    name="pump",
    description="Hierarchical Gamma-Poisson model of pump failures: positive sites, a Gamma of learned shape.",
    model=pump,
    dim=12,
    build_args=_args,
    aliases=("pump-pump",),
    coords={"pump": tuple(range(1, 11))},
    build_pyro=_pyro,
)
