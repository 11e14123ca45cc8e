"""Samplers that draw from something else than the posterior by design: what they draw from is known."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from registry_sgmcmc import lyapunov, structured
from tiers import fast

import pushforward as pf
from pushforward.samplers import Chains
from pushforward.samplers.sgmcmc._structured import block_labels

COVARIANCE = np.array([[1.0, 0.5, 0.3], [0.5, 0.9, 0.1], [0.3, 0.1, 0.7]])
PRECISION = np.linalg.inv(COVARIANCE)
MEAN = np.array([1.0, -2.0, 0.5])


def gaussian():
    precision, mean = jnp.asarray(PRECISION, "float32"), jnp.asarray(MEAN, "float32")

    def logdensity(p):
        d = jnp.concatenate([p["a"], p["b"]]) - mean
        return -0.5 * d @ precision @ d

    return pf.from_logdensity(logdensity, {"a": jnp.zeros(1, "float32"), "b": jnp.zeros(2, "float32")})


@pytest.mark.parametrize(("draws", "eta"), [("smoothed", 0.5), ("smoothed", 0.01), ("posterior", 0.5)])
def test_entropy_mcmc_draws_from_the_smoothed_posterior(draws, eta, getkey, figure):
    """Sigma + eta I for the guide, Sigma for the position, within 2 % of the largest variance.

    A step is linear in position and guide: its matrix is its derivative, its noise is measured with independent keys,
    and the two give the stationary covariance without a chain that would have to be long.
    """
    sampler = pf.EntropyMCMC(0.004, eta=eta, draws=draws).bind(gaussian(), 0)
    at_mean = sampler.init(getkey(), jnp.asarray(MEAN, "float32"))

    def step(joint, key):
        new, _ = sampler.step(key, at_mean._replace(position=joint[0], dynamics=joint[1]))
        return jnp.stack([new.position, new.dynamics])

    start = jnp.stack([at_mean.position, at_mean.dynamics])
    matrix = np.asarray(jax.jacobian(step)(start, getkey())).reshape(6, 6)
    moved = jax.jit(jax.vmap(step, (None, 0)))(start, jax.random.split(getkey(), 400_000))
    noise = np.cov(np.asarray(moved, float).reshape(-1, 6).T)
    joint = lyapunov(matrix, noise)
    covariance = joint[3:, 3:] if draws == "smoothed" else joint[:3, :3]
    expected = COVARIANCE + (eta * np.eye(3) if draws == "smoothed" else 0)
    error = float(np.max(np.abs(covariance - expected)) / np.max(expected))
    figure(f"Entropy-MCMC, {draws}, eta = {eta}: covariance, largest relative error", error, "0.02")
    assert error < 0.02, covariance
    elsewhere = at_mean._replace(dynamics=2 * start[1])
    np.testing.assert_array_equal(sampler.position(elsewhere), start[0] * (2 if draws == "smoothed" else 1))


def moments(key, sampler, num_chains, num_burn, num_steps):
    """Mean and covariance over chains and steps, started at the posterior's mean."""
    chains = Chains(sampler.bind(gaussian(), 0), num_chains)

    @jax.jit
    def go(key):
        state = chains.init(jax.random.fold_in(key, 2**31), jnp.tile(jnp.asarray(MEAN, "float32"), (num_chains, 1)))

        def advance(carry, i):
            state, total, products = carry
            state, _ = chains.step(jax.random.fold_in(key, i), state)
            d = jax.vmap(sampler.position)(chains.inner(state)) - jnp.asarray(MEAN, "float32")
            keep = (i >= num_burn).astype(d.dtype)
            return (state, total + keep * jnp.mean(d, 0), products + keep * (d.T @ d) / num_chains), None

        zero = jnp.zeros(3, "float32"), jnp.zeros((3, 3), "float32")
        (_, total, products), _ = jax.lax.scan(advance, (state, *zero), jnp.arange(num_burn + num_steps))
        return total / num_steps, products / num_steps

    mean, square = go(key)
    return np.asarray(mean), np.asarray(square) - np.outer(mean, mean)


def dropped(eps, keep, label):
    """Second moments of the dropout form, its mask summed over and x' an independent copy of x."""
    one, current = np.eye(3), COVARIANCE
    masks = [np.array([first, second])[label] for first in (0, 1) for second in (0, 1)]
    for _ in range(3000):
        total = 2 * eps * one
        for mask in masks:
            weight = np.prod([keep if m else 1 - keep for m in (mask[0], mask[1])])
            pull = eps * np.diag(mask / keep) @ PRECISION
            own, past = one - pull @ np.diag(mask), pull @ np.diag(1 - mask)
            total = total + weight * (own @ current @ own.T + past @ current @ past.T)
        current = total
    return current


