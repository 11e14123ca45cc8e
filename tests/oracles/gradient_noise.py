"""Gradients with noise of a known variance, and second moments over many copies and steps."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp

from pushforward.samplers.sgmcmc import AbstractGradientEstimate


class Noisy(AbstractGradientEstimate):
    """The exact gradient plus the numbers that come as the minibatch."""

    def init(self, density, x):
        return ()

    def __call__(self, density, x, batch, memory):
        return density.gradient(x) + batch


@functools.partial(jax.jit, static_argnames=("num_burn", "num_steps"))
def long_run(key, kernel, x, variance, num_burn, num_steps):
    """Mean square of every coordinate over ``num_steps`` steps, the last state, and the mean statistics."""

    def advance(state, i):
        key_step, key_noise = jax.random.split(jax.random.fold_in(key, i))
        noise = jnp.sqrt(variance) * jax.random.normal(key_noise, x.shape, x.dtype)
        return kernel.step(key_step, state, noise)

    def collect(carry, i):
        state, squares, totals = carry
        state, info = advance(state, i)
        squares = squares + kernel.position(state) ** 2
        totals = jax.tree.map(jnp.add, totals, info.statistics)
        return (state, squares, totals), None

    state = kernel.init(jax.random.fold_in(key, 2**31), x)
    state, info = jax.lax.scan(advance, state, jnp.arange(num_burn))
    zeros = jax.tree.map(lambda s: jnp.zeros(s.shape[1:], s.dtype), info.statistics)
    steps = num_burn + jnp.arange(num_steps)
    (state, squares, totals), _ = jax.lax.scan(collect, (state, jnp.zeros_like(x), zeros), steps)
    return squares / num_steps, state, jax.tree.map(lambda t: t / num_steps, totals)
