"""What a gradient estimator is, and the shared algebra of F_k, F_kk and F_(-k)."""

from __future__ import annotations

import abc
from collections.abc import Callable
from typing import Any, NamedTuple, TypeVar

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from ...models import Target
from ...models._types import Batch, Key
from ...models.guides import AbstractGuide
from ..objectives import AbstractObjective
from ..objectives._power import power_mean_slope, power_mean_without

Gain = Callable[[Float[Array, " k"]], Float[Array, ""]]
G = TypeVar("G", bound="AbstractGradient")
T = TypeVar("T")


class Estimate(NamedTuple):
    """One Monte Carlo estimate of an objective."""

    value: Float[Array, ""]
    """The objective, in nats."""
    log_weights: Float[Array, " k"]
    loss: Float[Array, ""]
    """What the guide minimises."""


class Parameters(NamedTuple):
    """What is learned."""

    guide: Any
    """Trainable leaves of the guide, None elsewhere."""
    model: dict[str, Any]
    """Learnable parameters of the target."""
    estimator: Any = None
    """Numbers that the gradient estimator learns (baselines, control variates), None where it has none."""


class AbstractGradient(eqx.Module):
    """An estimator of the gradient of the loss with respect to guide and model parameters. Knows no particular model.

    Its inexact array leaves, if any, are numbers that it learns alongside (a running baseline). In their place
    `value_and_grad` returns finished steps, to be subtracted as they are: their scale is known to the estimator, not to
    the user's optimiser.
    """

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
        """Estimate the objective and the gradient of the loss.

        Args:
            key: a key, of which particle k uses ``fold_in(key, k)``; or these K keys; or the guide's ``noise`` of them.
            objective: scalar function of log-weights.
            target: density; its learnable parameters are ``target.program.params``.
            guide: bound variational family.
            num_particles: draws of the guide, K.
            batch: minibatch indices.

        Returns:
            The estimate, and gradients of the losses (minimised) shaped like `split`'s parameters.
        """

    def bind(self: G, target: Target, guide: AbstractGuide) -> G:
        """The estimator with the numbers it learns shaped for a bound guide; itself where their shape is known."""
        return self

    def check(self, objective: AbstractObjective, target: Target, guide: AbstractGuide, num_particles: int) -> None:
        """Refuse a combination that would be biased or undefined; called once, before anything is compiled.

        Raises:
            ValueError: saying why, and what to use instead.
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


def with_own(parameters: Parameters, gradient: G) -> tuple[Parameters, G]:
    """Parameters that include those of the estimator, and the estimator without them."""
    dynamic, static = eqx.partition(gradient, eqx.is_inexact_array)
    return parameters._replace(estimator=dynamic), static


def particle_keys(key: Key, num_particles: int) -> Key:
    """``fold_in(key, k)`` for every particle k; what has been spread already (keys or noise) is returned as it is."""
    return key if key.ndim > 0 else jax.vmap(lambda k: jax.random.fold_in(key, k))(jnp.arange(num_particles))


def over_particles(function: Callable[..., T], *draws: Any) -> T:
    """``jax.vmap(function)(*draws)``, without the map where there is one particle.

    A leading axis of one costs layout changes around every matrix product of a network: up to 1.4 times the run time.
    """
    if jax.tree.leaves(draws)[0].shape[0] > 1:
        return jax.vmap(function)(*draws)
    one = function(*jax.tree.map(lambda x: x[0], draws))
    return jax.tree.map(lambda x: jnp.asarray(x)[None], one)


def log_weights(
    key: Key,
    target: Target,
    guide: AbstractGuide,
    num_particles: int,
    batch: Batch | None,
    *,
    law: AbstractGuide | None = None,
) -> Float[Array, " k"]:
    """Log-weights of K draws.

    Args:
        key: particle k uses ``fold_in(key, k)``.
        target: density.
        guide: evaluates log q.
        num_particles: K.
        batch: minibatch indices.
        law: draws the particles, which are then constants; None draws from the guide, differentiably.
    """

    def one(key: Key) -> Array:
        if law is None:
            position, log_q = guide.sample_and_log_prob(key, batch)
        else:
            position = jax.lax.stop_gradient(law.sample_and_log_prob(key, batch)[0])
            log_q = guide.log_prob(position, batch)
        return target.logdensity(position, batch, jacobian=guide.jacobian) - log_q

    return over_particles(one, particle_keys(key, num_particles))


def derivatives(gain: Gain, weights: Float[Array, " k"]) -> Float[Array, " k"]:
    """F_k = dF / dl_k."""
    closed = power_of(gain)
    return jax.grad(gain)(weights) if closed is None else closed[0] * power_mean_slope(weights, closed[1])[0]


def second_derivatives(gain: Gain, weights: Float[Array, " k"]) -> Float[Array, " k"]:
    """F_kk: the diagonal of the Hessian of F. O(K) for power means, else K Hessian-vector products of K numbers."""
    closed = power_of(gain)
    if closed is not None:
        return closed[0] * power_mean_slope(weights, closed[1])[1]
    gradient = jax.grad(gain)

    def along(direction: Array) -> Array:
        return jnp.vdot(jax.jvp(gradient, (weights,), (direction,))[1], direction)

    return jax.vmap(along)(jnp.eye(weights.size, dtype=weights.dtype))


def leave_one_out(gain: Gain, weights: Float[Array, " k"]) -> Float[Array, " k"]:
    """F_(-k): F with l_k replaced by the mean of the others, which does not depend on draw k. Zero for one draw."""
    count = weights.shape[0]
    if count == 1:
        return jnp.zeros_like(weights)
    closed = power_of(gain)
    if closed is not None:
        return closed[0] * power_mean_without(weights, closed[1])
    others = (jnp.sum(weights) - weights) / (count - 1)
    swapped = jnp.where(jnp.eye(count, dtype=bool), others[:, None], weights)
    return jax.vmap(gain)(swapped)


def power_of(gain: Gain) -> tuple[float, float] | None:
    """``(a, p)`` where a gain is known to be ``a * log_power_mean(., p)``; see `AbstractObjective.guide_power`."""
    owner = getattr(gain, "__self__", None)
    if not isinstance(owner, AbstractObjective) or getattr(gain, "__name__", "") != "guide_gain":
        return None
    for kind in type(owner).__mro__:
        # A subclass that changes the function without changing what is said of it is not what was said.
        if "guide_power" in vars(kind):
            return owner.guide_power
        if {"guide_gain", "__call__"} & set(vars(kind)):
            return None
    return None


def estimate(objective: AbstractObjective, weights: Float[Array, " k"]) -> Estimate:
    """Value and loss at log-weights of draws of the guide."""
    if objective.sleeps:
        raise ValueError(
            f"{type(objective).__name__} in its sleep phase simulates its draws, which this gradient estimator cannot "
            "use: expected no gradient at all, or pf.Reparam(), resolved by pf.fit or resolve_gradient."
        )
    if objective.draws is not None:
        raise ValueError(
            f"{type(objective).__name__}(draws=...) brings its own draws, which this gradient estimator cannot use: "
            "expected gradient=pf.Path() (path gradient) or pf.Reparam() (maximum likelihood)."
        )
    return Estimate(objective(weights), weights, objective.guide_loss(weights))
