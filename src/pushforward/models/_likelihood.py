"""The likelihood of a NumPyro program as a function of a point that comes from elsewhere."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float
from numpyro import handlers
from numpyro.infer.util import log_density

LogLikelihood = Callable[[Float[Array, " *event"]], Float[Array, ""]]


def likelihood(program: Callable[..., Any], *args: Any, **kwargs: Any) -> LogLikelihood:
    """The log-likelihood ``x -> log p(data | x)`` of a NumPyro program that takes x and observes.

    For posteriors whose prior is not a program, such as `pushforward.interpolants.posterior`, whose prior is learned::

        def observe(x, y):
            numpyro.sample("y", dist.Normal(jnp.linalg.norm(x), 0.1), obs=y)

        pf.interpolants.posterior(key, fields, pf.likelihood(observe, 1.3), dim=2)

    Plates, masks, factors and `numpyro.handlers.scale` count as they do in any program.

    Args:
        program: ``program(x, *args, **kwargs)``, with x an array of any shape. Every site of it is observed.
        args: passed on after x.
        kwargs: passed on.

    Returns:
        A function of one point, for `jax.grad`, `jax.vmap` and compiled code.

    Raises:
        ValueError: for what is no function; when the result is called, for a site that is not observed, or for none.
    """
    if not callable(program):
        raise ValueError(f"program is {type(program).__name__}: expected a function of x that observes.")

    def log_likelihood(x: Float[Array, " *event"]) -> Float[Array, ""]:
        with handlers.seed(rng_seed=jax.random.key(0)):
            value, trace = log_density(program, (x, *args), kwargs, {})
        latent = [name for name, site in trace.items() if site["type"] == "sample" and not site["is_observed"]]
        if latent:
            raise ValueError(
                f"The likelihood program has the latent site {latent[0]!r}: expected every site observed, as its prior "
                "is the caller's. Make it an argument, or give the whole model to pf.from_numpyro."
            )
        if not any(site["type"] == "sample" for site in trace.values()):
            raise ValueError(
                "The likelihood program observes nothing: expected at least one numpyro.sample(..., obs=...) or "
                "numpyro.factor."
            )
        return jnp.asarray(value)

    return log_likelihood
