"""Figures of a run that are computed as it goes, in memory that does not grow with the number of steps."""

from __future__ import annotations

from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, PyTree

from ...models._types import Batch, Key
from .._base import AbstractKernel

_BATCHES = 64
"""Batch means that are kept per scalar, at most."""


class Moments(NamedTuple):
    """Running moments of every chain, and means of consecutive batches for the autocorrelation."""

    steps: Int[Array, ""]
    mean: Float[Array, "chain d"]
    squares: Float[Array, "chain d"]
    """Sum of squared deviations from the mean."""
    products: Float[Array, "d d"]
    """Sum over chains of products of deviations from the chains' own means."""
    batches: Float[Array, "batch chain d"]
    """Means of complete batches."""
    length: Int[Array, ""]
    """Steps per batch; doubles whenever the table is full."""
    filled: Int[Array, ""]
    """Complete batches."""
    current: Float[Array, "chain d"]
    """Sum over the batch that is not complete."""


class Thinned(NamedTuple):
    """Evenly spaced draws: when the buffer is full, every other one goes and the stride doubles."""

    draws: PyTree
    stride: Int[Array, ""]
    filled: Int[Array, ""]
    seen: Int[Array, ""]


class OnlineState(NamedTuple):
    """A run and its figures."""

    inner: Any
    moments: Moments
    thinned: Thinned
    step: Int[Array, ""]


class Online(AbstractKernel):
    """A kernel that keeps figures and at most ``max_draws`` records instead of all of them.

    ``max_draws`` is even; after many steps between half of it and all of it are filled, evenly spaced over the whole
    run and in its order. Everything is part of the state, so that a resumed run gives the same figures.
    """

    kernel: AbstractKernel
    values: Any
    """Module that maps a record to the numbers whose moments are wanted, of shape (chain, d)."""
    max_draws: int = eqx.field(static=True)
    num_skipped: int = eqx.field(static=True)
    """Steps before anything is kept (warm-up)."""

    def init(self, key: Key, position: PyTree, batch: Batch | None = None) -> OnlineState:
        """See `AbstractKernel.init`."""
        return self.begin(self.kernel.init(key, position, batch))

    def begin(self, inner: Any) -> OnlineState:
        """The state in which nothing has been seen yet."""
        key = jax.random.key(0)  # For shapes only.
        record = jax.eval_shape(lambda s: self.kernel.record(*self._advance(key, s)), inner)
        # A module is compared by value where functions are remembered, which traced arrays cannot be.
        numbers = jax.eval_shape(lambda r: self.values(r), record)
        zero = jnp.zeros(numbers.shape, numbers.dtype)
        integer = jnp.zeros((), jnp.int32)
        products = jnp.zeros((zero.shape[1],) * 2, zero.dtype)
        batches = jnp.zeros((_BATCHES, *zero.shape), zero.dtype)
        moments = Moments(integer, zero, zero, products, batches, integer + 1, integer, zero)
        draws = jax.tree.map(lambda s: jnp.zeros((self.max_draws, *s.shape), s.dtype), record)
        return OnlineState(inner, moments, Thinned(draws, integer + 1, integer, integer), integer)

    def step(self, key: Key, state: OnlineState, batch: Batch | None = None) -> tuple[OnlineState, Any]:
        """One step, seen by all figures."""
        inner, info = self.kernel.step(key, state.inner, batch)
        record = self.kernel.record(inner, info)

        def see(kept: tuple[Moments, Thinned]) -> tuple[Moments, Thinned]:
            return _add(kept[0], self.values(record)), _keep(kept[1], record)

        past = state.moments, state.thinned
        moments, thinned = jax.lax.cond(state.step >= self.num_skipped, see, lambda kept: kept, past)
        return OnlineState(inner, moments, thinned, state.step + 1), info

    def minibatch(self, key: Key) -> Batch | None:
        """The kernel's own."""
        return self.kernel.minibatch(key)

    def record(self, state: OnlineState, info: Any) -> tuple[()]:
        """Nothing: what is kept is in the state."""
        return ()

    def health(self, state: OnlineState, info: Any) -> PyTree:
        """The kernel's own."""
        return self.kernel.health(state.inner, info)

    def done(self, state: OnlineState) -> Array:
        """The kernel's own."""
        return self.kernel.done(state.inner)

    def _advance(self, key: Key, inner: Any) -> tuple[Any, Any]:
        return self.kernel.step(key, inner, self.kernel.minibatch(key))


class Figures(NamedTuple):
    """What the moments say, per scalar."""

    steps: Int[Array, ""]
    """Steps seen, of every chain."""
    mean: Float[Array, " d"]
    variance: Float[Array, " d"]
    covariance: Float[Array, "d d"]
    ess: Float[Array, " d"]
    """Effective sample size of the mean, all chains together, from batch means."""
    r_hat: Float[Array, " d"]
    """Split R-hat of the chains' halves; NaN before the halves are complete."""


def without_chains(moments: Moments, kept: Int[Array, " kept"]) -> Moments:
    """The moments of some of the chains. Products are sums over all of them, and become NaN where one is left out."""
    if len(kept) == moments.mean.shape[0]:
        return moments
    return moments._replace(
        mean=moments.mean[kept],
        squares=moments.squares[kept],
        products=jnp.full_like(moments.products, jnp.nan),
        batches=moments.batches[:, kept],
        current=moments.current[kept],
    )


