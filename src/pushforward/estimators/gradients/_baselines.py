"""Baselines of the score-function gradient: numbers that do not depend on the draw they are subtracted from."""

from __future__ import annotations

import abc
import inspect
import math
from collections.abc import Callable
from typing import Any, TypeGuard

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from ...models._types import Batch
from .._keywords import explain_keywords
from .._numbers import as_float
from ._base import Gain, leave_one_out

_DECAY = 0.05
"""Weight of the newest value in a running mean: a memory of about twenty steps."""
_NETWORK = (
    "e.g. class Level(eqx.Module): level: jax.Array; __call__ = lambda self, batch: self.level, and then "
    "pf.Score(pf.LearnedBaseline(Level(jnp.zeros(()))))."
)


class AbstractBaseline(eqx.Module):
    """A control variate b_k for F d log q(z_k). Inexact leaves are learned from the values of F seen."""

    @abc.abstractmethod
    def __call__(
        self, gain: Gain, weights: Float[Array, " k"], batch: Batch | None
    ) -> tuple[Float[Array, "..."], AbstractBaseline | None]:
        """Baselines, one number or one per draw, and the step to subtract from its leaves (None if it has none)."""

    def check(self, num_particles: int) -> None:
        """Refuse a number of particles that the baseline has no meaning for."""


class NoBaseline(AbstractBaseline):
    """Zero."""

    def __call__(
        self, gain: Gain, weights: Float[Array, " k"], batch: Batch | None
    ) -> tuple[Float[Array, "..."], None]:
        """See `AbstractBaseline`."""
        return jnp.zeros((), weights.dtype), None


class LeaveOneOut(AbstractBaseline):
    """F with the draw's own log-weight replaced by the mean of the others."""

    def __call__(
        self, gain: Gain, weights: Float[Array, " k"], batch: Batch | None
    ) -> tuple[Float[Array, "..."], None]:
        """See `AbstractBaseline`."""
        return leave_one_out(gain, weights), None

    def check(self, num_particles: int) -> None:
        """See `AbstractBaseline.check`."""
        if num_particles < 2:
            raise ValueError(
                f"Score(baseline='leave-one-out') has no other draw to lean on with num_particles={num_particles}: "
                "expected at least 2, or Score(baseline='average')."
            )


class Constant(AbstractBaseline):
    """A number of the user's, in nats."""

    value: float = eqx.field(static=True)

    def __call__(
        self, gain: Gain, weights: Float[Array, " k"], batch: Batch | None
    ) -> tuple[Float[Array, "..."], None]:
        """See `AbstractBaseline`."""
        return jnp.asarray(self.value, weights.dtype), None


class UserBaseline(AbstractBaseline):
    """A function of the minibatch indices."""

    function: Callable[[Batch | None], Any] = eqx.field(static=True)

    def __call__(
        self, gain: Gain, weights: Float[Array, " k"], batch: Batch | None
    ) -> tuple[Float[Array, "..."], None]:
        """See `AbstractBaseline`."""
        return _one_number(self.function(batch), "baseline's function", weights), None


class AverageBaseline(AbstractBaseline):
    """Running mean of F over past steps."""

    mean: Float[Array, ""]
    seen: Float[Array, ""]
    """Total weight of what was seen, which corrects the start at zero."""

    def __init__(self, mean: Array | float = 0.0, seen: Array | float = 0.0) -> None:
        self.mean, self.seen = jnp.asarray(mean, jnp.result_type(float)), jnp.asarray(seen, jnp.result_type(float))

    def __call__(
        self, gain: Gain, weights: Float[Array, " k"], batch: Batch | None
    ) -> tuple[Float[Array, "..."], AverageBaseline]:
        """See `AbstractBaseline`."""
        value = jax.lax.stop_gradient(gain(weights)).astype(self.mean.dtype)
        current = self.mean / jnp.where(self.seen > 0, self.seen, 1.0)
        return current.astype(weights.dtype), AverageBaseline(_DECAY * (self.mean - value), _DECAY * (self.seen - 1.0))


