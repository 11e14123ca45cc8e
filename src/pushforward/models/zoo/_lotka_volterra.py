"""Lotka-Volterra: lynx and hare pelts 1900-1920, a differential equation inside the likelihood."""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpyro
import numpyro.distributions as dist
from jaxtyping import Array

from ._entry import Call, Data, Entry

_SUBSTEPS = 25
"""Runge-Kutta steps per year: integration error far below the Monte Carlo error of the reference."""


def lotka_volterra(times: Array, y_init: Array | None = None, y: Array | None = None) -> None:
    """Log-normal pelt counts around the solution of ``hare' = (a - b lynx) hare``, ``lynx' = (d hare - c) lynx``."""
    with numpyro.plate("rate", 4):
        prior = dist.TruncatedNormal(jnp.array([1.0, 0.05, 1.0, 0.05]), jnp.array([0.5, 0.05, 0.5, 0.05]), low=0.0)
        theta = numpyro.sample("theta", prior)
    species = numpyro.plate("species", 2, dim=-1)
    with species:
        z_init = numpyro.sample("z_init", dist.LogNormal(jnp.log(10.0), 1.0))
        sigma = numpyro.sample("sigma", dist.LogNormal(-1.0, 1.0))
        numpyro.sample("y_init", dist.LogNormal(jnp.log(z_init), sigma), obs=y_init)

    def derivative(z: Array) -> Array:
        return jnp.stack([(theta[0] - theta[1] * z[1]) * z[0], (theta[3] * z[0] - theta[2]) * z[1]])

    # The floor guards the logarithm against a solution that a wild proposal drives to zero.
    z = jnp.maximum(_runge_kutta(derivative, z_init, times), 1e-12)
    with numpyro.plate("year", times.shape[0], dim=-2), species:
        numpyro.sample("y", dist.LogNormal(jnp.log(z), jnp.broadcast_to(sigma, z.shape)), obs=y)


def _runge_kutta(derivative: Callable[[Array], Array], start: Array, times: Array) -> Array:
    """Classical fourth-order method from time zero through ``times`` for an autonomous system: states (times, dim)."""

    def interval(state: Array, length: Array) -> tuple[Array, Array]:
        h = length / _SUBSTEPS

        def step(y: Array, _: None) -> tuple[Array, None]:
            k1 = derivative(y)
            k2 = derivative(y + 0.5 * h * k1)
            k3 = derivative(y + 0.5 * h * k2)
            k4 = derivative(y + h * k3)
            return y + h / 6.0 * (k1 + 2.0 * k2 + 2.0 * k3 + k4), None

        state, _ = jax.lax.scan(step, state, None, length=_SUBSTEPS)
        return state, state

    lengths = jnp.diff(times, prepend=jnp.zeros((1,), times.dtype))
    return jax.lax.scan(interval, start, lengths)[1]


def _args(data: Data) -> Call:
    return tuple(jnp.asarray(data[name], float) for name in ("ts", "y_init", "y")), {}


ENTRY = Entry(
    name="lotka_volterra",
    description="Predator-prey differential equation on Hudson's Bay lynx and hare pelts: costly, correlated.",
    model=lotka_volterra,
    dim=8,
    build_args=_args,
    aliases=("hudson_lynx_hare-lotka_volterra",),
    coords={
        "rate": ("hare_growth", "hare_predation", "lynx_death", "lynx_growth"),
        "species": ("hare", "lynx"),
        "year": tuple(range(1901, 1921)),
    },
)