def figures(moments: Moments) -> Figures:
    """Pool the chains.

    The effective sample size compares the variance of batch means with what independent draws would have; it is
    reliable once a batch (1/64 to 1/32 of the run) is longer than the autocorrelation time.

    Reference: Flegal and Jones, Batch means and spectral variance estimators in MCMC, arXiv:0811.1729; Gupta and Vats,
    Estimating Monte Carlo variance from multiple Markov chains, arXiv:2007.04229 (batches about the common mean);
    Gelman and Rubin 1992 with split chains, as in arXiv:1903.08008, eq. 4.
    """
    chains = moments.mean.shape[0]
    count = moments.steps.astype(moments.mean.dtype)
    mean = jnp.mean(moments.mean, axis=0)
    between = moments.mean - mean
    total = chains * count
    covariance = (moments.products + count * _product(between.T, between)) / jnp.maximum(total - 1.0, 1.0)
    variance = (jnp.sum(moments.squares, axis=0) + count * jnp.sum(between**2, axis=0)) / jnp.maximum(total - 1.0, 1.0)
    used = (jnp.arange(_BATCHES) < moments.filled)[:, None, None]
    filled, length = moments.filled.astype(count.dtype), moments.length.astype(count.dtype)
    # About the common mean: batches of chains that sit in different modes differ, and the mean is that uncertain.
    centre = jnp.sum(jnp.where(used, moments.batches, 0.0), axis=(0, 1)) / jnp.maximum(chains * filled, 1.0)
    scatter = jnp.sum(jnp.where(used, (moments.batches - centre) ** 2, 0.0), axis=(0, 1))
    # Variance of a batch mean; independent draws would have variance / length.
    of_batches = scatter / jnp.maximum(chains * filled - 1.0, 1.0)
    ess = total * jnp.where(of_batches > 0, variance / (length * jnp.where(of_batches > 0, of_batches, 1.0)), jnp.nan)
    return Figures(moments.steps, mean, variance, covariance, ess, _split_r_hat(moments, count))


def _split_r_hat(moments: Moments, count: Float[Array, ""]) -> Float[Array, " d"]:
    half = moments.filled // 2
    index = jnp.arange(_BATCHES)[:, None, None]
    halves = [
        jnp.sum(jnp.where((index >= low) & (index < high), moments.batches, 0.0), axis=0) / jnp.maximum(half, 1)
        for low, high in ((0, half), (half, 2 * half))
    ]
    means = jnp.concatenate(halves)
    within_chain = moments.squares / jnp.maximum(count - 1.0, 1.0)
    # The variance inside a half is that of the chain less what the distance of its halves contributes.
    gap = 0.25 * (halves[0] - halves[1]) ** 2
    within = jnp.mean(jnp.maximum(within_chain - gap, 0.0), axis=0)
    r_hat = jnp.sqrt(1.0 + jnp.var(means, axis=0, ddof=1) / jnp.where(within > 0, within, jnp.nan))
    return jnp.where(half > 0, r_hat, jnp.nan)


def _product(left: Float[Array, "d chain"], right: Float[Array, "chain d"]) -> Float[Array, "d d"]:
    return jnp.matmul(left, right, precision=jax.lax.Precision.HIGHEST)


def _add(moments: Moments, x: Float[Array, "chain d"]) -> Moments:
    count = moments.steps + 1
    before = x - moments.mean
    mean = moments.mean + before / count.astype(x.dtype)
    after = x - mean
    current = moments.current + x
    complete = count % moments.length == 0
    # One slice is written in any case: into the slot that comes next, where an incomplete batch is never read.
    batches = jax.lax.dynamic_update_index_in_dim(
        moments.batches, current / moments.length.astype(x.dtype), moments.filled, 0
    )
    filled = moments.filled + complete
    full = filled == _BATCHES
    halved = jax.lax.cond(full, _merge_pairs, lambda b: b, batches)
    return Moments(
        steps=count,
        mean=mean,
        squares=moments.squares + before * after,
        products=moments.products + _product(before.T, after),
        batches=halved,
        length=jnp.where(full, 2 * moments.length, moments.length),
        filled=jnp.where(full, _BATCHES // 2, filled),
        current=jnp.where(complete, 0.0, current),
    )


def _merge_pairs(batches: Float[Array, "batch chain d"]) -> Float[Array, "batch chain d"]:
    merged = 0.5 * (batches[::2] + batches[1::2])
    return jnp.concatenate([merged, jnp.zeros_like(merged)])


def _keep(thinned: Thinned, record: PyTree) -> Thinned:
    seen = thinned.seen + 1
    due = seen % thinned.stride == 0
    draws = jax.tree.map(
        lambda b, x: jax.lax.dynamic_update_index_in_dim(b, x, thinned.filled, 0), thinned.draws, record
    )
    filled = thinned.filled + due
    size = jax.tree.leaves(draws)[0].shape[0]
    full = filled == size
    draws = jax.lax.cond(full, lambda d: jax.tree.map(_every_other, d), lambda d: d, draws)
    return Thinned(draws, jnp.where(full, 2 * thinned.stride, thinned.stride), jnp.where(full, size // 2, filled), seen)


def _every_other(draws: Array) -> Array:
    kept = draws[1::2]
    return jnp.concatenate([kept, jnp.zeros_like(kept)])
