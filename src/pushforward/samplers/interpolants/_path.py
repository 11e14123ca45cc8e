"""What an interpolant is made of: coefficients of its ends, and the variance of its noise, as functions of time.

Time runs from 0, the base, to 1, the target. Diffusion models count the other way round: their time is one minus ours.
"""

from __future__ import annotations

import abc
from collections.abc import Sequence
from typing import Any, ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PyTree


class AbstractPath(eqx.Module):
    """``x_t = sum_k c_k(t) x_k + gamma(t) z`` with ends x_k drawn from data (or densities) and z standard normal.

    Two ends, the base first, with gamma zero at 0 and 1: the two-sided interpolant. One end, the target: one-sided,
    where the base is the normal law with variance ``gamma(0)^2`` around zero; diffusions are of this kind. All that is
    asked for are the coefficients and ``gamma^2``: derivatives are taken of them, never of gamma, whose own is infinite
    at the ends of the usual choices.

    Attributes:
        num_ends: how many of the ends are not the noise.

    Reference: Albergo, Boffi, Vanden-Eijnden, Stochastic interpolants, arXiv:2303.08797, definition 2.1 (two ends) and
    section 3.2 (one).
    """

    num_ends: ClassVar[int]

    @abc.abstractmethod
    def coefficients(self, t: Float[Array, ""]) -> Float[Array, " end"]:
        """Coefficients of the ends, base first."""

    @abc.abstractmethod
    def variance(self, t: Float[Array, ""]) -> Float[Array, ""]:
        """``gamma(t)^2``."""

    def rates(self, t: Float[Array, ""]) -> Float[Array, " end"]:
        """Time derivatives of the coefficients."""
        return jax.jvp(self.coefficients, (t,), (jnp.ones_like(t),))[1]

    def spreading(self, t: Float[Array, ""]) -> Float[Array, ""]:
        """``gamma gamma'``, half the derivative of the variance: finite where gamma' is not."""
        return 0.5 * jax.jvp(self.variance, (t,), (jnp.ones_like(t),))[1]

    def gamma(self, t: Float[Array, ""]) -> Float[Array, ""]:
        """Standard deviation of the noise."""
        return root(self.variance(t))

    def interpolate(
        self, t: Float[Array, ""], ends: Sequence[Float[Array, " *event"]], noise: Float[Array, " *event"]
    ) -> Float[Array, " *event"]:
        """The point x_t of one draw of the ends and the noise."""
        return combine(self.coefficients(t), ends) + self.gamma(t) * noise


def check_path(path: Any) -> AbstractPath:
    """A path."""
    if not isinstance(path, AbstractPath):
        raise ValueError(f"path is {type(path).__name__}: expected a path such as Linear() or OneSidedLinear().")
    return path


def is_known(tree: PyTree) -> bool:
    """Whether numbers can be read: in compiled code, whether they are constants of it and not its arguments."""
    return not any(isinstance(leaf, jax.core.Tracer) for leaf in jax.tree.leaves(tree))


def combine(weights: Float[Array, " end"], ends: Sequence[Float[Array, " *event"]]) -> Float[Array, " *event"]:
    """``sum_k weights_k ends_k``."""
    return sum((weights[k] * end for k, end in enumerate(ends)), jnp.zeros((), weights.dtype))


def root(square: Float[Array, ""]) -> Float[Array, ""]:
    """Square root whose derivative at zero is taken as zero; rounding below zero counts as zero."""
    positive = square > 0
    return jnp.where(positive, jnp.sqrt(jnp.where(positive, square, 1.0)), 0.0)
