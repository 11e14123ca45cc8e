"""What a gradient estimator is."""

from __future__ import annotations

import abc
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from ...models import Target
from ...models._types import Batch, Key
from ...models.guides import AbstractGuide
from ..objectives import AbstractObjective


class Estimate(NamedTuple):
    """One Monte Carlo estimate of an objective."""

    value: Float[Array, ""]
    """The objective, in nats (to be maximised)."""
    log_weights: Float[Array, " k"]


class Parameters(NamedTuple):
    """What is learned: the guide's trainable leaves (None elsewhere) and the target's learnable parameters."""

    guide: Any
    model: dict[str, Any]


class AbstractGradient(eqx.Module):
    """An estimator of the gradient of -E_q[F] with respect to guide and model parameters. Knows no particular model."""

    @abc.abstractmethod
    def value_and_grad(
        self,
        key: Key,
        objective: AbstractObjective,
        target: Target,
        guide: AbstractGuide,
        num_particles: int,
        batch: Batch | None = None,
    ) -> tuple[Estimate, Parameters]:
        """Estimate the objective and the gradient of the loss -F.

        Args:
            key: a key; particle k uses ``fold_in(key, k)``.
            objective: scalar function of log-weights.
            target: density; its learnable parameters are ``target.program.params``.
            guide: bound variational family.
            num_particles: draws of the guide, K.
            batch: minibatch indices.

        Returns:
            The estimate, and gradients of the loss (minimised) shaped like `split`'s parameters.
        """


def split(target: Target, guide: AbstractGuide) -> tuple[Parameters, AbstractGuide]:
    """Learnable parameters of target and guide, and the guide without its own."""
    dynamic, static = eqx.partition(guide, guide.trainable())
    return Parameters(dynamic, target.program.params), static


def join(parameters: Parameters, target: Target, static: AbstractGuide) -> tuple[Target, AbstractGuide]:
    """Inverse of `split`."""
    if parameters.model:
        target = target.with_params(parameters.model)
    return target, eqx.combine(parameters.guide, static)


def log_weights(
    key: Key,
    target: Target,
    guide: AbstractGuide,
    num_particles: int,
    batch: Batch | None,
    *,
    density: AbstractGuide | None = None,
) -> Float[Array, " k"]:
    """Log-weights of K draws of the guide.

    Args:
        key: particle k uses ``fold_in(key, k)``.
        target: density.
        guide: the law that is drawn from.
        num_particles: K.
        batch: minibatch indices.
        density: evaluates log q at the draws instead of the guide (the guide with stopped parameters, for path
            gradients).
    """

    def one(key: Key) -> Array:
        position, log_q = guide.sample_and_log_prob(key, batch)
        if density is not None and guide.has_density:
            log_q = density.log_prob(position, batch)
        return target.logdensity(position, batch, jacobian=guide.jacobian) - log_q

    keys = jax.vmap(lambda k: jax.random.fold_in(key, k))(jnp.arange(num_particles))
    return jax.vmap(one)(keys)
