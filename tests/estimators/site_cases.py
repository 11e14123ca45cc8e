"""Every pair of a distribution and a site strategy, with a way to its exact gradient."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
from jax.scipy.special import gammaln

from pushforward.estimators.sites import Enumerate, MeasureValued, ReparamSite, ScoreSite

REAL = np.linspace(-14.0, 14.0, 20_001)
POSITIVE = np.geomspace(1e-9, 80.0, 40_001)
UNIT = 1.0 / (1.0 + np.exp(-np.linspace(-40.0, 40.0, 40_001)))
COUNTS = np.arange(120)


class SiteCase(NamedTuple):
    """A family at given parameters."""

    build: Callable[..., Any]
    theta: dict[str, float]
    strategy: Any
    grid: np.ndarray | None = None
    """Points for quadrature; integers are summed over."""
    moment: Callable[..., Any] | None = None
    """E[z^k] in closed form, where z is a vector (its first entry counts)."""
    count: int = 400_000
    """Draws that bring the relative standard error below 1 %."""


def _categorical(a, b):
    return dist.Categorical(logits=jnp.stack([jnp.zeros_like(a), a, b], axis=-1))


def _categorical_probs(a, b):
    return dist.Categorical(probs=jnp.stack([a, b, 1.0 - a - b], axis=-1))


def _dirichlet(a, b, c):
    return dist.Dirichlet(jnp.stack([a, b, c], axis=-1))


def _dirichlet_moment(k, a, b, c):
    return jnp.exp(gammaln(a + k) - gammaln(a) + gammaln(a + b + c) - gammaln(a + b + c + k))


def _bernoulli_logits(logit):
    return dist.Bernoulli(logits=logit)


def _binomial(p):
    return dist.Binomial(5, probs=p)


NORMAL = {"loc": 0.7, "scale": 1.3}
GAMMA = {"concentration": 1.4, "rate": 0.9}
BETA = {"concentration1": 0.8, "concentration0": 1.7}
BERNOULLI = {"logit": -0.4}
CATEGORICAL = {"a": 0.3, "b": -0.5}

SITES = {
    "Normal/Reparam": SiteCase(dist.Normal, NORMAL, ReparamSite(), REAL, count=200_000),
    "Normal/Score": SiteCase(dist.Normal, NORMAL, ScoreSite(), REAL, count=1_200_000),
    "Normal/MeasureValued": SiteCase(dist.Normal, NORMAL, MeasureValued(), REAL, count=100_000),
    "Gamma/Score": SiteCase(dist.Gamma, GAMMA, ScoreSite(), POSITIVE, count=2_600_000),
    "Gamma/MeasureValued": SiteCase(dist.Gamma, GAMMA, MeasureValued(), POSITIVE),
    "Exponential/MeasureValued": SiteCase(dist.Exponential, {"rate": 1.7}, MeasureValued(), POSITIVE),
    "Beta/Score": SiteCase(dist.Beta, BETA, ScoreSite(), UNIT, count=200_000),
    "Beta/MeasureValued": SiteCase(dist.Beta, BETA, MeasureValued(), UNIT, count=100_000),
    "Dirichlet/MeasureValued": SiteCase(
        _dirichlet, {"a": 0.6, "b": 1.2, "c": 2.5}, MeasureValued(), moment=_dirichlet_moment, count=300_000
    ),
    "Weibull/Score": SiteCase(
        dist.Weibull, {"scale": 1.3, "concentration": 1.6}, ScoreSite(), POSITIVE, count=1_000_000
    ),
    "Weibull/MeasureValued": SiteCase(
        dist.Weibull, {"scale": 1.3, "concentration": 1.6}, MeasureValued(), POSITIVE, count=100_000
    ),
    "Poisson/Score": SiteCase(dist.Poisson, {"rate": 2.3}, ScoreSite(), COUNTS),
    "Poisson/MeasureValued": SiteCase(dist.Poisson, {"rate": 2.3}, MeasureValued(), COUNTS, count=100_000),
    "Geometric/MeasureValued": SiteCase(lambda p: dist.Geometric(probs=p), {"p": 0.4}, MeasureValued(), COUNTS),
    "Bernoulli/Score": SiteCase(_bernoulli_logits, BERNOULLI, ScoreSite(), np.arange(2), count=100_000),
    "Bernoulli/Enumerate": SiteCase(_bernoulli_logits, BERNOULLI, Enumerate(), np.arange(2), count=1000),
    "Bernoulli/MeasureValued": SiteCase(_bernoulli_logits, BERNOULLI, MeasureValued(), np.arange(2), count=1000),
    "Categorical/Score": SiteCase(_categorical, CATEGORICAL, ScoreSite(), np.arange(3), count=200_000),
    "Categorical/Enumerate": SiteCase(_categorical, CATEGORICAL, Enumerate(), np.arange(3), count=1000),
    "Categorical/MeasureValued": SiteCase(_categorical, CATEGORICAL, MeasureValued(), np.arange(3), count=1000),
    "CategoricalProbs/MeasureValued": SiteCase(
        _categorical_probs, {"a": 0.2, "b": 0.5}, MeasureValued(), np.arange(3), count=1000
    ),
    "Binomial/Enumerate": SiteCase(_binomial, {"p": 0.3}, Enumerate(), np.arange(6), count=1000),
    "Binomial/MeasureValued": SiteCase(_binomial, {"p": 0.3}, MeasureValued(), np.arange(6), count=100_000),
}


def exact(case: SiteCase) -> np.ndarray:
    """Gradients of E[z^k], k = 1..4, by quadrature or in closed form: one row per power, one column per parameter."""
    powers = jnp.arange(1, 5)

    def moments(theta: dict[str, Any]) -> Any:
        if case.moment is not None:
            return jnp.stack([case.moment(float(k), *theta.values()) for k in range(1, 5)])
        density = jnp.exp(case.build(**theta).log_prob(case.grid))
        values = jnp.asarray(case.grid, float)[None, :] ** powers[:, None] * density
        return jnp.sum(values, axis=1) if case.grid.dtype.kind == "i" else jnp.trapezoid(values, case.grid, axis=1)

    gradient = jax.jacobian(moments)({k: jnp.asarray(v) for k, v in case.theta.items()})
    return np.stack([np.asarray(gradient[k]) for k in case.theta], axis=1)


def estimates(case: SiteCase, key: Any, count: int, strategy: Any = None) -> tuple[np.ndarray, np.ndarray]:
    """Mean and standard error of the estimated gradients over ``count`` plate elements, shaped like `exact`."""
    strategy = case.strategy if strategy is None else strategy
    block = min(count, 100_000)

    @jax.jit
    def run(key: Any) -> tuple[Any, Any]:
        theta = {k: jnp.full((block,), v) for k, v in case.theta.items()}

        def gradient(key: Any) -> Any:
            def loss(theta: dict[str, Any], chosen: Any) -> Any:
                fn = case.build(**theta)

                def outcome(value: Any) -> Any:
                    scalar = value[..., 0] if fn.event_dim else value
                    x = scalar.astype(float)
                    return chosen[0] * x + chosen[1] * x**2 + chosen[2] * x**3 + chosen[3] * x**4

                value = strategy.draw(key, fn)
                fixed = jax.lax.stop_gradient(value)
                through = jnp.sum(outcome(value)) if strategy.pathwise else 0.0
                return through + strategy.surrogate(key, fn, fixed, outcome, outcome(fixed))

            # One batched gradient for the four powers: what does not depend on the power, the draw, is made once.
            gradients = jax.vmap(lambda chosen: jax.grad(loss)(theta, chosen))(jnp.eye(4))
            return jnp.stack([gradients[name] for name in case.theta], axis=1)

        def add(sums: Any, key: Any) -> tuple[Any, None]:
            g = gradient(key)
            return (sums[0] + g.sum(-1), sums[1] + (g**2).sum(-1)), None

        zeros = jnp.zeros((4, len(case.theta)))
        return jax.lax.scan(add, (zeros, zeros), jax.random.split(key, count // block))[0]

    total, squares = (np.asarray(x) for x in run(key))
    drawn = block * (count // block)
    mean = total / drawn
    return mean, np.sqrt(np.maximum(squares / drawn - mean**2, 0.0) / drawn)
