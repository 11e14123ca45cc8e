"""Scales of what a network sees and predicts, from the means and variances of the ends."""

from __future__ import annotations

from collections.abc import Sequence

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Float

from ._fields import away_from_zero
from ._path import AbstractPath, root
from ._times import inside


class Preconditioner(eqx.Module):
    """Networks learn what is left of the fields beyond those of Gaussian ends, in units of its standard deviation.

    With the mean and variance of each coordinate of each end, the field of independent Gaussians is linear in x and
    known. A network sees x_t standardised; its output is multiplied by the conditional standard deviation of what it
    predicts and added to that linear field. For ``x_1 + sigma z`` and predicted data that is the preconditioning of
    Karras et al.; here it is for every path and prediction. No units have to be chosen, and a network that gives zero
    is already exact for such Gaussians.

    Args:
        means: means of the coordinates of every end, shape (end, *event).
        variances: their variances, positive.

    Reference: Karras et al., Elucidating the design space, arXiv:2206.00364, section 5 and table 1.
    """

    means: Float[Array, "end *event"]
    variances: Float[Array, "end *event"]

    @classmethod
    def from_draws(cls, draws: Sequence[Float[Array, "n *event"]]) -> Preconditioner:
        """Means and variances of draws of the ends; coordinates that never change count as nearly constant."""
        means = jnp.stack([jnp.mean(end, axis=0) for end in draws])
        variances = jnp.stack([jnp.var(end, axis=0) for end in draws])
        return cls(means, jnp.maximum(variances, float(jnp.finfo(means.dtype).eps) * (1.0 + means**2)))

    def standardise(
        self, path: AbstractPath, t: Float[Array, ""], x: Float[Array, " *event"]
    ) -> Float[Array, " *event"]:
        """``(x - E[x_t]) / sd[x_t]``."""
        weights = path.coefficients(t)
        return (x - _mix(weights, self.means)) / jnp.sqrt(self._total(path, t))

    def restore(
        self,
        path: AbstractPath,
        names: Sequence[str],
        t: Float[Array, ""],
        x: Float[Array, " *event"],
        raw: Float[Array, "quantity *event"],
    ) -> Float[Array, "quantity *event"]:
        """The linear fields plus what the network adds."""
        weights, rates, total = path.coefficients(t), path.rates(t), self._total(path, t)
        standing, moving = jnp.zeros_like(x), _mix(rates, self.means)
        mixed = _mix(weights * rates, self.variances)
        linear = {
            "velocity": (moving, mixed + path.spreading(t)),
            "end_velocity": (moving, mixed),
            "score": (standing, -jnp.ones_like(x)),
            "noise": (standing, path.gamma(t)),
            "data": (self.means[-1], weights[-1] * self.variances[-1]),
        }
        away = (x - _mix(weights, self.means)) / total
        fields = jnp.stack([linear[name][0] + linear[name][1] * away for name in names])
        return fields + self.scales(path, names, t) * raw

    def scales(self, path: AbstractPath, names: Sequence[str], t: Float[Array, ""]) -> Float[Array, "quantity *event"]:
        """Standard deviations given x_t, were the ends Gaussian.

        That of a velocity between two ends counts gamma' as far as it shows in the expectation: it is infinite at the
        ends of common paths, the expectation is not.
        """
        t = inside(t)
        weights, rates, total = path.coefficients(t), path.rates(t), self._total(path, t)
        noise, spreading = path.variance(t), path.spreading(t)
        signal = _mix(weights**2, self.variances)
        # Variances given x_t, without differences of what is almost equal (Lagrange's identity).
        end_velocity = noise * _mix(rates**2, self.variances) / total
        others = noise
        if path.num_ends == 2:
            turn = weights[0] * rates[1] - weights[1] * rates[0]
            end_velocity = end_velocity + turn**2 * self.variances[0] * self.variances[1] / total
            others = noise + weights[0] ** 2 * self.variances[0]
            velocity = end_velocity + spreading**2 / total
        else:
            sway = (rates[0] * noise - weights[0] * spreading) / away_from_zero(path.gamma(t))
            velocity = sway**2 * self.variances[0] / total
        squares = {
            "velocity": velocity,
            "end_velocity": end_velocity,
            "score": 1.0 / total,
            "noise": signal / total,
            "data": self.variances[-1] * others / total,
        }
        return jnp.stack([root(squares[name]) for name in names])

    def _total(self, path: AbstractPath, t: Array) -> Array:
        """Variances of x_t."""
        total = _mix(path.coefficients(t) ** 2, self.variances) + path.variance(t)
        return jnp.maximum(total, jnp.finfo(total.dtype).tiny)


def _mix(weights: Float[Array, " end"], values: Float[Array, "end *event"]) -> Float[Array, " *event"]:
    return jnp.tensordot(weights, values, 1)
