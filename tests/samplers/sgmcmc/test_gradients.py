"""Gradient estimates: unbiased for programs of both languages, and as precise as they promise."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pyro
import pytest
import torch

import pushforward as pf
from pushforward.samplers import Chains
from pushforward.samplers.sgmcmc import Minibatch
from pushforward.samplers.sgmcmc._density import LogDensity

N, B, DRAWS = 500, 20, 4000
RNG = np.random.default_rng(3)
FEATURES = RNG.normal(size=(N, 3))
LABELS = (RNG.random(N) < 1 / (1 + np.exp(-FEATURES @ [1.0, -2.0, 0.5]))).astype(float)
POINT = np.array([0.7, -1.0, 0.2])


def numpyro_model(features, labels):
    weights = numpyro.sample("weights", dist.Normal(0.0, 2.0).expand([3]).to_event(1))
    with numpyro.plate("data", N, subsample_size=B):
        batch = numpyro.subsample(features, event_dim=1)
        numpyro.sample("y", dist.Bernoulli(logits=batch @ weights), obs=numpyro.subsample(labels, event_dim=0))


def pyro_model(features, labels):
    weights = pyro.sample("weights", pyro.distributions.Normal(torch.zeros(3), 2.0).to_event(1))
    with pyro.plate("data", N, subsample_size=B) as index:
        logits = features[index] @ weights
        pyro.sample("y", pyro.distributions.Bernoulli(logits=logits), obs=labels[index])


def target_of(language):
    if language == "numpyro":
        return pf.from_numpyro(numpyro_model, jnp.asarray(FEATURES), jnp.asarray(LABELS))
    torch.set_default_dtype(torch.float64)
    try:
        return pf.from_pyro(pyro_model, torch.tensor(FEATURES), torch.tensor(LABELS))
    finally:
        torch.set_default_dtype(torch.float32)


def estimates(key, target, gradient, anchor=None):
    """Estimates at `POINT` on ``DRAWS`` minibatches, and the exact gradient."""
    sampler = pf.SGLD(1e-3, gradient=gradient).bind(target, 0)
    density, x = sampler.density(), jnp.asarray(POINT)

    @jax.jit
    def draw(key):
        origin = x if anchor is None else anchor
        memory = sampler.gradient.refresh(density, origin, sampler.gradient.init(density, origin))
        keys = jax.random.split(key, DRAWS)
        return jax.lax.map(lambda k: sampler.gradient(density, x, target.minibatch(k), memory), keys, batch_size=500)

    return np.asarray(draw(key)), np.asarray(density.gradient(x))


@pytest.mark.parametrize("language", ["numpyro", "pyro"])
@pytest.mark.parametrize("build", [Minibatch, pf.ControlVariate, pf.SVRG])
def test_mean_of_minibatch_gradients_is_the_full_gradient(language, build, getkey, figure):
    """|z| < 4 in each of three coordinates: a false alarm in one run of 900 over all cases, with fixed keys in none."""
    target = target_of(language)
    anchor = None if build is not pf.SVRG else jnp.asarray(POINT + 0.1)
    drawn, exact = estimates(getkey(), target, build(), anchor)
    z = (drawn.mean(0) - exact) / (drawn.std(0, ddof=1) / np.sqrt(DRAWS))
    figure(f"{build.__name__}, {language}: mean of 4,000 gradients, largest |z|", float(np.max(np.abs(z))), "4")
    assert np.max(np.abs(z)) < 4, z
    assert np.all(drawn.std(0) > 0)


def test_control_variates_are_as_precise_as_they_are_near(getkey):
    """The variance falls with the squared distance from the centre: by about 100 for a tenth of it."""
    target = target_of("numpyro")
    plain, _ = estimates(getkey(), target, Minibatch())

    def spread(distance):
        centre = {"weights": jnp.asarray(POINT + distance)}
        return estimates(getkey(), target, pf.ControlVariate(centre))[0].var(0).sum()

    near, nearer = spread(0.1), spread(0.01)
    assert near < 0.05 * plain.var(0).sum()
    assert nearer == pytest.approx(near / 100, rel=0.3)


def test_centre_is_the_mode_a_position_or_a_posterior(getkey):
    target = target_of("numpyro")
    mode = pf.ControlVariate().bind(LogDensity(target, pf.SGLD(1.0).bind(target, 0).layout))
    np.testing.assert_allclose(mode.full, 0.0, atol=1e-2)
    run = pf.sample(target, pf.SGLD(1e-3), num_steps=20, key=getkey(), progress=False)
    of_run = pf.SGLD(1e-3, gradient=pf.ControlVariate(run)).bind(target, 0).gradient
    np.testing.assert_allclose(of_run.centre, np.asarray(run.positions["weights"]).mean((0, 1)))
    with pytest.raises(ValueError, match=r"ControlVariate\(around"):
        pf.SGLD(1e-3, gradient=pf.ControlVariate({"weights": jnp.zeros(2)})).bind(target, 0)
    walled = pf.from_logdensity(lambda x: jnp.log(x - 1.0) - x, jnp.zeros(()))
    with pytest.raises(ValueError, match="not finite"):
        pf.SGLD(1e-3, gradient=pf.ControlVariate()).bind(walled, 0)


def test_anchor_moves_once_per_period_for_all_chains_at_once(getkey):
    target = target_of("numpyro")
    sampler = pf.SGLD(1e-3, gradient=pf.SVRG(4)).bind(target, 0)
    chains = Chains(sampler, 3)
    start = jnp.asarray(RNG.normal(size=(3, 3)))
    state = chains.init(getkey(), start)
    step = jax.jit(lambda k, s: chains.step(k, s, chains.minibatch(k)))
    single = jax.jit(lambda k, s, b: sampler.step(k, s, b))
    alone = jax.tree.map(lambda x: x[1], state.inner)
    moved, keys = [], [getkey() for _ in range(9)]
    for key in keys:
        before = state.inner
        state, _ = step(key, state)
        own = jax.tree.map(lambda x: x[1], chains.minibatch(key))
        alone, _ = single(jax.random.fold_in(key, 1), alone, own)
        moved.append(bool(jnp.all(state.inner.gradient.anchor == before.position)))
        np.testing.assert_allclose(state.inner.position[1], alone.position, rtol=1e-9)
        np.testing.assert_allclose(state.inner.gradient.full[1], alone.gradient.full, rtol=1e-9)
    assert moved == [True, False, False, False] * 2 + [True]
    # All data are looked at inside a branch, not at every step and masked out.
    program = str(
        jax.make_jaxpr(
            lambda s: jax.vmap(sampler.gradient.refresh, (None, 0, 0))(sampler.density(), s.position, s.gradient)
        )(state.inner)
    )
    assert program.count("cond[") == 1


@pytest.mark.parametrize(
    "build", [lambda: pf.CyclicalSGLD(1.0, cycle_length=40), lambda: pf.SGLD(1.0, gradient=pf.SVRG(4))]
)
def test_a_chain_at_rest_is_not_due_at_every_step(build, getkey):
    """One chain is lost at the first step, where cycles open and anchors are new: its counters go on with the others'.

    Were it due for ever, all chains would explore, or look at all data, at each of their steps.
    """
    target = pf.from_logdensity(lambda x: jnp.where(x < 5.0, -0.1 * x**2, jnp.nan), jnp.zeros(()))
    chains = Chains(build().bind(target, 0), 2)
    state = chains.init(getkey(), jnp.asarray([[0.0], [6.0]]))
    step = jax.jit(lambda k, s: chains.step(k, s)[0])
    for _ in range(3):
        state = step(getkey(), state)
    np.testing.assert_array_equal(state.failed_step, [-1, 0])
    assert state.inner.position[1, 0] == 6.0
    for counter in (x for x in jax.tree.leaves(state.inner) if jnp.issubdtype(x.dtype, jnp.integer)):
        assert counter[0] == counter[1] == 3


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: pf.ControlVariate(num_steps=0), "num_steps=0"),
        (lambda: pf.SVRG(0), "period=0"),
        (lambda: pf.SGHMC(0.1, friction=1.5), "friction=1.5"),
        (lambda: pf.SGHMC(0.1, noise=-1.0), "noise=-1.0"),
        (lambda: pf.SGHMC(0.1, noise=100.0), "beyond the temperature"),
        (lambda: pf.SGHMC(-0.1), "step_size=-0.1"),
        (lambda: pf.BAOAB(0.1, friction=0.0), "friction=0.0"),
        (lambda: pf.SGNHT(0.1, adaptation=0.0), "adaptation=0.0"),
        (lambda: pf.PSGLD(0.1, decay=1.0), "decay=1.0"),
        (lambda: pf.PSGLD(0.1, floor=0.0), "floor=0.0"),
        (lambda: pf.CyclicalSGLD(lambda i: 0.1), "got a schedule"),
        (lambda: pf.CyclicalSGLD(0.1, cycle_length=1), "cycle_length=1"),
        (lambda: pf.CyclicalSGLD(0.1, exploration=1.0), "exploration=1.0"),
        (lambda: pf.EntropyMCMC(0.1, eta=0.0), "eta=0.0"),
        (lambda: pf.EntropyMCMC(0.1, draws="both"), "draws='both'"),
        (lambda: pf.StructuredSGLD(0.1, dropout=0.0), "dropout=0.0"),
        (lambda: pf.StructuredSGLD(0.1, memory=0), "memory=0"),
        (lambda: pf.SGLD(0.1, gradient=pf.SGLD), "gradient="),
        (lambda: pf.SGLD(None), "step_size=None"),
        (lambda: pf.SGLD(float("inf")), "step_size=inf"),
        (lambda: pf.SGLD(0.1, temperature=None), "temperature=None"),
    ],
)
def test_bad_settings_are_refused_by_name(build, message):
    with pytest.raises(ValueError, match=message):
        build()
