"""RED-Diff: a posterior mode under a diffusion prior, by optimisation."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float

from ...models._types import Key
from .._checks import check_count, check_floats, check_key, check_positive
from ._fields import AbstractFields
from ._noising import Nodes, make_nodes
from ._points import check_fields, check_log_density


def red_diff(
    key: Key,
    fields: AbstractFields,
    log_likelihood: Callable[[Float[Array, " d"]], Float[Array, ""]],
    init: Float[Array, "n d"],
    *,
    num_steps: int = 1000,
    times: Any = None,
    weight: float = 0.25,
    learning_rate: float = 0.1,
) -> Float[Array, "n d"]:
    """Optimise points by the likelihood and by how the prior's denoiser would change them.

    One step of Adam per noise level, from much noise to little, along the gradient
    ``-grad log L(mu) + weight (g / c)^2 (E[z | x_t] - z)`` with ``x_t = c mu + g z`` and the division by ``g / c`` that
    makes the last factor a gradient in mu: no derivative of the denoiser is needed.

    Args:
        key: typed key.
        fields: of a one-sided path; conditional ones as `FixedCondition`.
        log_likelihood: of one point.
        init: where each point starts, such as the least-squares solution of the observation.
        num_steps: noise levels, unless ``times`` are given.
        times: increasing times in [0, 1).
        weight: of the prior, relative to the likelihood.
        learning_rate: of Adam, in units of the points.

    Returns:
        The points after the last level.

    Bias: points end near modes, whatever the spread of the posterior is: this is an estimate, not a draw. The method
    is a baseline for `posterior`. Cost: one denoiser and one gradient of the likelihood per point and level.

    Reference: Mardani et al., A variational perspective on solving inverse problems with diffusion models,
    arXiv:2305.04391, algorithm 1 with the weights "linear" in noise over signal.
    """
    check_fields(fields)
    init = check_floats("init", init, "n, d")
    check_log_density("log_likelihood", log_likelihood, init.shape[1:], init.dtype)
    nodes = make_nodes(fields.path, times, check_count("num_steps", num_steps, 2))
    weights = [check_positive(n, v, init.dtype, "no units") for n, v in (("weight", weight), ("rate", learning_rate))]
    return _optimise(check_key(key), fields, log_likelihood, init, nodes, *weights)


@eqx.filter_jit
def _optimise(
    key: Key,
    fields: AbstractFields,
    log_likelihood: Callable[[Array], Array],
    init: Array,
    nodes: Nodes,
    weight: Array,
    rate: Array,
) -> Array:
    adam = optax.scale_by_adam(b1=0.9, b2=0.99)

    def step(state: tuple[Array, Any], per: tuple[Nodes, Key]) -> tuple[tuple[Array, Any], None]:
        (points, memory), (node, key) = state, per
        noise = jax.random.normal(key, points.shape, points.dtype)
        ratio = jnp.sqrt(node.variance) / node.signal

        def slope(point: Array, z: Array) -> Array:
            found = fields.noise(node.time, node.signal * point + jnp.sqrt(node.variance) * z)
            return weight * ratio * (found - z) - jax.grad(log_likelihood)(point)

        change, memory = adam.update(jax.vmap(slope)(points, noise), memory)
        return (points - rate * change, memory), None

    keys = jax.random.split(key, nodes.time.shape[0])
    (points, _), _ = jax.lax.scan(step, (init, adam.init(init)), (nodes, keys))
    return points
