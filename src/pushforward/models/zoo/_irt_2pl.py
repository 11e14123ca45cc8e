"""IRT 2PL: the two-parameter logistic item-response model, 20 items and 100 persons, simulated."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
import numpyro
import numpyro.distributions as dist
from jaxtyping import Array

from ._entry import Call, Data, Entry, PyroCall
from ._tensor import tensor


def irt_2pl(y: Array) -> None:
    """Ability ``theta`` per person, discrimination ``a`` and difficulty ``b`` per item, all with learned scales."""
    num_items, num_persons = y.shape
    sigma_theta = numpyro.sample("sigma_theta", dist.HalfCauchy(2.0))
    with numpyro.plate("person", num_persons):
        theta = numpyro.sample("theta", dist.Normal(0.0, sigma_theta))
    sigma_a = numpyro.sample("sigma_a", dist.HalfCauchy(2.0))
    mu_b = numpyro.sample("mu_b", dist.Normal(0.0, 5.0))
    sigma_b = numpyro.sample("sigma_b", dist.HalfCauchy(2.0))
    with numpyro.plate("item", num_items):
        a = numpyro.sample("a", dist.LogNormal(0.0, sigma_a))
        b = numpyro.sample("b", dist.Normal(mu_b, sigma_b))
    # Both plates own axis -1, so that a, b and theta stay vectors; the responses are a plain batch of draws.
    logits = a[:, None] * (theta[None, :] - b[:, None])
    numpyro.sample("y", dist.Bernoulli(logits=logits), obs=y)


def _args(data: Data) -> Call:
    return (jnp.asarray(data["y"]),), {}


def _pyro(data: Data) -> PyroCall:
    import pyro
    import pyro.distributions as pdist

    def irt_2pl(y: Any) -> None:
        num_items, num_persons = y.shape
        sigma_theta = pyro.sample("sigma_theta", pdist.HalfCauchy(tensor(2.0)))
        with pyro.plate("person", num_persons):
            theta = pyro.sample("theta", pdist.Normal(tensor(0.0), sigma_theta))
        sigma_a = pyro.sample("sigma_a", pdist.HalfCauchy(tensor(2.0)))
        mu_b = pyro.sample("mu_b", pdist.Normal(tensor(0.0), tensor(5.0)))
        sigma_b = pyro.sample("sigma_b", pdist.HalfCauchy(tensor(2.0)))
        with pyro.plate("item", num_items):
            a = pyro.sample("a", pdist.LogNormal(tensor(0.0), sigma_a))
            b = pyro.sample("b", pdist.Normal(mu_b, sigma_b))
        logits = a[:, None] * (theta[None, :] - b[:, None])
        pyro.sample("y", pdist.Bernoulli(logits=logits).to_event(2), obs=y)

    return irt_2pl, (tensor(data["y"]),), {}


ENTRY = Entry(
    name="irt_2pl",
    description="Two-parameter logistic item-response model: 144 dimensions, hierarchical, multiplicative ridge.",
    model=irt_2pl,
    dim=144,
    build_args=_args,
    aliases=("irt_2pl-irt_2pl",),
    dims={"y": ("item", "person")},
    build_pyro=_pyro,
)
