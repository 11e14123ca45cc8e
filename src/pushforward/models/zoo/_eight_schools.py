"""Eight schools: a hierarchical normal model with known standard errors, centred and non-centred."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
import numpyro
import numpyro.distributions as dist
from jaxtyping import Array

from ._entry import Call, Data, Draws, Entry, PyroCall
from ._tensor import tensor


def eight_schools_centered(standard_errors: Array, y: Array | None = None) -> None:
    """School effects drawn directly from their population: a funnel between ``tau`` and ``theta``."""
    mu = numpyro.sample("mu", dist.Normal(0.0, 5.0))
    tau = numpyro.sample("tau", dist.HalfCauchy(5.0))
    with numpyro.plate("school", standard_errors.shape[0]):
        theta = numpyro.sample("theta", dist.Normal(mu, tau))
        numpyro.sample("y", dist.Normal(theta, standard_errors), obs=y)


def eight_schools_noncentered(standard_errors: Array, y: Array | None = None) -> None:
    """School effects as scaled standard normals: the same posterior of (mu, tau, theta) without the funnel."""
    mu = numpyro.sample("mu", dist.Normal(0.0, 5.0))
    tau = numpyro.sample("tau", dist.HalfCauchy(5.0))
    with numpyro.plate("school", standard_errors.shape[0]):
        theta_trans = numpyro.sample("theta_trans", dist.Normal(0.0, 1.0))
        theta = numpyro.deterministic("theta", mu + tau * theta_trans)
        numpyro.sample("y", dist.Normal(theta, standard_errors), obs=y)


def _args(data: Data) -> Call:
    return (jnp.asarray(data["sigma"], float), jnp.asarray(data["y"], float)), {}


def _pyro_centered(data: Data) -> PyroCall:
    import pyro
    import pyro.distributions as pdist

    def eight_schools_centered(standard_errors: Any, y: Any = None) -> None:
        mu = pyro.sample("mu", pdist.Normal(tensor(0.0), tensor(5.0)))
        tau = pyro.sample("tau", pdist.HalfCauchy(tensor(5.0)))
        with pyro.plate("school", standard_errors.shape[0]):
            theta = pyro.sample("theta", pdist.Normal(mu, tau))
            pyro.sample("y", pdist.Normal(theta, standard_errors), obs=y)

    return eight_schools_centered, (tensor(data["sigma"]), tensor(data["y"])), {}


def _pyro_noncentered(data: Data) -> PyroCall:
    import pyro
    import pyro.distributions as pdist

    def eight_schools_noncentered(standard_errors: Any, y: Any = None) -> None:
        mu = pyro.sample("mu", pdist.Normal(tensor(0.0), tensor(5.0)))
        tau = pyro.sample("tau", pdist.HalfCauchy(tensor(5.0)))
        with pyro.plate("school", standard_errors.shape[0]):
            theta_trans = pyro.sample("theta_trans", pdist.Normal(tensor(0.0), tensor(1.0)))
            theta = pyro.deterministic("theta", mu + tau * theta_trans, event_dim=0)
            pyro.sample("y", pdist.Normal(theta, standard_errors), obs=y)

    return eight_schools_noncentered, (tensor(data["sigma"]), tensor(data["y"])), {}


def _standardise(draws: Draws) -> Draws:
    mu, tau = draws["mu"], draws["tau"]
    return {"mu": mu, "tau": tau, "theta_trans": (draws["theta"] - mu[:, None]) / tau[:, None]}


CENTERED = Entry(
    name="eight_schools_centered",
    description="Effects of coaching in eight schools, centred: a hierarchical model with a funnel.",
    model=eight_schools_centered,
    dim=10,
    build_args=_args,
    aliases=("eight_schools-eight_schools_centered",),
    coords={"school": tuple("ABCDEFGH")},
    folder="eight_schools",
    build_pyro=_pyro_centered,
)

NONCENTERED = Entry(
    name="eight_schools_noncentered",
    description="Effects of coaching in eight schools, non-centred; the reference is about theta, a deterministic.",
    model=eight_schools_noncentered,
    dim=10,
    build_args=_args,
    aliases=("eight_schools-eight_schools_noncentered", "eight_schools"),
    coords={"school": tuple("ABCDEFGH")},
    folder="eight_schools",
    build_pyro=_pyro_noncentered,
    recover_latents=_standardise,
)
