"""Gradients of KL(p || q) from draws of p that are given, not drawn from the guide."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Int

from ...models import Target
from ...models._types import Batch, Key, Position
from ...models.guides import AbstractGuide
from ..objectives import AbstractObjective
from ._base import Estimate, Parameters, join, particle_keys, split


def likelihood_gradient(
    key: Key,
    objective: AbstractObjective,
    target: Target,
    guide: AbstractGuide,
    num_particles: int,
    batch: Batch | None,
) -> tuple[Estimate, Parameters]:
    """Maximum likelihood: minus the mean of d log q(x_k) / d phi over a minibatch of the objective's draws."""
    _check(objective, target, guide)
    positions = _minibatch(key, objective.draws, num_particles)
    log_p = jax.vmap(lambda x: target.logdensity(x, batch, jacobian=guide.jacobian))(positions)
    parameters, static = split(target, guide)

    def log_q_of(parameters: Parameters) -> Array:
        _, joined_guide = join(parameters, target, static)
        return jax.vmap(lambda x: joined_guide.log_prob(x, batch))(positions)

    log_q, pull = jax.vjp(log_q_of, parameters)
    (gradient,) = pull(jnp.full_like(log_q, -1.0 / num_particles))
    return _estimate(log_p - log_q), gradient


def forward_path_gradient(
    key: Key,
    objective: AbstractObjective,
    target: Target,
    guide: AbstractGuide,
    num_particles: int,
    batch: Batch | None,
) -> tuple[Estimate, Parameters]:
    """Path gradient of KL(p || q) over a minibatch of the objective's draws; zero where q = p, draw by draw.

    It is the path gradient of the reverse divergence between p pulled back to the noise and the noise's own law.
    Reference: Vaitl et al., arXiv:2403.15881, section 4; Bauer and Mnih, arXiv:2101.11046.
    """
    _check(objective, target, guide)
    positions = _minibatch(key, objective.draws, num_particles)
    density = jax.value_and_grad(lambda x: target.logdensity(x, batch, jacobian=guide.jacobian))
    log_p, forces = jax.vmap(density)(positions)
    parameters, static = split(target, guide)

    def points_of(parameters: Parameters) -> tuple[Any, tuple[Array, Any]]:
        _, joined_guide = join(parameters, target, static)
        points, log_q, pulls = jax.vmap(lambda x, f: joined_guide.forward_path(x, f, batch))(positions, forces)
        return points, jax.lax.stop_gradient((log_q, pulls))

    _, pull, (log_q, pulls) = jax.vjp(points_of, parameters, has_aux=True)
    (gradient,) = pull(jax.tree.map(lambda c: c / num_particles, pulls))
    return _estimate(log_p - log_q), gradient


def _estimate(weights: Array) -> Estimate:
    """Under draws of p the mean log-weight is log evidence plus KL(p || q)."""
    mean = jnp.mean(weights)
    return Estimate(mean, weights, mean)


def _minibatch(key: Key, draws: Position, num_particles: int) -> Position:
    keys = particle_keys(key, num_particles)
    if not jnp.issubdtype(keys.dtype, jax.dtypes.prng_key):
        raise ValueError("Expected keys to choose among the given draws, got noise: pass a key, or one per particle.")
    count = jax.tree.leaves(draws)[0].shape[0]
    index: Int[Array, " k"] = jax.vmap(lambda k: jax.random.randint(k, (), 0, count))(keys)
    return jax.tree.map(lambda x: jnp.asarray(x)[index], draws)


def _check(objective: AbstractObjective, target: Target, guide: AbstractGuide) -> None:
    name = type(objective).__name__
    given: Any = jax.tree.structure(objective.draws)
    expected: Any = jax.tree.structure(target.example)
    shapes = [jnp.shape(x) for x in jax.tree.leaves(objective.draws)]
    inner = [jnp.shape(x) for x in jax.tree.leaves(target.example)]
    if (
        given != expected
        or any(len(s) == 0 or s[1:] != i for s, i in zip(shapes, inner, strict=True))
        or len({s[0] for s in shapes}) != 1
        or shapes[0][0] == 0
    ):
        raise ValueError(
            f"{name}(draws=...) has structure {given} with shapes {shapes}: expected positions of the target, i.e. "
            f"{expected} with one more leading axis, common to all, than {inner}. Map values in the model's own space "
            "with jax.vmap(target.unconstrain)."
        )
    if target.program.params:
        raise ValueError(
            f"{name}(draws=...) takes draws of one posterior, but the model has parameters to learn "
            f"({', '.join(sorted(target.program.params))}), which would change it. Expected a target without learnable "
            f"parameters, or {name}() without draws (wake phase)."
        )
    if not guide.has_density:
        raise ValueError(f"{name}(draws=...) needs log q, which {type(guide).__name__} does not have.")
