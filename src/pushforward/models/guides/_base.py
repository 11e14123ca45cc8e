"""What every variational family offers."""

from __future__ import annotations

import abc
import dataclasses
from typing import Any, ClassVar, TypeVar

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from .._target import Target
from .._types import Batch, Key, Position

G = TypeVar("G", bound="AbstractGuide")
LOG_2PI = 1.8378770664093453


class AbstractGuide(eqx.Module):
    """A distribution over positions whose inexact array leaves are its parameters.

    A guide is made unbound, by its settings alone (``MeanField()``), and bound to a target by `bind` or directly
    (``MeanField(target)``). Only bound guides can be drawn from.
    """

    has_density: ClassVar[bool] = True
    """Whether ``log_prob`` is a density; False for point masses, whose log q is reported as zero."""
    jacobian: ClassVar[bool] = True
    """Whether the target's change of variables belongs in the objective; False for the mode in the user's space."""
    learning_rate: ClassVar[float] = 0.05
    """Adam's first rate in whitened coordinates, where the user gives no optimiser."""
    patience: ClassVar[int] = 3
    """Hundreds of steps without improvement after which the rate is lowered, and in the end the fit stops."""

    @property
    def point(self) -> bool:
        """Whether the guide is a point mass, for good or while it is optimised."""
        return not self.has_density

    @abc.abstractmethod
    def bind(self, target: Target) -> AbstractGuide:
        """This family over the positions of ``target``, at its default start."""

    @abc.abstractmethod
    def sample_and_log_prob(self, key: Key, batch: Batch | None = None) -> tuple[Position, Float[Array, ""]]:
        """Draw one position and its log-density (in nats, on unconstrained space).

        Args:
            key: a key, or what `noise` made of it.
            batch: minibatch indices.
        """

    def noise(self, key: Key) -> Array:
        """What a draw consumes: the key itself, or for families that push noise forward that noise.

        Lets many draws be prepared at once (one hash for a hundred steps) or be replaced by quasi-random points. Given
        noise, returns it. May look at static fields only: it is called before the parameters are put in.
        """
        return key

    @abc.abstractmethod
    def log_prob(self, position: Position, batch: Batch | None = None) -> Float[Array, ""]:
        """Normalised log-density of a position, in nats."""

    def entropy(self) -> Float[Array, ""] | None:
        """Entropy in nats, in closed form and differentiable in the parameters; None where the family has none."""
        return None

    def sample_and_force(self, key: Key, batch: Batch | None = None) -> tuple[Position, Float[Array, ""], Position]:
        """Draw one position with its log-density and force, the gradient of log q with respect to the position.

        The force is a constant to differentiation; the position is differentiable in the parameters. By default it
        costs one gradient of `log_prob`; families that can carry it along with the draw do.
        """
        position, log_q = self.sample_and_log_prob(key, batch)
        if not self.has_density:
            return position, log_q, jax.tree.map(jnp.zeros_like, position)
        stopped = jax.lax.stop_gradient(self)
        log_q, force = jax.value_and_grad(lambda z: stopped.log_prob(z, batch))(jax.lax.stop_gradient(position))
        return position, log_q, force

    def forward_path(
        self, position: Position, force: Position, batch: Batch | None = None
    ) -> tuple[Any, Float[Array, ""], Any]:
        """The path gradient of KL(p || q) at a draw of p.

        Args:
            position: a draw of p.
            force: the gradient of log p there.
            batch: minibatch indices.

        Returns:
            A point that is differentiable in the parameters, log q of the position (a constant), and a constant pull
            shaped like the point: the derivative of pull . point is that of the divergence, in expectation.

        Raises:
            ValueError: if noise cannot be recovered from positions.
        """
        raise ValueError(no_noise(self))

    def fresh(self, key: Key) -> AbstractGuide:
        """The guide with newly drawn starting parameters, where its start is random."""
        return self

    def finish(self, target: Target) -> AbstractGuide:
        """What the guide becomes after optimisation (the curvature of a Laplace approximation, say)."""
        return self

    def trainable(self) -> Any:
        """A pytree of booleans: which leaves an optimiser moves."""
        return jax.tree.map(eqx.is_inexact_array, self)


