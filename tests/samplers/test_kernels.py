"""The shared suite over all samplers: moments, keys, resumption, isolation, structure."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import registry
import scipy.stats
from arviz_stats.base import array_stats
from tiers import fast

import pushforward as pf
from pushforward.samplers import AbstractEnsemble, Chains
from pushforward.samplers.pairs import RBF

FAMILY_WISE_ALPHA = 1e-6
CHAINS = [name for name, case in registry.KERNELS.items() if case.exact or case.covariance]
CLOUDS = [name for name, case in registry.KERNELS.items() if case.cloud]
POINTS = [name for name, case in registry.KERNELS.items() if case.point]


def tiered(names):
    """Cases that share their mechanisms with others run in the slow tier."""
    names = list(names)
    return fast(names, *[n for n in names if not registry.KERNELS[n].slow])


# One of each kind: chains with and without momentum, with a memory; a flow and its coin form; a Langevin ensemble; SMC.
KINDS = ("SGLD", "SGHMC", "StructuredSGLD", "SVGD", "CoinSVGD", "ALDI")


def by_kind(names):
    """What the base classes do is shown on one sampler of each kind in the fast tier."""
    names = list(names)
    return fast(names, *[n for n in names if n in KINDS])


def draws_of(posterior):
    """Draws of shape (chain, draw, dim)."""
    parts = [np.asarray(x) for x in posterior.data["posterior"].data_vars.values()]
    return np.concatenate([p.reshape(*p.shape[:2], -1) for p in parts], axis=-1)


def test_every_sampler_is_checked_against_moments():
    assert set(CHAINS) | set(CLOUDS) | set(POINTS) == set(registry.KERNELS)


@pytest.mark.parametrize("name", CHAINS)
def test_moments_of_a_correlated_gaussian(name, getkey):
    """Means and all second moments by z-tests with MCMC standard errors; 9 tests at a family-wise rate of 1e-6."""
    case = registry.KERNELS[name]
    posterior = pf.sample(
        registry.gaussian_target(),
        case.build(),
        key=getkey(),
        num_steps=case.num_steps,
        num_warmup=case.num_warmup,
        num_chains=4,
        progress=False,
    )
    limit = scipy.stats.norm.isf(FAMILY_WISE_ALPHA / 18)
    centred = draws_of(posterior) - registry.MEAN
    covariance = registry.COVARIANCE if case.exact else case.covariance(registry.COVARIANCE)
    for i in range(3):
        z = centred[..., i].mean() / array_stats.mcse(centred[..., i], method="mean")
        assert abs(z) < limit
        for j in range(i + 1):
            product = centred[..., i] * centred[..., j]
            z = (product.mean() - covariance[i, j]) / array_stats.mcse(product, method="mean")
            assert abs(z) < limit, (i, j, product.mean(), covariance[i, j])
    assert posterior.verdict.status == "ok", posterior.verdict.reasons


@pytest.mark.parametrize("name", tiered(CLOUDS))
def test_cloud_has_the_moments_of_a_correlated_gaussian(name, getkey):
    """Means within 0.1 sd, correlations within 0.1, variances in the range that the registry states."""
    case = registry.KERNELS[name]
    target = registry.target_for(name)
    kernel = case.build()
    warmup = case.num_warmup if kernel.ergodic else 0
    posterior = pf.sample(target, kernel, key=getkey(), num_steps=case.num_steps, num_warmup=warmup, progress=False)
    # Of ergodic ensembles, every particle is a chain.
    x = draws_of(posterior).reshape(-1, case.dim)
    mean, covariance = registry.MEAN[: case.dim], registry.COVARIANCE[: case.dim, : case.dim]
    sd = np.sqrt(np.diag(covariance))
    np.testing.assert_allclose((x.mean(0) - mean) / sd, 0, atol=0.1)
    ratio = x.var(0) / sd**2
    assert case.cloud[0] < ratio.min(), ratio
    assert ratio.max() < case.cloud[1], ratio
    np.testing.assert_allclose(np.corrcoef(x.T), covariance / np.outer(sd, sd), atol=0.1)


@pytest.mark.parametrize("name", POINTS)
def test_cloud_finds_the_mode_of_a_correlated_gaussian(name, getkey):
    case = registry.KERNELS[name]
    posterior = pf.sample(
        registry.gaussian_target(), case.build(), key=getkey(), num_steps=case.num_steps, progress=False
    )
    np.testing.assert_allclose(draws_of(posterior)[0, 0], registry.MEAN, atol=1e-3)
    assert posterior.kind == "point"
    assert posterior.verdict.status == "ok", posterior.verdict.reasons


@pytest.mark.parametrize("name", by_kind(registry.KERNELS))
def test_same_key_same_bits_and_resumed_bit_for_bit(name, getkey, tmp_path):
    """A run of 30 steps, and one that stops after 12 and goes on from its file."""
    case, key = registry.KERNELS[name], getkey()
    target = registry.target_for(name)
    settings = {"key": key, "num_warmup": 4 if case.exact else 0, "num_chains": 2, "progress": False}
    whole = pf.sample(target, case.build(), num_steps=30, **settings)
    pf.sample(target, case.build(), num_steps=12, checkpoint=tmp_path / "run", **settings)
    again = pf.resume(tmp_path / "run", num_steps=30, progress=False)
    np.testing.assert_array_equal(draws_of(whole), draws_of(again))
    other = pf.sample(target, case.build(), num_steps=30, **{**settings, "key": jax.random.fold_in(key, 1)})
    assert not np.any(draws_of(whole) == draws_of(other))


@pytest.mark.parametrize("name", by_kind(n for n, case in registry.KERNELS.items() if not case.inverse))
@pytest.mark.parametrize("double", fast([False, True], True))
def test_structure_and_dtype_never_change(name, double, getkey):
    """State in, state out: same tree, shapes and dtypes, those of the position; eager and compiled steps agree."""
    with jax.enable_x64(double):
        check_structure(registry.KERNELS[name], "float64" if double else "float32", getkey)


def check_structure(case, dtype, getkey):
    target = pf.from_logdensity(lambda x: -0.5 * jnp.sum(x**2), jnp.zeros(2, dtype))
    kernel = case.build().bind(target, 10)
    shape = (kernel.num_particles, 2) if isinstance(kernel, AbstractEnsemble) else (2,)
    state = kernel.init(getkey(), jax.random.normal(getkey(), shape, dtype))
    key = getkey()
    new, info = jax.jit(lambda k, s: kernel.step(k, s))(key, state)
    assert jax.tree.structure(new) == jax.tree.structure(state)
    assert [(x.shape, x.dtype) for x in jax.tree.leaves(new)] == [(x.shape, x.dtype) for x in jax.tree.leaves(state)]
    assert kernel.position(new).dtype == dtype
    assert bool(jnp.all(jnp.isfinite(kernel.position(new))))
    if not case.exact:
        eager, _ = kernel.step(key, state)
        tolerance = 1e-10 if dtype == "float64" else 1e-4
        np.testing.assert_allclose(kernel.position(eager), kernel.position(new), rtol=tolerance, atol=tolerance)
    assert set(kernel.statistics(new, info)) == set(kernel.statistics(state, info))


@pytest.mark.parametrize(
    "name", by_kind(n for n, case in registry.KERNELS.items() if not case.exact and not case.inverse)
)
def test_what_is_not_finite_is_isolated_and_named(name, getkey):
    """A wall of NaN in the density: whatever crosses it rests at its last good place, and the verdict names it."""

    def walled(x):
        return jnp.where(x > 3.0, jnp.nan, -0.5 * (x - 1.0) ** 2)

    target = pf.from_logdensity(walled, jnp.zeros(()))
    kernel = registry.KERNELS[name].build().bind(target, 0)
    ensemble = isinstance(kernel, AbstractEnsemble)
    count = kernel.num_particles if ensemble else 8
    x = jax.random.uniform(getkey(), (count, 1), minval=-1.0, maxval=2.0)
    keys = jax.random.split(getkey(), 2)

    def after_two_steps(start):
        chains = Chains(kernel, 1 if ensemble else start.shape[0])
        step = jax.jit(lambda k, s: chains.step(k, s))
        state = chains.init(keys[0], start[None] if ensemble else start)
        for key in keys:
            state, _ = step(key, state)
        inner = chains.inner(state)
        failed = inner.failed_step if ensemble else state.failed_step
        return np.ravel(jax.vmap(kernel.position)(inner)), np.ravel(failed)

    position, failed = after_two_steps(x.at[-1].set(3.5))
    alone, none_failed = after_two_steps(x[:-1])
    assert (none_failed == -1).all()
    assert failed[-1] == 0
    assert (failed[:-1] == -1).all()
    assert position[-1] == 3.5
    # The others go on as if it had never been there.
    np.testing.assert_allclose(position[:-1], alone, rtol=1e-12)


def test_the_verdict_names_what_was_isolated(getkey):
    """A chain and a particle that start on a steep slope next to a wall of NaN."""

    def logdensity(x):
        return jnp.where(x > 30.0, jnp.nan, jnp.where(x > 20.0, 1e6 * x, -0.5 * x**2))

    target = pf.from_logdensity(logdensity, jnp.zeros(()))
    start = jnp.asarray([0.0, 1.0, 25.0, -1.0])
    chains = pf.sample(target, pf.SGLD(0.1), key=getkey(), num_steps=50, num_chains=4, init=start, progress=False)
    # So narrow a kernel that the steep slope does not move the others.
    flow = pf.SVGD(4, kernel=RBF(0.1), optimizer=optax.sgd(1.0))
    cloud = pf.sample(target, flow, key=getkey(), num_steps=5, init=start, progress=False)
    for posterior, what in ((chains, "chain 2 at step 1"), (cloud, "particle 2 at step 1")):
        assert posterior.verdict.status == "doubtful"
        assert any(what in reason for reason in posterior.verdict.reasons), posterior.verdict.reasons
    assert chains.data["posterior"].sizes["chain"] == 3
    assert cloud.data["posterior"].sizes["draw"] == 3


def test_a_run_without_a_sound_chain_stops_and_says_where(getkey):
    target = pf.from_logdensity(lambda x: jnp.where(x > 0.0, jnp.nan, 1e6 * x), jnp.zeros(()))
    with pytest.raises(pf.NonFiniteError, match="SGLD stopped at step 1"):
        pf.sample(target, pf.SGLD(1.0), key=getkey(), num_steps=5, num_chains=2, init=-jnp.ones(2), progress=False)


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: pf.SGLD(-1.0), "step_size=-1.0"),
        (lambda: pf.SGLD(0.1, temperature=-1.0), "temperature=-1.0"),
        (lambda: pf.SVGD(1), "num_particles=1"),
        (lambda: pf.SVGD(10, optimizer=0.1), "expected an optax transformation"),
        (lambda: pf.CoinSVGD(10, alpha=-1.0), "alpha=-1.0"),
    ],
)
def test_bad_settings_are_refused_by_name(build, message):
    with pytest.raises(ValueError, match=message):
        build()
