"""Targets and guides with known answers, shared by the tests of results."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from jax.scipy.stats import norm

import pushforward as pf
from pushforward.infer._build import build_posterior


class NormalGuide(eqx.Module):
    """Independent normals on unconstrained space: mean and sd per leaf."""

    mean: dict[str, jax.Array]
    sd: dict[str, jax.Array]

    def sample_and_log_prob(self, key: jax.Array) -> tuple[dict[str, jax.Array], jax.Array]:
        keys = jax.random.split(key, len(self.mean))
        position = {
            name: mean + self.sd[name] * jax.random.normal(k, mean.shape, mean.dtype)
            for k, (name, mean) in zip(keys, self.mean.items(), strict=True)
        }
        return position, self.log_prob(position)

    def log_prob(self, position: Mapping[str, jax.Array]) -> jax.Array:
        return sum(
            (jnp.sum(norm.logpdf(position[name], mean, self.sd[name])) for name, mean in self.mean.items()),
            jnp.zeros(()),
        )


def schools(y: Any = None, sigma: Any = None) -> None:
    mu = numpyro.sample("mu", dist.Normal(0.0, 5.0))
    tau = numpyro.sample("tau", dist.HalfNormal(5.0))
    with numpyro.plate("school", len(sigma)):
        theta = numpyro.sample("theta", dist.Normal(mu, tau))
        numpyro.sample("y", dist.Normal(theta, sigma), obs=y)
    numpyro.deterministic("better", theta > mu)
    numpyro.deterministic("twice", 2.0 * mu)


SIGMA = np.array([15.0, 10.0, 16.0, 11.0])
Y = np.array([28.0, 8.0, -3.0, 7.0])


def conjugate(y: Any = None, num: int = 20) -> None:
    mu = numpyro.sample("mu", dist.Normal(0.0, 20.0))
    with numpyro.plate("obs", num):
        numpyro.sample("y", dist.Normal(mu, 1.0), obs=y)


def conjugate_moments(y: np.ndarray) -> tuple[float, float]:
    """Posterior mean and sd of ``conjugate``."""
    precision = 1 / 400 + y.size
    return float(y.sum() / precision), float(precision**-0.5)


@pytest.fixture(scope="session")
def schools_target() -> pf.Target:
    return pf.from_numpyro(schools, y=Y, sigma=SIGMA, coords={"school": ["A", "B", "C", "D"]})


@pytest.fixture(scope="session")
def guided() -> Callable[..., Any]:
    """``guided(target, mean, sd, num_draws, seed=0, **options)``: a variational result of a normal guide."""

    def build(
        target: pf.Target, mean: Any = 0.0, sd: Any = 1.0, num_draws: int = 1000, *, seed: int = 0, **options: Any
    ):
        def fill(value: Any) -> dict[str, jax.Array]:
            named = value if isinstance(value, dict) else dict.fromkeys(target.example, value)
            return {k: jnp.broadcast_to(jnp.asarray(named[k], v.dtype), v.shape) for k, v in target.example.items()}

        guide = NormalGuide(fill(mean), fill(sd))
        draw = eqx.filter_jit(lambda guide, keys: jax.vmap(guide.sample_and_log_prob)(keys))
        positions, log_q = draw(guide, jax.random.split(jax.random.key(seed), num_draws))
        return build_posterior(
            target,
            jax.tree.map(lambda leaf: leaf[None], positions),
            kind="variational",
            algorithm="NormalGuide",
            sample_stats={"log_q": log_q[None]},
            guide=guide,
            **options,
        )

    return build


@pytest.fixture(scope="session")
def gaussian_target() -> pf.Target:
    """Standard normal in three dimensions, unnormalised: log Z = 1.5 log(2 pi)."""
    return pf.from_logdensity(lambda v: -0.5 * jnp.sum(v["x"] ** 2), {"x": jnp.zeros(3)})


@pytest.fixture(scope="session")
def conjugate_fit(guided: Callable[..., Any]) -> Callable[..., Any]:
    """``conjugate_fit(widen=1.0, shift=0.0, num_draws=2000)``: the exact posterior as a guide, scaled and moved."""

    def build(widen: float = 1.0, shift: float = 0.0, num_draws: int = 2000, y: Any = None, **options: Any):
        y = np.asarray(np.random.default_rng(5).normal(3.0, 1.0, 20) if y is None else y)
        mean, sd = conjugate_moments(y)
        target = pf.from_numpyro(conjugate, y=y, num=y.size)
        return guided(target, mean + shift * sd, widen * sd, num_draws, **options)

    return build


@pytest.fixture(scope="session")
def chains(gaussian_target: pf.Target) -> Callable[..., Any]:
    """``chains(draws, **stats)``: draws of shape (chain, draw, 3) as a Markov chain result on the Gaussian target."""

    def build(draws: np.ndarray, attrs: Any = None, **stats: Any):
        return build_posterior(
            gaussian_target, {"x": draws}, kind="mcmc", algorithm="NUTS", sample_stats=stats, attrs=attrs
        )

    return build
