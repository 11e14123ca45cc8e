"""Entropic plans: marginals, certificates, any start, every method, soft marginals, and what a result says."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from oracles.transport_problems import clouds, images, marginal_error, random_costs
from tiers import fast

import pushforward as pf
from pushforward.samplers.transport._arguments import make_geometry

METHODS = ("auto", "sinkhorn", "anderson", "newton-cg", "newton-sparse")


@pytest.mark.parametrize("start", fast(["zero", "wild", "no sweeps"], "wild"))
@pytest.mark.parametrize("seed", fast(range(5), 0))
def test_few_steps_from_any_start(seed, start, figure):
    problem = random_costs(seed)
    initial = None if start == "zero" else 1e3 * jax.random.normal(jax.random.key(1), (500,))
    steps = {}
    for eta in (10.0, 100.0, 1e3, 1200.0, 1e4):
        found = pf.transport.solve(
            cost=problem.cost, epsilon=1 / eta, initial=initial, max_sweeps=0 if start == "no sweeps" else 20
        )
        assert found.num_sweeps <= 20
        assert marginal_error(problem.cost, problem.a, problem.b, found.potentials, 1 / eta) <= 1e-12
        steps[eta] = int(found.num_sweeps), int(found.num_newton_steps)
    figure(f"uniform costs, seed {seed}, start {start}: (sweeps, Newton steps) to 1e-12", steps, "(20, 15)")
    assert max(newton for _, newton in steps.values()) <= 15


@pytest.mark.parametrize("side", fast([12, 22, 28], 12))
@pytest.mark.parametrize(("norm", "sweeps", "steps"), [("L2", 20, 15), ("L1", 100, 80)])
def test_images(norm, sweeps, steps, side):
    problem = images(norm, side)
    found = pf.transport.solve(
        cost=problem.cost, a=problem.a, b=problem.b, epsilon=1 / 1200, max_sweeps=sweeps, max_newton_steps=steps
    )
    assert found.status is pf.transport.Status.CONVERGED
    assert marginal_error(problem.cost, problem.a, problem.b, found.potentials, 1 / 1200) <= 1e-12


@pytest.mark.parametrize("method", fast(METHODS, "sinkhorn", "newton-sparse"))
def test_methods_agree(method):
    problem = images("L2", side=8)
    given = {"a": problem.a, "b": problem.b, "epsilon": 0.02}
    truth = pf.transport.solve(cost=problem.cost, **given)
    found = pf.transport.solve(cost=problem.cost, method=method, **given)
    assert found.converged
    np.testing.assert_allclose(found.plan, truth.plan, atol=1e-13)
    np.testing.assert_allclose(found.cost, truth.cost, rtol=1e-12)
    assert truth.num_sweeps + truth.num_newton_steps < found.num_sweeps or method not in ("sinkhorn", "anderson")


def test_value_is_what_it_says():
    """Dual and primal enclose the objective of the plan, computed from its definition."""
    problem = images("L2", side=8)
    epsilon = 0.02
    found = pf.transport.solve(cost=problem.cost, a=problem.a, b=problem.b, epsilon=epsilon)
    plan, product = np.asarray(found.plan), np.outer(problem.a, problem.b)
    objective = np.sum(problem.cost * plan) + epsilon * np.sum(plan * np.log(plan / product) - plan + product)
    np.testing.assert_allclose([found.cost, found.dual, found.primal], objective, rtol=1e-12)
    # Of the rounded plan, and of first order in what rounding moves: the marginal error, at a cost of at most one.
    assert abs(found.linear_cost - np.sum(problem.cost * plan)) <= float(found.marginal_error) + 1e-14
    tight = pf.transport.solve(cost=problem.cost, a=problem.a, b=problem.b, epsilon=epsilon, tolerance=1e-14)
    np.testing.assert_allclose(tight.linear_cost, np.sum(problem.cost * np.asarray(tight.plan)), rtol=1e-12)


@pytest.mark.parametrize("sweeps", fast([1, 3, 10], 3))
def test_certificate_of_an_unfinished_plan(sweeps):
    """The bounds hold at any potentials, and the gap is their distance."""
    problem = images("L1", side=8)
    given = {"a": problem.a, "b": problem.b, "epsilon": 0.02}
    truth = pf.transport.solve(cost=problem.cost, **given)
    found = pf.transport.solve(cost=problem.cost, method="sinkhorn", max_sweeps=sweeps, **given)
    assert found.status is pf.transport.Status.NOT_CONVERGED
    assert found.dual < truth.cost < found.primal
    assert found.primal - found.dual <= found.gap < 1.001 * (found.primal - found.dual)
    error = marginal_error(problem.cost, problem.a, problem.b, found.potentials, 0.02)
    np.testing.assert_allclose(found.marginal_error, error, rtol=1e-9)


@pytest.mark.parametrize("strengths", fast([(0.3, None), (None, 0.3)], (0.3, None)))
def test_certificate_with_one_soft_marginal(strengths):
    """The rounded plan meets the exact marginal, so that its value is an upper bound: also for masses that differ."""
    x, y, a, b = clouds(2, dim=2, n=20)
    a, b = (1.5 * a, b) if strengths[1] is None else (a, 1.5 * b)
    given = {"a": a, "b": b, "epsilon": 0.3, "marginal_strength": strengths, "method": "sinkhorn"}
    truth = pf.transport.solve(x, y, **given)
    found = pf.transport.solve(x, y, max_sweeps=2, **given)
    assert truth.converged
    assert found.dual < truth.cost < found.primal
    assert found.primal - found.dual <= found.gap < 1.001 * (found.primal - found.dual)


@pytest.mark.slow
def test_without_implicit_promotion_of_ranks():
    x, y, a, b = clouds(3, dim=2, n=20)
    key = jax.random.key(0)
    with jax.numpy_rank_promotion("raise"):
        assert pf.transport.solve(x, y, a=a, b=b, epsilon=0.3).converged
        assert pf.transport.exact(x, y, a=a, b=b).converged
        assert pf.transport.barycenter(np.stack([a, b]), x, epsilon=0.5, max_sweeps=3).weights.shape == (20,)
        assert pf.transport.coupling(key, x, y)[0].shape == (20,)
        assert pf.transport.ensemble_transform(x, a).shape == (20, 2)
        assert pf.transport.map_cost(x, y, pairing=False).cost > 0
        assert pf.transport.relabel(x.reshape(5, 4, 2)).draws.shape == (5, 4, 2)
        assert pf.transport.sliced_wasserstein(key, x, y) > 0


def test_points_are_centred_without_implicit_promotion_of_ranks():
    with jax.numpy_rank_promotion("raise"):
        geometry = make_geometry(GOOD[0], GOOD[1], "l1")
    np.testing.assert_allclose(geometry.matrix, 2.0)


@pytest.mark.parametrize("strengths", fast([0.5, (None, 0.2), (0.2, None)], (None, 0.2)))
def test_soft_marginals(strengths):
    """Stationarity, from its definition, and the value."""
    problem = images("L2", side=7)
    epsilon = 0.03
    a = problem.a if isinstance(strengths, tuple) else 1.7 * problem.a
    found = pf.transport.solve(cost=problem.cost, a=a, b=problem.b, epsilon=epsilon, marginal_strength=strengths)
    assert found.converged
    pair = strengths if isinstance(strengths, tuple) else (strengths, strengths)
    plan, product = np.asarray(found.plan), np.outer(a, problem.b)
    objective = np.sum(problem.cost * plan) + epsilon * np.sum(plan * np.log(plan / product) - plan + product)
    for strength, sums, weights, potential in zip(
        pair, (plan.sum(1), plan.sum(0)), (a, problem.b), found.potentials, strict=True
    ):
        if strength is None:
            np.testing.assert_allclose(sums, weights, atol=1e-13)
            continue
        np.testing.assert_allclose(potential, -strength * np.log(sums / weights), atol=1e-10)
        objective += strength * np.sum(sums * np.log(sums / weights) - sums + weights)
    np.testing.assert_allclose([found.cost, found.dual, found.primal], objective, rtol=1e-11)


def test_zero_weights_and_duplicates():
    """A point without weight has a potential and a conditional mean, and changes nothing."""
    x, y, a, b = clouds(0, dim=3, n=50)
    found = pf.transport.solve(x, y, a=a, b=b, epsilon=0.3)
    assert found.converged
    kept = pf.transport.solve(x[a > 0], y[b > 0], a=a[a > 0], b=b[b > 0], epsilon=0.3)
    np.testing.assert_allclose(found.cost, kept.cost, rtol=1e-12)
    np.testing.assert_allclose(np.asarray(found.plan)[a == 0], 0.0)
    np.testing.assert_allclose(np.asarray(found.plan)[a > 0][:, b > 0], kept.plan, atol=1e-13)
    # Points that are equal are treated alike, with or without weight.
    x, a = np.concatenate([x, x[:5]]), np.concatenate([a, np.zeros(5)])
    more = pf.transport.solve(x, y, a=a, b=b, epsilon=0.3)
    mean = more.conditional_mean(y)
    np.testing.assert_allclose(mean[-5:], mean[:5], rtol=1e-9)
    np.testing.assert_allclose(more.potentials[0][-5:], more.potentials[0][:5], rtol=1e-9)


def test_operations_of_a_plan():
    x, y, a, b = clouds(1, dim=3, n=50)
    found = pf.transport.solve(x, y, a=a, b=b, epsilon=0.3)
    plan = np.asarray(found.plan)
    vectors = np.random.default_rng(0).normal(size=(50, 2, 3))
    np.testing.assert_allclose(found.apply(vectors), np.einsum("ij,jkl->ikl", plan, vectors), atol=1e-14)
    back = found.apply(vectors, transpose=True)
    np.testing.assert_allclose(back, np.einsum("ij,ikl->jkl", plan, vectors), atol=1e-14)
    np.testing.assert_allclose(found.marginals()[0], plan.sum(1), atol=1e-14)
    np.testing.assert_allclose(found.marginals()[1], plan.sum(0), atol=1e-14)
    used = a > 0
    np.testing.assert_allclose(found.conditional_mean(y)[used], (plan @ y)[used] / a[used, None], rtol=1e-9)
    np.testing.assert_array_equal(found.match()[used], plan[used].argmax(1))


def test_samples_of_a_plan():
    """Means of ten functions of the pair, each within 4.5 standard errors (false alarm 7e-5)."""
    x, y, a, b = clouds(1, dim=3, n=50)
    found = pf.transport.solve(x, y, a=a, b=b, epsilon=0.3)
    rows, columns = found.sample(jax.random.key(2), 20_000)
    plan = np.asarray(found.plan)
    functions = np.random.default_rng(1).normal(size=(10, 50, 50))
    expected = np.einsum("ij,kij->k", plan, functions)
    spread = np.sqrt(np.einsum("ij,kij->k", plan, functions**2) - expected**2)
    means = functions[:, np.asarray(rows), np.asarray(columns)].mean(1)
    assert np.abs((means - expected) / spread).max() * 20_000**0.5 < 4.5


def test_batched_by_vmap():
    problems = [random_costs(seed, n=30) for seed in range(3)]
    costs = jnp.stack([p.cost for p in problems])
    epsilons = jnp.asarray([0.1, 0.01, 0.001])
    solved = jax.vmap(lambda c, e: pf.transport.solve(cost=c, epsilon=e))(costs, epsilons)
    assert solved.converged.all()
    for k in range(3):
        one = pf.transport.solve(cost=costs[k], epsilon=epsilons[k])
        np.testing.assert_allclose(solved.cost[k], one.cost, rtol=1e-12)


def test_a_tolerance_below_what_the_dtype_resolves_is_not_met():
    cost = random_costs(3, n=50).cost.astype(jnp.float32)
    found = pf.transport.solve(cost=cost, epsilon=1e-3, tolerance=1e-9)
    assert found.precision == "float32"
    assert found.status is pf.transport.Status.PRECISION
    assert not found.converged
    assert found.resolution > 1e-9


def test_inside_compiled_code_bad_values_are_a_status():
    costs = random_costs(3, n=20).cost.at[0, 0].set(jnp.nan)
    found = jax.jit(lambda c: pf.transport.solve(cost=c, epsilon=0.1, max_sweeps=5, max_newton_steps=2))(costs)
    assert found.status is pf.transport.Status.NOT_FINITE
    assert not found.converged


GOOD = np.zeros((3, 2)), np.ones((4, 2))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"cost": np.full((2, 2), np.nan)}, "4 entries that are not finite"),
        ({"cost": np.zeros((0, 2))}, "n and m at least one"),
        ({"cost": "manhattan"}, "expected one of"),
        ({"cost": lambda x, y: x - y}, r"one real number, of shape \(\)"),
        ({"x": np.full((3, 2), np.inf)}, "x has coordinates that are not finite"),
        ({"x": np.zeros((0, 2))}, "x has shape"),
        ({"x": np.zeros(3)}, r"x\[:, None\]"),
        ({"x": np.zeros((3, 5))}, "expected the same"),
        ({"y": None}, "x and y are needed"),
        ({"a": np.asarray([0.5, 0.8, -0.3])}, "negative"),
        ({"a": np.asarray([0.5, 0.8, 0.3])}, "sums to 1.6"),
        ({"a": np.asarray([0.5, 0.5])}, "one weight per point"),
        ({"b": np.zeros(4)}, "all zero"),
        ({"epsilon": 0.0}, "positive"),
        ({"epsilon": -1.0}, "positive"),
        ({"epsilon": np.nan}, "positive"),
        ({"marginal_strength": -1.0}, "marginal_strength"),
        ({"marginal_strength": (1.0, 1.0, 1.0)}, "3 entries"),
        ({"method": "newton"}, "newton-cg"),
        ({"initial": np.zeros(3)}, r"\(4,\)"),
        ({"max_sweeps": -1}, "max_sweeps"),
        ({"tolerance": 0.0}, "tolerance"),
        ({"cost": None}, "cost is None"),
        ({"cost": lambda x, y: jnp.log(-jnp.sum((x - y) ** 2))}, "12 costs that are not finite"),
        ({"x": np.zeros((3, 2), np.float16), "y": np.ones((4, 2), np.float16)}, "float16: expected float32"),
        ({"a": np.full(3, 1 / 3) + 0j}, "a has dtype complex128"),
        ({"a": "uniform"}, "a is str"),
        ({"initial": np.full(4, np.nan)}, "4 entries that are not finite"),
        ({"max_sweeps": True}, "max_sweeps"),
    ],
)
def test_bad_input(change, said):
    x, y = GOOD
    given = {"x": x, "y": y, "epsilon": 0.1} | change
    if isinstance(given.get("cost"), np.ndarray):
        given |= {"x": None, "y": None}
    with pytest.raises(ValueError, match=said):
        pf.transport.solve(**given)
