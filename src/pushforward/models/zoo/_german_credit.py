"""German credit: logistic regression of bad credit on 24 numeric attributes of 1,000 applicants."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
from jaxtyping import Array

from ._entry import Call, Data, Entry, PyroCall
from ._tensor import tensor


def german_credit(features: Array, y: Array | None = None) -> None:
    """Logistic regression with standard normal weights; the last column of ``features`` is the constant one."""
    with numpyro.plate("feature", features.shape[1]):
        weights = numpyro.sample("weights", dist.Normal(0.0, 1.0))
    with numpyro.plate("applicant", features.shape[0]):
        numpyro.sample("y", dist.Bernoulli(logits=features @ weights), obs=y)


def _standardised(data: Data) -> Any:
    raw = np.asarray(data["features"], float)
    scaled = (raw - raw.mean(axis=0)) / raw.std(axis=0)
    return np.concatenate([scaled, np.ones((len(raw), 1))], axis=1)


def _args(data: Data) -> Call:
    return (jnp.asarray(_standardised(data), float), jnp.asarray(data["labels"])), {}


def _pyro(data: Data) -> PyroCall:
    import pyro
    import pyro.distributions as pdist

    def german_credit(features: Any, y: Any = None) -> None:
        with pyro.plate("feature", features.shape[1]):
            weights = pyro.sample("weights", pdist.Normal(tensor(0.0), tensor(1.0)))
        with pyro.plate("applicant", features.shape[0]):
            pyro.sample("y", pdist.Bernoulli(logits=features @ weights), obs=y)

    return german_credit, (tensor(_standardised(data)), tensor(data["labels"])), {}


ENTRY = Entry(
    name="german_credit",
    description="Logistic regression on the numeric German credit data: 25 weights, 1,000 rows, nearly Gaussian.",
    model=german_credit,
    dim=25,
    build_args=_args,
    aliases=("german_credit-logistic",),
    coords={"feature": (*(f"attribute_{i}" for i in range(1, 25)), "bias")},
    build_pyro=_pyro,
)
