"""Diffusion posterior sampling: the denoiser's chain, pulled along by the likelihood of what it expects."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from ...models._types import Key
from .._checks import check_count, check_key, check_positive
from ._fields import AbstractFields
from ._noising import Nodes, Step, make_nodes
from ._points import check_fields, check_log_density


def dps(
    key: Key,
    fields: AbstractFields,
    log_likelihood: Callable[[Float[Array, " d"]], Float[Array, ""]],
    *,
    dim: int,
    num_particles: int = 4096,
    num_steps: int = 1000,
    times: Any = None,
    scale: float = 1.0,
) -> Float[Array, "n d"]:
    """Draw roughly from the posterior: ancestral steps of the prior with ``s + scale grad_x log L(E[x_1 | x_t = x])``.

    Args:
        key: typed key.
        fields: of a one-sided path; conditional ones as `FixedCondition`.
        log_likelihood: of one point.
        dim: dimension of a point.
        num_particles: points, independent of each other.
        num_steps: steps, unless ``times`` are given.
        times: increasing times in [0, 1).
        scale: of the pull. It is cut where it would move a point by more than three standard deviations of the step's
            noise per coordinate, without which steps of sharp likelihoods diverge.

    Returns:
        The points at the data end.

    Bias: the likelihood of a mean stands for a mean of likelihoods, and no weights make up for it: neither spread nor
    weights of modes are those of the posterior, however many steps. The method is a baseline for `posterior`. Cost: one
    derivative of the denoiser per point and step.

    Reference: Chung et al., Diffusion posterior sampling for general noisy inverse problems, arXiv:2209.14687,
    algorithm 1.
    """
    check_fields(fields)
    dim, count = check_count("dim", dim, 1), check_count("num_particles", num_particles, 1)
    nodes = make_nodes(fields.path, times, check_count("num_steps", num_steps, 2))
    check_log_density("log_likelihood", log_likelihood, (dim,), nodes.time.dtype)
    strength = check_positive("scale", scale, nodes.time.dtype, "no units", zero=True)
    return _sample(check_key(key), fields, log_likelihood, nodes, strength, dim, count)


@eqx.filter_jit
def _sample(
    key: Key,
    fields: AbstractFields,
    log_likelihood: Callable[[Array], Array],
    nodes: Nodes,
    strength: Array,
    dim: int,
    count: int,
) -> Array:
    key_start, key_noise = jax.random.split(key)

    def step(points: Array, per: tuple[Nodes, Step, Key]) -> tuple[Array, None]:
        node, step, key = per
        noise = jax.random.normal(key, points.shape, points.dtype)

        def one(point: Array, z: Array) -> Array:
            def guided(x: Array) -> tuple[Array, Array]:
                clean = fields.ends(node.time, x)[-1]
                return log_likelihood(clean), clean

            slope, clean = jax.grad(guided, has_aux=True)(point)
            pull = step.pull * node.variance / node.signal * strength * slope
            most = 3.0 * jnp.sqrt(dim * step.lost)
            size = jnp.linalg.norm(pull)
            pull = pull * jnp.minimum(1.0, most / jnp.maximum(size, jnp.finfo(size.dtype).tiny))
            return step.keep * point + step.pull * clean + pull + jnp.sqrt(step.variance) * z

        return jax.vmap(one)(points, noise), None

    keys = jax.random.split(key_noise, nodes.time.shape[0])
    start = jnp.sqrt(nodes.variance[0]) * jax.random.normal(key_start, (count, dim), nodes.time.dtype)
    return jax.lax.scan(step, start, (nodes, nodes.steps(), keys))[0]
