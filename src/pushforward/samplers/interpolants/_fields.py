"""The vector fields of an interpolant, and how each follows from the others."""

from __future__ import annotations

import abc

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Float, PyTree

from ._path import AbstractPath, combine


class AbstractFields(eqx.Module):
    """Velocity and score of the law of x_t; everything else follows from these two.

    With ``x_t = sum_k c_k x_k + gamma z``, and expectations given x_t = x:

    - velocity ``b = E[sum_k c_k' x_k + gamma' z]``, the drift of the ordinary differential equation;
    - score ``s``, the gradient of the log-density of x_t;
    - end velocity ``v = E[sum_k c_k' x_k]``, so that ``b = v - gamma gamma' s``;
    - noise ``E[z] = -gamma s``, what a denoiser predicts;
    - ends ``E[x_k]``, the last of which is what diffusion models call the prediction of the data.

    Fields are functions of one time and one point; samplers vectorise them. Where one of them is obtained by a division
    by gamma or by a coefficient that vanishes at an end, the division is by the value of a nearby time inside.

    Attributes:
        path: coefficients of the ends and the noise.

    Reference: Albergo, Boffi, Vanden-Eijnden, Stochastic interpolants, arXiv:2303.08797, theorem 2.6 and eq. 2.13-2.16.
    """

    path: eqx.AbstractVar[AbstractPath]

    @abc.abstractmethod
    def velocity(
        self, t: Float[Array, ""], x: Float[Array, " *event"], condition: PyTree = None
    ) -> Float[Array, " *event"]:
        """``b(t, x)``."""

    @abc.abstractmethod
    def score(
        self, t: Float[Array, ""], x: Float[Array, " *event"], condition: PyTree = None
    ) -> Float[Array, " *event"]:
        """``s(t, x)``."""

    def drift(
        self,
        t: Float[Array, ""],
        x: Float[Array, " *event"],
        condition: PyTree = None,
        *,
        level: Float[Array, ""],
    ) -> Float[Array, " *event"]:
        """``b + level s``, the drift of the stochastic equation whose noise has the variance ``2 |level|`` a time.

        Fields override it where velocity and score share work that a compiler does not merge.
        """
        return self.velocity(t, x, condition) + level * self.score(t, x, condition)

    def end_velocity(
        self, t: Float[Array, ""], x: Float[Array, " *event"], condition: PyTree = None
    ) -> Float[Array, " *event"]:
        """``v = b + gamma gamma' s``."""
        return self.velocity(t, x, condition) + self.path.spreading(t) * self.score(t, x, condition)

    def noise(
        self, t: Float[Array, ""], x: Float[Array, " *event"], condition: PyTree = None
    ) -> Float[Array, " *event"]:
        """``E[z | x_t = x]``."""
        return -self.path.gamma(t) * self.score(t, x, condition)

    def ends(
        self, t: Float[Array, ""], x: Float[Array, " *event"], condition: PyTree = None
    ) -> tuple[Float[Array, " *event"], ...]:
        """``E[x_k | x_t = x]`` for every end, base first.

        Each comes from the position and the end velocity. An end that these say nothing about, such as the data at
        time zero of a one-sided path, is known to the fields alone: it comes out as zero, or the division is by a small
        number instead of zero.
        """
        clean = x + self.path.variance(t) * self.score(t, x, condition)
        weights = self.path.coefficients(t)
        if self.path.num_ends == 1:
            return (clean / away_from_zero(weights[0]),)
        both = jnp.stack([weights, self.path.rates(t)])
        inverse = jnp.linalg.pinv(both, rtol=float(jnp.finfo(both.dtype).eps) ** 0.5)
        known = (clean, self.end_velocity(t, x, condition))
        return combine(inverse[0], known), combine(inverse[1], known)


def away_from_zero(divisor: Float[Array, ""]) -> Float[Array, ""]:
    """A divisor that vanishes at an end of time, kept at a distance at which the quotient is still finite."""
    least = jnp.finfo(divisor.dtype).eps ** 0.5
    return jnp.where(jnp.abs(divisor) < least, jnp.where(divisor < 0, -least, least), divisor)
