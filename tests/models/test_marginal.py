"""Guides with sites integrated out, on the cone model: x, y ~ N(0, 10), z ~ N(x^2 + y^2, ...), z = 5."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import pytest

import pushforward as pf
from pushforward.estimators.gradients import resolve_gradient

_SPEC = importlib.util.spec_from_file_location("cone", Path(__file__).parents[2] / "benchmarks" / "cone.py")
benchmark: Any = importlib.util.module_from_spec(_SPEC)
_SPEC.loader.exec_module(benchmark)
cone, mean_field, ring, angle = benchmark.cone, benchmark.mean_field, benchmark.ring, benchmark.angle


def log_weights(guide: Any, count: int = 20_000) -> np.ndarray:
    return benchmark.log_weights(guide, count, jax.random.key(3))


@pytest.mark.slow
def test_published_bounds(figure: Any) -> None:
    """Mean-field, hierarchical, importance-weighted hierarchical and marginalised rings at their optima."""
    rows = benchmark.main()
    for row in rows:
        figure(f"cone model, {row.what}", row.value, row.bound)
    assert all(row.holds for row in rows), rows


@pytest.mark.parametrize("num_particles", [1, 3])
def test_weights_average_to_the_evidence(num_particles: int) -> None:
    # The exact conditional of the turn is nearly known, so that the weights have little spread.
    def guide(z):
        numpyro.param("unused", jnp.asarray(0.0))
        return pf.marginal(lambda z: ring(z, 0.035), over="turn", proposal=angle, num_particles=num_particles)(z)

    weights = np.exp(log_weights(guide) - benchmark.LOG_EVIDENCE)
    assert abs(weights.mean() - 1.0) < 4 * weights.std() / len(weights) ** 0.5 + 1e-5


@pytest.mark.slow
def test_normalize_is_the_importance_weighted_bound() -> None:
    """Resampling the model itself: the log-weight is the log-mean of M weights of the proposal, draw by draw."""

    def guide(z):
        return pf.normalize(cone, proposal=mean_field, num_particles=4)(z)

    def plain(z):
        mean_field(z)

    bound = log_weights(guide)
    single = log_weights(plain, 80_000).reshape(-1, 4)
    largest = single.max(1, keepdims=True)
    expected = np.log(np.exp(single - largest).mean(1)) + largest[:, 0]
    # The tails of the log-weights are heavy: medians and quartiles are compared.
    for level in (0.25, 0.5, 0.75):
        a, b = np.quantile(bound, level), np.quantile(expected, level)
        spread = np.quantile(expected, level + 0.02) - np.quantile(expected, level - 0.02)
        assert abs(a - b) < spread


@pytest.mark.slow
def test_gradient_with_marginal_is_unbiased() -> None:
    """The gradient against differences of the bound at common random numbers."""
    target = pf.from_numpyro(cone, jnp.asarray(5.0))
    program = pf.marginal(lambda z: ring(z, 0.06), over="turn", proposal=angle, num_particles=2)
    bound = pf.program_guide(program).bind(target)
    for objective in (pf.ELBO(), pf.IWELBO()):
        results = []
        for gradient in (pf.Path(), pf.Reparam()):
            estimator = resolve_gradient(gradient, bound, objective)
            estimator.check(objective, target, bound, 2)

            @jax.jit
            def run(keys: Any, estimator: Any = estimator, objective: Any = objective) -> Any:
                one = lambda k: estimator.value_and_grad(k, objective, target, bound, 2)[1].guide.params  # noqa: E731
                out = jax.vmap(one)(keys)
                return jnp.stack([out["scale"], out["reverse"]], -1)

            results.append(np.asarray(run(jax.random.split(jax.random.key(1), 20_000))))
        difference = results[0].mean(0) - results[1].mean(0)
        error = np.sqrt(sum(r.var(0) for r in results) / 20_000)
        assert np.all(np.abs(difference) < 4 * error)


def test_refusals() -> None:
    target = pf.from_numpyro(cone, jnp.asarray(5.0))
    with pytest.raises(ValueError, match=r"draws no site \['angle'\]"):
        pf.program_guide(pf.marginal(ring, over="angle")).bind(target)
    with pytest.raises(ValueError, match="does not draw"):
        pf.program_guide(pf.marginal(ring, over="turn", proposal=lambda kept, z: None)).bind(target)
    with pytest.raises(ValueError, match="expected it in guides only"):
        pf.from_numpyro(pf.normalize(cone, proposal=mean_field, num_particles=2), jnp.asarray(5.0))
    with pytest.raises(ValueError, match="at least 2"):
        pf.normalize(cone, proposal=mean_field, num_particles=1)
    guide = pf.program_guide(pf.marginal(ring, over="turn")).bind(target)
    with pytest.raises(ValueError, match="density at a given position is only estimated"):
        guide.log_prob({"x": jnp.zeros(()), "y": jnp.zeros(())})
