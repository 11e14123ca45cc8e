"""Guides with sites integrated out, on the cone model: x, y ~ N(0, 10), z ~ N(x^2 + y^2, ...), z = 5."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest

import pushforward as pf
from pushforward.estimators.gradients import resolve_gradient

LOG_EVIDENCE = -5.32323
"""By quadrature over the radius."""


def cone(z):
    x = numpyro.sample("x", dist.Normal(0.0, 10.0))
    y = numpyro.sample("y", dist.Normal(0.0, 10.0))
    square = x**2 + y**2
    numpyro.sample("z", dist.Normal(square, 0.1 + square / 100.0), obs=z)


def mean_field(z):
    loc = numpyro.param("loc", jnp.asarray([1.5, 1.0]))
    scale = numpyro.param("scale", jnp.asarray([0.5, 0.5]), constraint=dist.constraints.positive)
    numpyro.sample("x", dist.Normal(loc[0], scale[0]))
    numpyro.sample("y", dist.Normal(loc[1], scale[1]))


def ring(z, start=0.1):
    scale = numpyro.param("scale", jnp.asarray(start), constraint=dist.constraints.positive)
    turn = numpyro.sample("turn", dist.Uniform())
    numpyro.sample("x", dist.Normal(jnp.sqrt(5.0) * jnp.cos(2 * jnp.pi * turn), scale))
    numpyro.sample("y", dist.Normal(jnp.sqrt(5.0) * jnp.sin(2 * jnp.pi * turn), scale))


class Circular(dist.Distribution):
    """A normal angle in turns, wrapped around the circle; for scales well below half a turn."""

    arg_constraints = {"loc": dist.constraints.real, "scale": dist.constraints.positive}
    support = dist.constraints.unit_interval
    reparametrized_params = ["loc", "scale"]

    def __init__(self, loc, scale):
        self.loc, self.scale = loc, scale
        super().__init__(jnp.shape(loc), ())

    def sample(self, key, sample_shape=()):
        noise = jax.random.normal(key, sample_shape + self.batch_shape)
        return (self.loc + self.scale * noise) % 1.0

    def log_prob(self, value):
        distance = (value - self.loc + 0.5) % 1.0 - 0.5
        return dist.Normal(0.0, self.scale).log_prob(distance)


def angle(kept, z):
    scale = numpyro.param("reverse", jnp.asarray(0.01), constraint=dist.constraints.positive)
    numpyro.sample("turn", Circular(jnp.arctan2(kept["y"], kept["x"]) / (2 * jnp.pi), scale))


def fitted(guide: Any, **settings: Any) -> tuple[float, float, Any]:
    target = pf.from_numpyro(cone, jnp.asarray(5.0))
    posterior = pf.fit(
        target,
        pf.program_guide(guide),
        key=jax.random.key(0),
        num_restarts=1,
        num_particles=16,
        progress=False,
        **settings,
    )
    weights = posterior.data.optimization["log_weights"].values
    return float(weights.mean()), float(weights.std() / len(weights) ** 0.5), posterior.guide.param_values()


def log_weights(guide: Any, count: int = 20_000) -> np.ndarray:
    target = pf.from_numpyro(cone, jnp.asarray(5.0))
    bound = pf.program_guide(guide).bind(target)

    @jax.jit
    def run(keys: Any) -> Any:
        def one(key: Any) -> Any:
            position, log_q = bound.sample_and_log_prob(key)
            return target.logdensity(position) - log_q

        return jax.vmap(one)(keys)

    return np.asarray(run(jax.random.split(jax.random.key(3), count)))


@pytest.mark.slow
def test_mean_field_reaches_its_optimum() -> None:
    _, _, params = fitted(mean_field, num_steps=5000)
    nodes, weights = np.polynomial.hermite_e.hermegauss(60)
    x, y = (float(m) + float(s) * nodes for m, s in zip(params["loc"], params["scale"], strict=True))
    square = x[:, None] ** 2 + y[None, :] ** 2
    log_p = dist.Normal(0.0, 10.0).log_prob(x)[:, None] + dist.Normal(0.0, 10.0).log_prob(y)
    log_p = log_p + dist.Normal(square, 0.1 + square / 100.0).log_prob(5.0)
    w = np.outer(weights, weights) / weights.sum() ** 2
    entropy = np.log(np.asarray(params["scale"])).sum() + np.log(2 * np.pi * np.e)
    assert abs(float((w * log_p).sum()) + entropy + 8.078) < 0.02


@pytest.mark.slow
def test_hierarchical_optimum() -> None:
    elbo, error, _ = fitted(pf.marginal(ring, over="turn"), num_steps=3000)
    assert error < 0.01
    assert abs(elbo + 9.748) < 0.05


@pytest.mark.slow
def test_marginalised_angle_closes_the_gap() -> None:
    elbo, error, _ = fitted(pf.marginal(ring, over="turn", proposal=angle), num_steps=2000)
    assert error < 0.01
    assert -5.40 <= elbo <= LOG_EVIDENCE + 4 * error


@pytest.mark.parametrize("num_particles", [1, 3])
def test_weights_average_to_the_evidence(num_particles: int) -> None:
    # The exact conditional of the turn is nearly known, so that the weights have little spread.
    def guide(z):
        numpyro.param("unused", jnp.asarray(0.0))
        return pf.marginal(lambda z: ring(z, 0.035), over="turn", proposal=angle, num_particles=num_particles)(z)

    weights = np.exp(log_weights(guide) - LOG_EVIDENCE)
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
    with pytest.raises(ValueError, match="expected them in guides only"):
        pf.from_numpyro(pf.marginal(ring, over="turn"), jnp.asarray(5.0))
    with pytest.raises(ValueError, match="at least 2"):
        pf.normalize(cone, proposal=mean_field, num_particles=1)
    guide = pf.program_guide(pf.marginal(ring, over="turn")).bind(target)
    with pytest.raises(ValueError, match="density at a given position is only estimated"):
        guide.log_prob({"x": jnp.zeros(()), "y": jnp.zeros(())})
