"""Moves of single columns, where a plan is nearly an assignment."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from pushforward.samplers.transport._anchored import anchored
from pushforward.samplers.transport._balance import balanced, column_moves
from pushforward.samplers.transport._geometry import Dense
from pushforward.samplers.transport._marginals import Exact
from pushforward.samplers.transport._problem import Problem


def test_each_column_that_moves_alone_is_filled():
    """Columns that trade e^-12 too much, against the mass of each after its own move, from the definition."""
    rng = np.random.default_rng(0)
    n, epsilon = 6, 0.05
    cost = jnp.asarray(epsilon * (12.0 + rng.uniform(size=(n, n))) * (1.0 - np.eye(n)))
    equal = jnp.full((n,), 1.0 / n)
    problem = Problem(Dense(cost), equal, equal, jnp.asarray(epsilon), Exact(), Exact())
    g = jnp.asarray(epsilon * rng.uniform(-4.0, 4.0, size=n))

    @jax.jit
    def measure(problem, g):
        point = problem.point(jnp.zeros(n), g)
        here = anchored(problem, point)
        moves = column_moves(here, point)
        shifts = problem.epsilon * jnp.diag(moves)
        after = jax.vmap(lambda shift: problem.residual(problem.point(point.f, g + shift)))(shifts)
        error = problem.error(balanced(here, point, jnp.zeros(()))) / problem.error(point)
        return moves, jnp.abs(jnp.diag(after) / problem.residual(point)), error

    moves, left, error = measure(problem, g)
    assert jnp.max(jnp.abs(moves)) > 2.0
    # The other rows are taken to be far from saturation: an error of the order of their share.
    assert jnp.max(left) < 1e-3
    assert error < 0.2
