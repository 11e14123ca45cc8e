"""From weighted particles to equally weighted ones by moving them as little as possible.

Reference: Reich, A nonparametric ensemble transform method for Bayesian inference, arXiv:1210.0375 (the transform);
Corenflos, Thornton, Deligiannidis and Doucet, Differentiable particle filtering via entropy-regularized optimal
transport, arXiv:2102.07850 (with an entropic plan).
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from ...models._types import Key
from .._ensemble import particle_keys
from ..pairs._distance import squared_distances
from ._anderson import anderson
from ._arguments import make_points, make_weights
from ._geometry import Dense
from ._marginals import Exact
from ._problem import Problem

_SHARE = 0.02
"""Regularisation as a share of the mean cost: with less, plans are hardly sharper and sweeps many."""
_TOLERANCE = 1e-3
"""Marginal error at which sweeps end; what is left of it is rounded away."""
_SWEEPS = 200


def ensemble_transform(particles: Any, weights: Any) -> Float[Array, "n d"]:
    """Equally weighted particles ``n sum_i P_ij x_i``, with P an optimal plan from the weights to equal ones.

    Deterministic, and continuous in particles and weights, unlike resampling. The plan is entropic, for squared
    distances of standardised coordinates, and its marginals are exact to rounding. Not differentiable in reverse.

    Args:
        particles: shape (n, d).
        weights: non-negative, sum one, shape (n,).

    Returns:
        Moved particles, shape (n, d).

    Raises:
        ValueError: for particles that are not finite, or weights that do not fit.

    Bias: the weighted mean is kept exactly; moments of higher order are not. Each new particle is an average, so that
    variances shrink: by what the regularisation blurs, and where few particles carry the weight by more. To draw
    without that bias, `pf.SMC(resampling="transport")` picks one particle from each average instead.

    Cost: O(n^2 d) and O(n^2) for each of up to 200 sweeps; memory O(n^2).

    Example:
        >>> import jax.numpy as jnp
        >>> float(ensemble_transform(jnp.array([[0.0], [1.0]]), jnp.array([0.2, 0.8])).mean().round(3))
        0.8
    """
    particles = make_points("particles", particles)
    weights = make_weights("weights", weights, particles.shape[0], particles.dtype, any_mass=False)
    count = particles.shape[0]
    plan = equalising_plan(particles, weights, jnp.ones((count,), bool))
    # Around the mean, so that rounding is relative to the spread.
    mean = weights @ particles
    return mean[None, :] + count * (plan.T @ (particles - mean[None, :]))


def transported_parents(
    key: Key, particles: Float[Array, "n d"], weights: Float[Array, " n"], alive: Bool[Array, " n"]
) -> Int[Array, " n"]:
    """The parent of every slot, drawn from that slot's column of the plan; slots that are not alive are their own.

    Particle i has ``m w_i`` children in expectation, m the number of slots that are alive, because the plan's marginals
    are exact however far the sweeps have come; and they are neighbours of the slot's particle, which is why averages
    vary less than with parents that are drawn without looking at where particles are.
    """
    plan = equalising_plan(particles, weights, alive)
    draw = jax.vmap(lambda key, column: jax.random.categorical(key, jnp.log(column)))
    own = jnp.arange(weights.shape[0])
    return jnp.where(alive, draw(particle_keys(key, weights.shape[0]), plan.T), own)


def equalising_plan(
    particles: Float[Array, "n d"], weights: Float[Array, " n"], alive: Bool[Array, " n"]
) -> Float[Array, "n n"]:
    """A plan from the weights (rows) to equal weights of who is alive (columns), marginals exact to rounding."""
    weights = jnp.where(alive, weights, 0.0)
    weights = weights / jnp.sum(weights)
    equal = jnp.where(alive, 1.0, 0.0).astype(weights.dtype)
    equal = equal / jnp.sum(equal)
    points = jnp.where(alive[:, None], particles, 0.0)
    points = points - (weights @ points)[None, :]
    variance = weights @ points**2
    points = points / jnp.sqrt(jnp.where(variance > 0, variance, 1.0))[None, :]
    costs = squared_distances(points, points)
    mean = weights @ costs @ equal
    epsilon = _SHARE * jnp.where(mean > 0, mean, 1.0)
    problem = Problem(Dense(costs), weights, equal, epsilon, Exact(), Exact())
    start = problem.point(jnp.zeros_like(weights), jnp.zeros_like(weights))
    point = anderson(problem, start, jnp.asarray(_TOLERANCE, weights.dtype), _SWEEPS).point
    exponent = (point.f[:, None] + point.g[None, :] - costs) / epsilon
    used = (weights > 0)[:, None] & alive[None, :]
    plan = jnp.where(used, weights[:, None] * equal[None, :] * jnp.exp(jnp.where(used, exponent, 0.0)), 0.0)
    return _rounded(plan, weights, equal)


def _rounded(plan: Float[Array, "n m"], a: Float[Array, " n"], b: Float[Array, " m"]) -> Float[Array, "n m"]:
    """The plan with marginals a and b: what is too much shrunk, what is missing spread as a product.

    Reference: Altschuler, Weed and Rigollet, arXiv:1705.09634, algorithm 2.
    """
    plan = plan * _at_most_one(a, jnp.sum(plan, axis=1))[:, None]
    plan = plan * _at_most_one(b, jnp.sum(plan, axis=0))[None, :]
    rows = jnp.maximum(a - jnp.sum(plan, axis=1), 0.0)
    columns = jnp.maximum(b - jnp.sum(plan, axis=0), 0.0)
    missing = jnp.sum(rows)
    return plan + rows[:, None] * columns[None, :] / jnp.where(missing > 0, missing, 1.0)


def _at_most_one(wanted: Array, found: Array) -> Array:
    return jnp.where(found > wanted, wanted / jnp.where(found > 0, found, 1.0), 1.0)
