"""Soft marginals: the closed form of single points, Newton steps, and masses that are far from one."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from oracles.transport_problems import clouds
from tiers import fast

import pushforward as pf
from pushforward.samplers.transport._geometry import Dense
from pushforward.samplers.transport._marginals import Exact, Soft
from pushforward.samplers.transport._newton import diagonals
from pushforward.samplers.transport._problem import Problem
from pushforward.samplers.transport._sinkhorn import sweep
from pushforward.samplers.transport._systems import Direct


@pytest.mark.parametrize(("a", "b"), [(1.0, 1.0), (2e6, 0.5), (3e-7, 4e-5)])
def test_single_points(a, b):
    """``(epsilon + rho) log(a b) = cost + (epsilon + 2 rho) log p`` is where the derivative in the mass p is zero."""
    cost, epsilon, strength = 0.7, 0.3, 2.0
    mass = np.exp(((epsilon + strength) * np.log(a * b) - cost) / (epsilon + 2 * strength))
    found = pf.transport.solve(
        cost=np.full((1, 1), cost),
        a=np.full(1, a),
        b=np.full(1, b),
        epsilon=epsilon,
        marginal_strength=strength,
        method="sinkhorn",
    )
    assert found.converged
    np.testing.assert_allclose(found.plan, [[mass]], rtol=1e-11)
    value = cost * mass + epsilon * _kl(mass, a * b) + strength * (_kl(mass, a) + _kl(mass, b))
    np.testing.assert_allclose([found.cost, found.primal], value, rtol=1e-12)


def _kl(p: float, q: float) -> float:
    return p * np.log(p / q) - p + q


@pytest.mark.parametrize("strengths", fast([(1.0, 0.3), (1.0, None), (None, 1.0)], (1.0, 0.3)))
def test_newton_step(strengths):
    """The step solves the linear system of the dual's second derivatives, here computed from the dual."""
    rng = np.random.default_rng(0)
    a, b = (jnp.asarray(mass * rng.dirichlet(np.ones(12))) for mass in (1.0, 3.0))
    marginals = (Exact() if each is None else Soft(jnp.asarray(each)) for each in strengths)
    problem = Problem(Dense(jnp.asarray(rng.uniform(size=(12, 12)))), a, b, jnp.asarray(0.3), *marginals)

    @jax.jit
    def steps():
        start = problem.point(jnp.zeros(12), jnp.zeros(12))
        point = jax.lax.while_loop(lambda p: problem.error(p) > 1e-3, lambda p: sweep(problem, p), start)
        residual = problem.residual(point)
        nothing = jnp.zeros(())
        step = Direct().solve(problem, point, diagonals(problem, point), residual, nothing, nothing)
        slope = jax.jacobian(lambda g: problem.residual(problem.point(point.f, g)))(point.g)
        return problem.error(point), problem.epsilon * step, jnp.linalg.solve(-slope, residual)

    error, step, exact = steps()
    assert 0 < error <= 1e-3
    np.testing.assert_allclose(step, exact, rtol=0.02)


@pytest.mark.slow
@pytest.mark.parametrize("method", ["auto", "newton-cg", "newton-sparse"])
@pytest.mark.parametrize("strength", [1.0, (1.0, None), (None, 1.0)])
def test_newton_steps_are_few_at_any_mass(strength, method, figure):
    """Quadratic convergence: 70 to 100 steps where a step is held back by what only exact marginals need."""
    x, y, a, b = clouds(4, dim=2, n=60)
    for mass in (1e-9, 1.0, 1e6):
        found = pf.transport.solve(
            x, y, a=mass * a, b=2 * mass * b, epsilon=0.05, marginal_strength=strength, method=method
        )
        figure(f"strength {strength}, mass {mass}: Newton steps", int(found.num_newton_steps), "<= 20")
        assert found.converged
        assert found.num_newton_steps <= 20
        # The tolerance is a share of the mass, and is met.
        pair = strength if isinstance(strength, tuple) else (strength, strength)
        plan, weights = np.asarray(found.plan), (mass * a, 2 * mass * b)
        error = 0.0
        for axis, (rho, weight, potential) in enumerate(zip(pair, weights, found.potentials, strict=True)):
            asked = weight if rho is None else weight * np.exp(-np.asarray(potential) / rho)
            error += np.abs(plan.sum(1 - axis) - asked).sum()
        assert found.tolerance <= 2e-12
        assert error <= 1.01 * float(found.tolerance) * max(plan.sum(), mass)


def test_gap_covers_rounding_at_a_large_mass():
    """The value contains epsilon times the product of the masses, whose rounding is more than that of the plan's."""
    x, y, a, b = (np.asarray(part, np.float32) for part in clouds(4, dim=2, n=60))
    a, b = np.float32(1e4) * a, np.float32(1e5) * b
    found = pf.transport.solve(x, y, a=a, b=b, epsilon=0.05, marginal_strength=1.0, method="sinkhorn")
    assert found.converged
    # The dual in float64, at the same potentials: an epsilon of float32, as that is what was solved.
    f, g, a, b = (np.asarray(part, np.float64) for part in (*found.potentials, a, b))
    epsilon = float(found.problem.epsilon)
    logits = (f[:, None] + g[None, :] - np.asarray(found.problem.geometry.matrix, np.float64)) / epsilon
    value = a @ -np.expm1(-f) + b @ -np.expm1(-g) - epsilon * (a @ np.expm1(logits) @ b)
    assert abs(float(found.cost) - value) <= float(found.gap)


def test_what_the_dtype_does_not_resolve_is_not_converged():
    cost = np.random.default_rng(0).uniform(size=(30, 30)).astype(np.float32)
    found = pf.transport.solve(cost=cost, epsilon=1e-8, method="sinkhorn", max_sweeps=200)
    assert found.tolerance <= 0.1 + 1e-6
    assert not found.converged
    assert found.status is pf.transport.Status.PRECISION


@pytest.mark.slow
def test_share_of_a_large_mass_is_held_to_a_share_of_it():
    x, y, a, b = clouds(4, dim=2, n=30)
    found = pf.transport.partial(x, y, a=1e6 * a, b=1e6 * b, mass=4e5, epsilon=0.1)
    small = pf.transport.partial(x, y, a=a, b=b, mass=0.4, epsilon=0.1)
    assert found.converged
    assert found.extended.tolerance <= 2e-12
    np.testing.assert_allclose(jnp.sum(found.plan), 4e5, rtol=1e-11)
    np.testing.assert_allclose(jnp.sum(small.plan), 0.4, rtol=1e-11)
