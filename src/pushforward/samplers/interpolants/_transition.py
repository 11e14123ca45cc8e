"""One step with noise, as a pair of kernels: how likely it is forward, and how likely the way back."""

from __future__ import annotations

from typing import Any, NamedTuple, Protocol

import jax.numpy as jnp
from jaxtyping import Array, Float, PyTree

from ._runge_kutta import over_points
from ._sde import diffusion_at


class Driving(Protocol):
    """What moves particles: a velocity and a score. Every `AbstractFields` is one."""

    def velocity(self, t: Array, x: Array, condition: PyTree = None) -> Array:
        """``b(t, x)``."""
        ...

    def score(self, t: Array, x: Array, condition: PyTree = None) -> Array:
        """``s(t, x)``."""
        ...


class Located(NamedTuple):
    """Points with the fields at them: what one step hands to the next, so that each is evaluated once."""

    points: Float[Array, "n *event"]
    velocity: Float[Array, "n *event"]
    score: Float[Array, "n *event"]


def locate(fields: Driving, t: Float[Array, ""], points: Float[Array, "n *event"], condition: PyTree) -> Located:
    """Evaluate the fields."""
    velocity = over_points(fields.velocity, t, points, condition)
    return Located(points, velocity, over_points(fields.score, t, points, condition))


def transition(
    fields: Driving,
    epsilon: Any,
    here: Located,
    t: Float[Array, ""],
    end: Float[Array, ""],
    noise: Float[Array, "n *event"],
    condition: PyTree = None,
) -> tuple[Located, Float[Array, " n"]]:
    """One step, and the logarithm of backward over forward density.

    With ``h = end - t``, of either sign, and e the value of epsilon in the middle,

    - forward ``F(x' | x) = N(x + h b + |h| e s, 2 e |h|)``,
    - backward ``B(x | x') = N(x' - h b' + |h| e s', 2 e |h|)``.

    Whatever the fields are, ``prod B / F`` makes exact weights; the better they are and the smaller h, the closer the
    product is to the ratio of the densities of x_t at its two ends. To leading order its logarithm has the variance
    ``2 h^2 |sym grad b|_F^2`` per step, whatever epsilon is: the spread of a quadratic form of normal noise. Steps
    should be short where the velocity stretches space.

    Args:
        fields: velocity and score.
        epsilon: positive number or function of time.
        here: points at time t.
        t: time of the step's start.
        end: time of its end.
        noise: standard normal.
        condition: one leading entry per point.

    Returns:
        The points at the end of the step, and log B - log F.

    Reference: He et al., FEAT, arXiv:2504.11516, eq. 9-12; Vargas et al., Controlled Monte Carlo diffusions,
    arXiv:2307.01050, proposition 3.3.
    """
    h = end - t
    length = jnp.abs(h)
    level = diffusion_at(epsilon, t + 0.5 * h)
    spread = jnp.sqrt(2.0 * level * length)
    points = here.points + h * here.velocity + length * level * here.score + spread * noise
    there = locate(fields, end, points, condition)
    # The residual of the way back is spread * (gap - noise): no difference of large numbers is formed.
    gap = (h * (there.velocity - here.velocity) - length * level * (here.score + there.score)) / spread
    terms = gap * (noise - 0.5 * gap)
    return there, jnp.sum(terms.reshape(terms.shape[0], -1), axis=1)
