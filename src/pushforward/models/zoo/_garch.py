"""GARCH(1, 1): volatility of a simulated series, with coupled constraints and improper priors."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpyro
import numpyro.distributions as dist
from jaxtyping import Array
from numpyro.distributions import constraints

from ._entry import Call, Data, Draws, Entry


def garch(sigma1: Array, y: Array) -> None:
    """GARCH(1, 1): ``var[t] = alpha0 + alpha1 (y[t-1] - mu)^2 + beta1 var[t-1]``, ``var[0] = sigma1^2``.

    ``beta1`` is flat on (0, 1 - alpha1). It is written as a uniform fraction of that interval times its length, and the
    factor restores the constant density; ``Uniform(0, 1 - alpha1)`` would favour large ``alpha1``.
    """
    mu = numpyro.sample("mu", dist.ImproperUniform(constraints.real, (), ()))
    alpha0 = numpyro.sample("alpha0", dist.ImproperUniform(constraints.positive, (), ()))
    alpha1 = numpyro.sample("alpha1", dist.Uniform(0.0, 1.0))
    fraction = numpyro.sample("beta1_frac", dist.Uniform(0.0, 1.0))
    beta1 = numpyro.deterministic("beta1", fraction * (1.0 - alpha1))
    numpyro.factor("beta1_flat", jnp.log1p(-alpha1))

    def step(variance: Array, previous: Array) -> tuple[Array, Array]:
        variance = alpha0 + alpha1 * (previous - mu) ** 2 + beta1 * variance
        return variance, variance

    first = jnp.square(sigma1)
    _, rest = jax.lax.scan(step, first, y[:-1])
    sd = jnp.sqrt(jnp.concatenate([first[None], rest]))
    with numpyro.plate("time", y.shape[0]):
        numpyro.sample("y", dist.Normal(mu, sd), obs=y)


def _args(data: Data) -> Call:
    return (jnp.asarray(data["sigma1"], float), jnp.asarray(data["y"], float)), {}


def _fraction(draws: Draws) -> Draws:
    latents = {name: draws[name] for name in ("mu", "alpha0", "alpha1")}
    return {**latents, "beta1_frac": draws["beta1"] / (1.0 - draws["alpha1"])}


ENTRY = Entry(
    name="garch",
    description="GARCH(1, 1): flat priors, alpha1 + beta1 < 1; the reference is about the deterministic site beta1.",
    model=garch,
    dim=4,
    build_args=_args,
    aliases=("garch-garch11", "garch11"),
    recover_latents=_fraction,
)
