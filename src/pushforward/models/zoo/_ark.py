"""ARK: an autoregressive model of order five with simulated data."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
from jaxtyping import Array

from ._entry import Call, Data, Entry, PyroCall
from ._tensor import tensor


def ark(lags: Array, y: Array | None = None) -> None:
    """AR(K): ``y[t] ~ Normal(alpha + lags[t] @ beta, sigma)``, the first K values taken as given."""
    alpha = numpyro.sample("alpha", dist.Normal(0.0, 10.0))
    with numpyro.plate("lag", lags.shape[1]):
        beta = numpyro.sample("beta", dist.Normal(0.0, 10.0))
    sigma = numpyro.sample("sigma", dist.HalfCauchy(2.5))
    with numpyro.plate("time", lags.shape[0]):
        numpyro.sample("y", dist.Normal(alpha + lags @ beta, sigma), obs=y)


def _lagged(data: Data) -> tuple[Any, Any]:
    order, y = data["K"], np.asarray(data["y"], float)
    lags = np.stack([y[order - k : len(y) - k] for k in range(1, order + 1)], axis=-1)
    return lags, y[order:]


def _args(data: Data) -> Call:
    lags, y = _lagged(data)
    return (jnp.asarray(lags, float), jnp.asarray(y, float)), {}


def _pyro(data: Data) -> PyroCall:
    import pyro
    import pyro.distributions as pdist

    def ark(lags: Any, y: Any = None) -> None:
        alpha = pyro.sample("alpha", pdist.Normal(tensor(0.0), tensor(10.0)))
        with pyro.plate("lag", lags.shape[1]):
            beta = pyro.sample("beta", pdist.Normal(tensor(0.0), tensor(10.0)))
        sigma = pyro.sample("sigma", pdist.HalfCauchy(tensor(2.5)))
        with pyro.plate("time", lags.shape[0]):
            pyro.sample("y", pdist.Normal(alpha + lags @ beta, sigma), obs=y)

    lags, y = _lagged(data)
    return ark, (tensor(lags), tensor(y)), {}


ENTRY = Entry(
    name="ark",
    description="AR(5) time series: correlated coefficients, easy geometry.",
    model=ark,
    dim=7,
    build_args=_args,
    aliases=("arK-arK", "arK"),
    coords={"lag": (1, 2, 3, 4, 5)},
    build_pyro=_pyro,
)
