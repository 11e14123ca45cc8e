"""Kid IQ: test scores of children on mother's schooling and IQ with interaction, unscaled covariates."""

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


def kidiq(x: Array, kid_score: Array | None = None) -> None:
    """Linear regression with flat priors on the coefficients."""
    beta = numpyro.sample("beta", dist.ImproperUniform(constraints.real, (), (x.shape[1],)))
    sigma = numpyro.sample("sigma", dist.HalfCauchy(2.5))
    with numpyro.plate("child", x.shape[0]):
        numpyro.sample("kid_score", dist.Normal(x @ beta, sigma), obs=kid_score)


def _design(data: Data) -> Any:
    mom_hs, mom_iq = np.asarray(data["mom_hs"], float), np.asarray(data["mom_iq"], float)
    return np.stack([np.ones_like(mom_hs), mom_hs, mom_iq, mom_hs * mom_iq], axis=-1)


def _args(data: Data) -> Call:
    return (jnp.asarray(_design(data), float), jnp.asarray(data["kid_score"], float)), {}


def _pyro(data: Data) -> PyroCall:
    import pyro
    import pyro.distributions as pdist

    def kidiq(x: Any, kid_score: Any = None) -> None:
        beta = pyro.sample("beta", pdist.ImproperUniform(pdist.constraints.real, (), (x.shape[1],)))
        sigma = pyro.sample("sigma", pdist.HalfCauchy(tensor(2.5)))
        with pyro.plate("child", x.shape[0]):
            pyro.sample("kid_score", pdist.Normal(x @ beta.to(x.dtype), sigma), obs=kid_score)

    return kidiq, (tensor(_design(data)), tensor(data["kid_score"])), {}


ENTRY = Entry(
    name="kidiq",
    description="Linear regression with an interaction of unscaled covariates: unequal scales, high correlation.",
    model=kidiq,
    dim=5,
    build_args=_args,
    aliases=("kidiq-kidscore_interaction",),
    coords={"coefficient": ("intercept", "mom_hs", "mom_iq", "mom_hs:mom_iq")},
    dims={"beta": ("coefficient",)},
    build_pyro=_pyro,
)
