"""The laboratory on flows, programs and estimators that learn."""

from __future__ import annotations

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from tiers import fast

import pushforward as pf
from pushforward.estimators.gradients import resolve_gradient
from pushforward.infer._evaluations import count_evaluations
from pushforward.infer._places import resolve_places

FLOW = pf.RealNVP(num_layers=1, hidden=4)
PARTICLES = 4
MEAN, ROOT = jnp.asarray([1000.0, -500.0]), jnp.asarray([[30.0, 0.0], [20.0, 10.0]])


@pytest.mark.slow
def test_a_flow_is_measured_where_a_fit_would_start_it():
    """For a Gaussian posterior that is the posterior itself, where a path gradient has no variance."""
    target = pf.from_logdensity(lambda x: -0.5 * jnp.sum(jnp.linalg.solve(ROOT, x - MEAN) ** 2), jnp.zeros(2))
    bare = FLOW.bind(target)
    drawn = bare.fresh(jax.random.key(1))
    # The scale of one place is a matrix, that of another a vector.
    places = {"fit": FLOW, "near": drawn.affine(MEAN, ROOT), "far": drawn}
    given = {"num_particles": PARTICLES, "num_repeats": 100, "key": jax.random.key(2)}
    measured = pf.compare_estimators(target, FLOW, {"path": pf.Path(), "reparam": pf.Reparam()}, at=places, **given)
    variance = measured.table.pivot_table(index="at", columns="estimator", values="variance")
    assert variance.loc[["fit", "near"], "path"].max() < 1e-12 < variance.loc["far", "path"]
    assert variance["reparam"].min() > 1e-2
    assert (measured.table["evaluations"] == PARTICLES).all()
    assert not measured.biased
    for guide in (bare, drawn):
        (place,) = resolve_places(jax.random.key(3), target, guide, None, pf.ELBO())
        assert place.guide.layers is not None
        assert place.name == "given"
        np.testing.assert_allclose(place.guide.shift, 0.0 if guide is drawn else MEAN, rtol=1e-6)
    larger = pf.RealNVP(num_layers=1, hidden=8).bind(target).fresh(jax.random.key(1))
    with pytest.raises(ValueError, match="'large' has parameters of other shapes"):
        resolve_places(jax.random.key(3), target, drawn, {"small": drawn, "large": larger}, pf.ELBO())


CALLS = [0]


def tick(*_: Any) -> np.ndarray:
    CALLS[0] += 1
    return np.zeros((), np.float64)


def counted(*sites: Any) -> jax.Array:
    """Zero; every run of it, once per particle, is counted on the host."""
    values = jax.lax.stop_gradient([jnp.asarray(x, float) for x in sites])
    return jax.pure_callback(tick, jax.ShapeDtypeStruct((), jnp.float64), *values, vmap_method="sequential")


def model(y):
    k = numpyro.sample("k", dist.Bernoulli(0.4))
    z = numpyro.sample("z", dist.Normal(1.0 * k, 1.0))
    numpyro.sample("y", dist.Normal(z, 0.7 + counted(k, z)), obs=y)


def guide(y):
    a = numpyro.param("a", jnp.asarray([0.2, 0.3, 0.5]))
    k = numpyro.sample("k", dist.Bernoulli(logits=a[0]))
    numpyro.sample("z", dist.Normal(a[1] * k, jnp.exp(a[2])))


STRATEGIES = {
    "score": (pf.Score(), 1),
    "enumerate": ({"k": pf.Enumerate()}, 3),
    "measure-valued": ({"k": pf.MeasureValued(), "z": pf.Path()}, None),
    "score and weak": ({"k": pf.Score("average"), "z": pf.MeasureValued()}, None),
}


@pytest.mark.parametrize("name", fast(STRATEGIES, "enumerate", "score and weak"))
def test_evaluations_of_programs_are_runs_of_the_model(name):
    gradient, per_particle = STRATEGIES[name]
    target = pf.from_numpyro(model, jnp.asarray(0.8))
    bound = pf.program_guide(guide).bind(target)
    estimator = resolve_gradient(gradient, bound, pf.ELBO()).bind(target, bound)
    said = count_evaluations(estimator, pf.ELBO(), target, bound, PARTICLES)
    assert per_particle is None or said == per_particle * PARTICLES

    @jax.jit
    def one(key):
        estimate, steps = estimator.value_and_grad(key, pf.ELBO(), target, bound, PARTICLES)
        return estimate.value, steps.guide

    jax.block_until_ready(one(jax.random.key(0)))
    CALLS[0] = 0
    jax.block_until_ready(one(jax.random.key(1)))
    assert CALLS[0] == said


class Number(eqx.Module):
    """A baseline that is one number."""

    number: jax.Array

    def __call__(self, batch: Any) -> jax.Array:
        return self.number


@pytest.mark.parametrize("kind", fast(["whole", "per site"], "per site"))
def test_learned_baselines_are_measured_after_they_have_learned(kind):
    learned = pf.Score(pf.LearnedBaseline(Number(jnp.asarray(0.0))))
    gradients = {"none": pf.Score("none"), "learned": learned}
    if kind == "whole":
        # A constant of 20 nats, which a score gradient without a baseline turns into noise.
        target, family = pf.from_logdensity(lambda x: 20.0 - 0.5 * x @ x, jnp.zeros(2)), pf.MeanField(init_scale=1.0)
    else:
        target, family = pf.from_numpyro(offset_model), pf.program_guide(offset_guide)
    measured = pf.compare_estimators(target, family, gradients, num_particles=2, num_repeats=400, key=jax.random.key(3))
    none, learned = measured.table["variance"]
    assert learned < 0.05 * none
    assert not measured.biased
    assert (measured.table["evaluations"] == 2).all()


def offset_model():
    z = numpyro.sample("z", dist.Normal(0.0, 1.0))
    numpyro.factor("offset", 20.0 - 0.1 * z)


def offset_guide():
    numpyro.sample("z", dist.Normal(numpyro.param("a", jnp.asarray(0.1)), 1.0))


@pytest.mark.slow
def test_path_of_a_flow():
    """From the start to the optimum of a bent density, where path gradients are the less noisy ones."""
    target = pf.from_logdensity(lambda x: -0.5 * x[0] ** 2 - 0.5 * ((x[1] - x[0] ** 2) / 0.5) ** 2, jnp.zeros(2))
    measured = pf.compare_estimators(
        target,
        pf.RealNVP(num_layers=4, hidden=16),
        {"path": pf.Path(), "reparam": pf.Reparam()},
        num_particles=8,
        num_repeats=200,
        key=jax.random.key(4),
        at=("start", "middle", "optimum"),
    )
    table = measured.table.pivot_table(index="at", columns="estimator", values="variance")
    assert table.loc["optimum", "path"] < 0.2 * table.loc["optimum", "reparam"]
    losses = measured.table.groupby("at", sort=False)["loss"].mean()
    # By its definition the middle lies at a fifth of the loss still to be lost; one lucky step is no progress.
    share = (losses["middle"] - losses["optimum"]) / (losses["start"] - losses["optimum"])
    assert 0.02 < share < 0.6, losses
    assert not measured.biased