@pytest.mark.parametrize("keep", fast([None, 0.5], None))
def test_structured_sampling_reaches_the_block_independent_optimum(keep, getkey, figure):
    """Blocks {a}, {b}: covariance blocks inv(P_bb) without dropout, inv of P with weakened off-diagonals with it.

    Against the exact second moments at this step size within 5 % of the largest variance (four standard errors), and
    their limit for small steps within 10 %.
    """
    eps, label = 0.05, np.array([0, 1, 1])
    limit = np.linalg.inv(np.where(label[:, None] == label, PRECISION, (keep or 0.0) * PRECISION))
    exact = structured(eps, [[0], [1, 2]])(COVARIANCE) if keep is None else dropped(eps, keep, label)
    sampler = pf.StructuredSGLD(eps, dropout=keep, memory=100, stride=20)
    mean, covariance = moments(getkey(), sampler, 128, 2000, 4000)
    error = float(np.max(np.abs(covariance - exact)) / np.max(exact))
    figure(
        f"Structured SG-MCMC, dropout {keep}: covariance against that of its recursion, largest error", error, "0.05"
    )
    assert error < 0.05, (covariance, exact)
    assert np.max(np.abs(covariance - limit)) / np.max(limit) < 0.1, (covariance, limit)
    np.testing.assert_allclose(mean, 0.0, atol=0.05)
    # Far from the posterior itself.
    assert np.max(np.abs(limit - COVARIANCE)) / np.max(limit) > 0.2


def test_blocks_by_site_group_coordinate_and_label():
    layout = pf.StructuredSGLD(0.1).bind(gaussian(), 0).layout
    np.testing.assert_array_equal(block_labels(layout, None), [0, 1, 1])
    np.testing.assert_array_equal(block_labels(layout, "coordinates"), [0, 1, 2])
    np.testing.assert_array_equal(block_labels(layout, [["b"]]), [1, 0, 0])
    np.testing.assert_array_equal(block_labels(layout, [["a", "b"]]), [0, 0, 0])
    np.testing.assert_array_equal(block_labels(layout, np.array([7, 3, 7])), [1, 0, 1])
    for bad in ([["c"]], [["a"], ["a"]], np.zeros(2, int), np.zeros(3), "sites", []):
        with pytest.raises(ValueError, match="blocks"):
            block_labels(layout, bad)


def test_memory_takes_in_an_iterate_per_stride(getkey):
    """After 6 steps of stride 2 it holds the start and what it was given at steps 2, 4 and 6, and nothing else."""
    sampler = pf.StructuredSGLD(0.1, memory=50, stride=2).bind(gaussian(), 0)
    state = sampler.init(getkey(), jnp.zeros(3, "float32"))
    step = jax.jit(lambda k, s: sampler.step(k, s)[0])
    visited = []
    for _ in range(6):
        state = step(getkey(), state)
        visited.append(np.asarray(state.position))
    held = np.unique(np.asarray(state.dynamics.reservoir), axis=0)
    for x in held:
        assert any(np.array_equal(x, given) for given in (np.zeros(3), *visited[1::2]))
    assert any(np.array_equal(x, visited[-1]) for x in held)


def test_every_cycle_explores_before_it_draws(getkey):
    """A step that opens a cycle climbs first: its draw is near the mode wherever the cycle before ended."""
    target = pf.from_logdensity(lambda x: -0.5 * jnp.sum(x**2), jnp.zeros(200))
    sampler = pf.CyclicalSGLD(0.4, cycle_length=100, exploration=0.6).bind(target, 0)
    assert sampler.step_size.draws == 40
    state = sampler.init(getkey(), jnp.full(200, 50.0))
    step = jax.jit(lambda k, s: sampler.step(k, s))
    sizes, spread = [], []
    for i in range(80):
        state, info = step(jax.random.fold_in(getkey(), i), state)
        sizes.append(float(info.step_size))
        spread.append(float(jnp.std(state.position)))
    np.testing.assert_allclose(sizes[:40], 0.2 * (1 + np.cos(np.pi * np.arange(60, 100) / 100)), rtol=1e-6)
    np.testing.assert_allclose(sizes[40:], sizes[:40], rtol=1e-6)
    # Without noise the climb forgets 50 and the earlier draws alike; one drawing step then adds 2 eps of variance.
    assert spread[0] == pytest.approx(np.sqrt(2 * sizes[0]), rel=0.2)
    assert spread[40] == pytest.approx(np.sqrt(2 * sizes[0]), rel=0.2)
    assert spread[39] > 1.3 * spread[40]
