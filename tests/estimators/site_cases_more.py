"""Pairs of a distribution and a strategy that moves its draws, in the form of `site_cases`."""

from __future__ import annotations

import equinox as eqx
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist

from pushforward.estimators.sites import Implicit, Rejection, Relax

from .site_cases import (
    BERNOULLI,
    BETA,
    CATEGORICAL,
    GAMMA,
    NORMAL,
    POSITIVE,
    REAL,
    UNIT,
    SiteCase,
    _bernoulli_logits,
    _categorical,
    _dirichlet,
    _dirichlet_moment,
)

WIDE = np.sinh(np.linspace(-9.0, 9.0, 40_001))
CIRCLE = np.linspace(-np.pi, np.pi, 20_001)
DIRICHLET = {"a": 0.6, "b": 1.2, "c": 2.5}
STUDENT = {"df": 14.0, "loc": 0.5, "scale": 1.3}


def _mixture(logit, loc, scale):
    weights = dist.Categorical(logits=jnp.stack([jnp.zeros_like(logit), logit], axis=-1))
    means = jnp.stack([loc, -loc], axis=-1)
    return dist.MixtureSameFamily(weights, dist.Normal(means, jnp.stack([scale, 0.5 * scale], axis=-1)))


def _one_hot(a, b):
    return dist.Multinomial(1, logits=jnp.stack([a, jnp.zeros_like(a), b], axis=-1), total_count_max=1)


def _one_hot_moment(k, a, b):
    return jnp.exp(a) / (jnp.exp(a) + 1.0 + jnp.exp(b))


def _trained(method):
    """A control variate away from its start, where the network is zero."""
    weights = jnp.asarray([0.3, -0.2, 0.1, 0.4, -0.3, 0.2, -0.1, 0.5])
    return eqx.tree_at(lambda s: (s.control.outward, s.control.scale), Relax(method), (weights, jnp.asarray(0.7)))


TAIL = np.geomspace(1e-80, 90.0, 40_001)
SMALL = {"concentration": 0.2, "rate": 1.3}
INVERSE, INVERSE_GRID = {"concentration": 14.0, "rate": 9.0}, np.geomspace(1e-2, 1e3, 40_001)

MORE_SITES = {
    "Gamma/Implicit": SiteCase(dist.Gamma, GAMMA, Implicit(), POSITIVE, count=400_000),
    "Gamma below one/Implicit": SiteCase(dist.Gamma, SMALL, Implicit(), TAIL, count=2_400_000),
    "Chi2/Implicit": SiteCase(dist.Chi2, {"df": 3.0}, Implicit(), POSITIVE, count=400_000),
    "InverseGamma/Implicit": SiteCase(dist.InverseGamma, INVERSE, Implicit(), INVERSE_GRID, count=100_000),
    "Beta/Implicit": SiteCase(dist.Beta, BETA, Implicit(), UNIT, count=50_000),
    "Dirichlet/Implicit": SiteCase(_dirichlet, DIRICHLET, Implicit(), moment=_dirichlet_moment, count=100_000),
    "StudentT/Implicit": SiteCase(dist.StudentT, STUDENT, Implicit(), WIDE, count=400_000),
    "VonMises/Implicit": SiteCase(dist.VonMises, {"loc": 0.4, "concentration": 1.5}, Implicit(), CIRCLE, count=100_000),
    "VonMises, narrower/Implicit": SiteCase(
        dist.VonMises, {"loc": -1.0, "concentration": 4.0}, Implicit(), CIRCLE, count=400_000
    ),
    "Mixture/Implicit": SiteCase(_mixture, {"logit": 0.3, "loc": 1.5, "scale": 1.1}, Implicit(), REAL, count=400_000),
    "Normal/Implicit": SiteCase(dist.Normal, NORMAL, Implicit(), REAL, count=200_000),
    "Gamma/Rejection": SiteCase(dist.Gamma, GAMMA, Rejection(), POSITIVE, count=500_000),
    "Gamma, no augmentation/Rejection": SiteCase(dist.Gamma, GAMMA, Rejection(augmentation=0), POSITIVE, count=400_000),
    "Gamma below one/Rejection": SiteCase(dist.Gamma, SMALL, Rejection(augmentation=4), TAIL, count=3_200_000),
    "InverseGamma/Rejection": SiteCase(dist.InverseGamma, INVERSE, Rejection(), INVERSE_GRID, count=100_000),
    "Beta/Rejection": SiteCase(dist.Beta, BETA, Rejection(), UNIT, count=50_000),
    "Dirichlet/Rejection": SiteCase(_dirichlet, DIRICHLET, Rejection(), moment=_dirichlet_moment, count=100_000),
    "Bernoulli/Relax rebar": SiteCase(_bernoulli_logits, BERNOULLI, _trained("rebar"), np.arange(2), count=50_000),
    "Bernoulli/Relax relax": SiteCase(_bernoulli_logits, BERNOULLI, _trained("relax"), np.arange(2), count=50_000),
    "Categorical/Relax relax": SiteCase(_categorical, CATEGORICAL, _trained("relax"), np.arange(3), count=200_000),
    "One-hot/Relax rebar": SiteCase(_one_hot, CATEGORICAL, _trained("rebar"), moment=_one_hot_moment, count=50_000),
    "One-hot/Relax relax": SiteCase(_one_hot, CATEGORICAL, _trained("relax"), moment=_one_hot_moment, count=100_000),
}

FAST = {"Beta/Implicit", "VonMises/Implicit", "Beta/Rejection", "Bernoulli/Relax relax", "One-hot/Relax rebar"}
"""One of each mechanism: compiling is what costs, so the rest of the table is checked with the slow tests."""