class AbstractLocationScale(AbstractGuide):
    """A family closed under affine maps: it can be optimised in whitened coordinates and mapped back exactly."""

    layout: eqx.AbstractVar[Any]
    """Shape and dtype of a flat position."""

    @property
    @abc.abstractmethod
    def noise_dim(self) -> int:
        """Number of standard normal numbers that one draw takes."""

    def noise(self, key: Key) -> Array:
        """See `AbstractGuide.noise`: standard normal numbers."""
        if not jnp.issubdtype(key.dtype, jax.dtypes.prng_key):
            return key
        return jax.random.normal(key, (self.noise_dim,), self.layout.dtype)

    @abc.abstractmethod
    def from_noise(self, eps: Float[Array, " noise"]) -> tuple[Position, Float[Array, ""]]:
        """The position that standard normal noise is pushed to, and its log-density. Lets draws be quasi-random."""

    def to_noise(self, position: Position) -> Float[Array, " noise"]:
        """The noise that `from_noise` pushes to a position.

        Raises:
            ValueError: if there is more noise than position.
        """
        raise ValueError(no_noise(self))

    def forward_path(
        self, position: Position, force: Position, batch: Batch | None = None
    ) -> tuple[Any, Float[Array, ""], Any]:
        """See `AbstractGuide.forward_path`. By default two passes: back to the noise with a gradient, and forth again.

        At the noise of a draw of p the integrand is that of the reverse divergence (Vaitl et al., arXiv:2207.08219).
        """
        stopped = jax.lax.stop_gradient(self)
        log_q, own = jax.value_and_grad(lambda z: stopped.log_prob(z, batch))(position)
        point, _ = self.from_noise(stopped.to_noise(position))
        return point, log_q, jax.tree.map(lambda a, b: a - b, own, force)

    @abc.abstractmethod
    def affine(self, shift: Float[Array, " dim"], scale: Float[Array, "..."]) -> AbstractLocationScale:
        """The law of ``shift + scale * z`` for z from this guide.

        Args:
            shift: vector of length dim.
            scale: positive vector of length dim, or a lower-triangular matrix where the family admits one.
        """

    @abc.abstractmethod
    def standard(self, target: Target) -> AbstractLocationScale:
        """The member nearest to a standard normal, over the positions of ``target``."""

    @abc.abstractmethod
    def jittered(self, key: Key) -> AbstractLocationScale:
        """A nearby member (for restarts): half a unit off in location, up to a factor 1.5 in scale."""

    def fresh(self, key: Key) -> AbstractLocationScale:
        """See `AbstractGuide.fresh`."""
        return self

    dense: ClassVar[bool] = False
    """Whether `affine` takes a triangular matrix."""


def bound(guide: Any, field: Any) -> Any:
    """The field of a bound guide, or an error that says how to bind it."""
    if field is None:
        name = type(guide).__name__
        raise ValueError(
            f"{name}() is not bound to a target: it has no dimensions yet. Expected {name}(target) or "
            "guide.bind(target) before drawing; pf.fit binds an unbound guide by itself."
        )
    return field


def no_noise(guide: AbstractGuide) -> str:
    """Why `forward_path` is not to be had."""
    name = type(guide).__name__
    return (
        f"The path gradient of KL(posterior || q) needs the noise behind a given position, which {name} cannot "
        "recover: expected a flow, pf.MeanField or pf.FullRank as guide, or pf.Reparam() as gradient (maximum "
        "likelihood)."
    )


def with_fields(guide: G, **fields: Any) -> G:
    """A copy of a guide with some array fields replaced."""
    new = object.__new__(type(guide))
    for field in dataclasses.fields(guide):
        object.__setattr__(new, field.name, fields.get(field.name, getattr(guide, field.name)))
    return new


def check_scale(name: str, scale: float) -> float:
    """A positive starting scale, or an error."""
    if not scale > 0:
        raise ValueError(f"{name}(init_scale={scale}): expected a positive standard deviation, e.g. 0.1.")
    return float(scale)


def jitter_loc(key: Key, like: Array) -> Array:
    """Half a unit of location, for restarts."""
    return 0.5 * jax.random.normal(key, like.shape, like.dtype)


def jitter_log_scale(key: Key, like: Array) -> Array:
    """Up to a factor 1.5 of scale, for restarts."""
    return jax.random.uniform(key, like.shape, like.dtype, -0.4, 0.4)
