"""Gaussian mixture: two well-separated components in one dimension, labels fixed by an ordering."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
import numpyro
import numpyro.distributions as dist
from jaxtyping import Array
from numpyro.distributions import constraints

from ._entry import Call, Data, Entry, PyroCall
from ._tensor import tensor


def gauss_mix(y: Array) -> None:
    """Two-component normal mixture; ``theta`` is the weight of the lower component."""
    mu = numpyro.sample("mu", dist.ImproperUniform(constraints.ordered_vector, (), (2,)))
    numpyro.factor("mu_prior", jnp.sum(dist.Normal(0.0, 2.0).log_prob(mu)))
    with numpyro.plate("component", 2):
        sigma = numpyro.sample("sigma", dist.HalfNormal(2.0))
    theta = numpyro.sample("theta", dist.Beta(5.0, 5.0))
    weights = dist.Categorical(probs=jnp.stack([theta, 1.0 - theta]))
    with numpyro.plate("observation", y.shape[0]):
        numpyro.sample("y", dist.MixtureSameFamily(weights, dist.Normal(mu, sigma)), obs=y)


def _args(data: Data) -> Call:
    return (jnp.asarray(data["y"], float),), {}


def _pyro(data: Data) -> PyroCall:
    import pyro
    import pyro.distributions as pdist
    import torch

    def gauss_mix(y: Any) -> None:
        mu = pyro.sample("mu", pdist.ImproperUniform(pdist.constraints.ordered_vector, (), (2,)))
        pyro.factor("mu_prior", pdist.Normal(tensor(0.0), tensor(2.0)).log_prob(mu).sum())
        with pyro.plate("component", 2):
            sigma = pyro.sample("sigma", pdist.HalfNormal(tensor(2.0)))
        theta = pyro.sample("theta", pdist.Beta(tensor(5.0), tensor(5.0)))
        weights = pdist.Categorical(probs=torch.stack([theta, 1.0 - theta]))
        with pyro.plate("observation", y.shape[0]):
            pyro.sample("y", pdist.MixtureSameFamily(weights, pdist.Normal(mu, sigma)), obs=y)

    return gauss_mix, (tensor(data["y"]),), {}


ENTRY = Entry(
    name="gauss_mix",
    description="Two-component Gaussian mixture with ordered means: an ordered vector and a mixture likelihood.",
    model=gauss_mix,
    dim=5,
    build_args=_args,
    aliases=("low_dim_gauss_mix-low_dim_gauss_mix", "low_dim_gauss_mix"),
    dims={"mu": ("component",)},
    build_pyro=_pyro,
)
