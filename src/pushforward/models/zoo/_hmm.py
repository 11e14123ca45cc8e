"""Hidden Markov model: two states, Gaussian emissions, states summed out by the forward algorithm."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpyro
import numpyro.distributions as dist
from jaxtyping import Array
from numpyro.distributions import constraints

from ._entry import Call, Data, Entry


def hmm(y: Array) -> None:
    """Transition rows ``theta1``, ``theta2`` and ordered positive emission means ``mu``; unit emission noise.

    The chain has no initial distribution: both states enter the first step with weight one.
    """
    theta1 = numpyro.sample("theta1", dist.Dirichlet(jnp.ones(2)))
    theta2 = numpyro.sample("theta2", dist.Dirichlet(jnp.ones(2)))
    mu = numpyro.sample("mu", dist.ImproperUniform(constraints.positive_ordered_vector, (), (2,)))
    numpyro.factor("mu_prior", jnp.sum(dist.Normal(jnp.array([3.0, 10.0]), 1.0).log_prob(mu)))
    log_emission = jnp.stack([dist.Normal(mu[state], 1.0).log_prob(y) for state in range(2)], axis=-1)
    numpyro.factor("likelihood", _forward(jnp.log(jnp.stack([theta1, theta2])), log_emission))


def _forward(log_transition: Array, log_emission: Array) -> Array:
    def step(log_weights: Array, log_likelihood: Array) -> tuple[Array, None]:
        moved = jax.nn.logsumexp(log_weights[:, None] + log_transition, axis=0)
        return moved + log_likelihood, None

    log_weights, _ = jax.lax.scan(step, log_emission[0], log_emission[1:])
    return jax.nn.logsumexp(log_weights)


def _args(data: Data) -> Call:
    return (jnp.asarray(data["y"], float),), {}


ENTRY = Entry(
    name="hmm",
    description="Two-state hidden Markov model: simplexes, an ordered vector, a marginal likelihood as a factor.",
    model=hmm,
    dim=4,
    build_args=_args,
    aliases=("hmm_example-hmm_example", "hmm_example"),
    coords={"state": (1, 2)},
    dims={"theta1": ("state",), "theta2": ("state",), "mu": ("state",)},
)