class LearnedBaseline(AbstractBaseline):
    """A network of the minibatch indices (or of nothing) that learns F by least squares on standardised values.

    Args:
        network: an equinox module, ``network(batch) -> scalar`` in units of the running standard deviation of F.
        learning_rate: of its plain gradient steps.

    Reference: Mnih and Gregor, Neural variational inference and learning, arXiv:1402.0030, section 2.3.
    """

    network: Any
    """Array leaves of the network; None elsewhere."""
    rest: Any = eqx.field(static=True)
    """What else the network is made of: activation functions and settings."""
    average: AverageBaseline
    square: AverageBaseline
    learning_rate: float = eqx.field(static=True)

    @explain_keywords
    def __init__(
        self,
        network: Callable[[Batch | None], Any] | None = None,
        learning_rate: float = 0.01,
        average: AverageBaseline | None = None,
        square: AverageBaseline | None = None,
    ) -> None:
        if network is None:
            raise ValueError(
                "LearnedBaseline() has no network to learn: expected an equinox module that maps the minibatch's "
                f"indices (None without a minibatch) to one number, {_NETWORK}"
            )
        if not 0 <= as_float(learning_rate) < math.inf:
            raise ValueError(
                f"LearnedBaseline(learning_rate={learning_rate!r}): expected a number that is not negative, e.g. 0.01."
            )
        self.network, self.rest = eqx.partition(network, eqx.is_array)
        self.learning_rate = learning_rate
        self.average = AverageBaseline() if average is None else average
        self.square = AverageBaseline() if square is None else square

    def __call__(
        self, gain: Gain, weights: Float[Array, " k"], batch: Batch | None
    ) -> tuple[Float[Array, "..."], LearnedBaseline]:
        """See `AbstractBaseline`."""
        mean, mean_step = self.average(gain, weights, batch)
        second, square_step = self.square(lambda w: (gain(w) - mean) ** 2, weights, batch)
        scale = jnp.sqrt(jnp.where(second > 0, second, 1.0))
        value = jax.lax.stop_gradient((gain(weights) - mean) / scale)
        learned, static = eqx.partition(self.network, eqx.is_inexact_array)

        def error(learned: Any) -> tuple[Array, Array]:
            network = eqx.combine(learned, static, self.rest)
            guess = _one_number(network(batch), "baseline's network", weights)
            return 0.5 * (guess - jnp.clip(value, -5.0, 5.0)) ** 2, guess

        slope, guess = jax.grad(error, has_aux=True)(learned)
        step = jax.tree.map(lambda g: self.learning_rate * g, slope)
        steps = LearnedBaseline(eqx.combine(step, self.rest), self.learning_rate, mean_step, square_step)
        return mean + scale * jax.lax.stop_gradient(guess), steps

    def check(self, num_particles: int) -> None:
        """See `AbstractBaseline.check`."""
        network = eqx.combine(self.network, self.rest)
        if not _takes_a_batch(network):
            raise ValueError(
                f"LearnedBaseline({network!r}): expected a network that is called with the minibatch's indices "
                f"(None without a minibatch) and returns one number, {_NETWORK}"
            )


def _takes_a_batch(function: Any) -> TypeGuard[Callable[[Any], Any]]:
    """Whether something can be called with one argument."""
    try:
        inspect.signature(function).bind(None)
    except TypeError:
        return False
    except ValueError:  # built-in functions may have no signature
        return callable(function)
    return True


def _one_number(value: Any, source: str, weights: Array) -> Float[Array, ""]:
    number = jnp.asarray(value, weights.dtype)
    if number.shape != ():
        raise ValueError(
            f"The {source} returns an array of shape {number.shape}: expected one number, which is subtracted from "
            "every draw's objective."
        )
    return number


def resolve_baseline(baseline: object) -> AbstractBaseline:
    """A baseline from its name, a number, a function or itself.

    Raises:
        ValueError: if it is none of these.
    """
    if isinstance(baseline, AbstractBaseline):
        return baseline
    named = {"leave-one-out": LeaveOneOut, "none": NoBaseline, "average": AverageBaseline}
    if isinstance(baseline, str) and baseline in named:
        return named[baseline]()
    if isinstance(baseline, int | float) and not isinstance(baseline, bool) and math.isfinite(baseline):
        return Constant(float(baseline))
    if _takes_a_batch(baseline):
        return UserBaseline(baseline)
    raise ValueError(
        f"Score(baseline={baseline!r}): expected one of {sorted(named)}, a number, a function of the minibatch's "
        "indices (one argument), or pf.LearnedBaseline(network)."
    )
