"""Steps of a one-sided path as a Markov chain of noise: what is added, and what a step back looks like."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from .._checks import check_floats
from ._path import AbstractPath

LEAST, MOST = 1e-3, 1e2
"""Signal over noise at the first time of a chain and at its last."""

_SHARES = (1.0, 0.5, 0.25, 0.1, 0.0)
"""Of a Newton step, the best of which is taken."""


class Moments(NamedTuple):
    """Mean and a square root of the covariance, which is ``root root^T``."""

    mean: Float[Array, " d"]
    root: Float[Array, "d d"]

    def log_density_of(self, noise: Float[Array, " d"]) -> Float[Array, ""]:
        """Log-density of the normal law at ``mean + root noise``; the root is lower triangular."""
        size = jnp.sum(jnp.log(jnp.diagonal(self.root)))
        return log_isotropic(noise, jnp.ones((), noise.dtype)) - size

    def log_prob(self, x: Float[Array, " d"]) -> Float[Array, ""]:
        """Log-density of the normal law; the root is lower triangular."""
        return self.log_density_of(jax.scipy.linalg.solve_triangular(self.root, x - self.mean, lower=True))


class Step(NamedTuple):
    """From ``x = c x_1 + g z`` to ``x' = c' x_1 + g' z'``, where x is x' with more noise."""

    ratio: Float[Array, ""]
    """``c / c'``."""
    lost: Float[Array, ""]
    """Variance added from x' to x: ``g^2 - ratio^2 g'^2``."""
    keep: Float[Array, ""]
    """Of x in the mean of x' given x and x_1."""
    pull: Float[Array, ""]
    """Of x_1 in it."""
    variance: Float[Array, ""]
    """Of x' given x and x_1."""

    def law(self, point: Float[Array, " d"], data: Moments) -> Moments:
        """Of x' given x, where x_1 given x is normal."""
        mean = self.keep * point + self.pull * data.mean
        spread = self.pull * data.root
        eye = jnp.eye(point.shape[0], dtype=point.dtype)
        covariance = spread @ spread.T + self.variance * eye
        return Moments(mean, jnp.linalg.cholesky(covariance))


class Nodes(NamedTuple):
    """Times of a chain, with coefficient of the data and variance of the noise; no noise follows the last."""

    time: Float[Array, " k"]
    signal: Float[Array, " k"]
    variance: Float[Array, " k"]

    def steps(self) -> Step:
        """One entry per node: the step to the next, and from the last to the data."""
        signal = jnp.concatenate([self.signal[1:], jnp.ones_like(self.signal[:1])])
        variance = jnp.concatenate([self.variance[1:], jnp.zeros_like(self.variance[:1])])
        ratio = self.signal / signal
        lost = self.variance - ratio**2 * variance
        share = lost / self.variance
        return Step(ratio, lost, ratio * variance / self.variance, share * signal, share * variance)


def make_nodes(path: AbstractPath, times: Any, num_steps: int) -> Nodes:
    """Nodes at given times, or at equal distances in the logarithm of signal over noise.

    Raises:
        ValueError: for a path that is no chain of noise.
    """
    if path.num_ends != 1:
        raise ValueError(
            f"{type(path).__name__} has {path.num_ends} ends: expected a one-sided path, on which x_t is data and "
            "noise; for others use weighted with log_target = log prior + log likelihood."
        )
    dtype = jnp.result_type(float)
    # What is known is checked in compiled code too.
    with jax.ensure_compile_time_eval():
        found = _equal(path, num_steps, dtype) if times is None else check_floats("times", times, "step")
        if not isinstance(found, jax.core.Tracer) and (np.abs(np.asarray(found) - 0.5) > 0.5).any():
            raise ValueError(f"times={np.asarray(found)}: expected increasing times within [0, 1].")
        signal = jax.vmap(path.coefficients)(found)[:, 0]
        nodes = Nodes(found, signal, jax.vmap(path.variance)(found))
        ratios = _log_ratio(path, found)
    if isinstance(ratios, jax.core.Tracer):
        return nodes
    ratio = np.asarray(ratios, np.float64)
    if not (np.isfinite(ratio).all() and (np.diff(ratio) > 0).all()):
        raise ValueError(
            f"Signal over noise of {type(path).__name__} at times {np.asarray(found)[:3]} is {np.exp(ratio[:3])}: "
            "expected it positive, finite and rising; Mirror paths and times 0 or 1 without signal or noise are none."
        )
    return nodes


def _log_ratio(path: AbstractPath, t: Array) -> Array:
    signal, variance = jax.vmap(path.coefficients)(t)[:, 0], jax.vmap(path.variance)(t)
    return jnp.log(signal) - 0.5 * jnp.log(variance)


def _equal(path: AbstractPath, num: int, dtype: Any) -> Array:
    ends = _log_ratio(path, jnp.asarray([0.0, 1.0], dtype))
    first, last = (jnp.clip(end, jnp.log(LEAST), jnp.log(MOST)) for end in ends)
    wanted = first + (last - first) * jnp.arange(num, dtype=dtype) / (num - 1)

    def halve(bounds: tuple[Array, Array], _: None) -> tuple[tuple[Array, Array], None]:
        low, high = bounds
        middle = 0.5 * (low + high)
        below = _log_ratio(path, middle) < wanted
        return (jnp.where(below, middle, low), jnp.where(below, high, middle)), None

    bounds = (jnp.zeros(num, dtype), jnp.ones(num, dtype))
    (low, high), _ = jax.lax.scan(halve, bounds, None, length=int(jnp.finfo(dtype).nmant) + 10)
    # At an end of time the wanted ratio may be met only there.
    return jnp.where(wanted <= ends[0], 0.0, jnp.where(wanted >= ends[1], 1.0, 0.5 * (low + high)))


def log_isotropic(x: Float[Array, " d"], variance: Float[Array, ""]) -> Float[Array, ""]:
    """Log-density of ``N(0, variance I)``."""
    return -0.5 * (x @ x / variance + x.shape[0] * jnp.log(2.0 * jnp.pi * variance))


def given_data(
    log_likelihood: Callable[[Float[Array, " d"]], Float[Array, ""]], free: Moments
) -> tuple[Moments, Float[Array, ""]]:
    """Moments of x_1 once it is observed, and the log of the expected likelihood.

    Both for a normal x_1 and the quadratic expansion of the log-likelihood around its mean: one Newton step to the most
    likely x_1, and Laplace's integral there. The step is shortened where the whole of it is no gain, and curvature is
    left out where the expansion is not concave enough to leave a law.
    """
    slope = jax.grad(log_likelihood)(free.mean)
    curvature = -jax.hessian(log_likelihood)(free.mean)
    eye = jnp.eye(free.mean.shape[0], dtype=free.mean.dtype)
    white = free.root.T @ curvature @ free.root
    factor = jnp.linalg.cholesky(eye + 0.5 * (white + white.T))
    factor = jnp.where(jnp.all(jnp.isfinite(factor)), factor, eye)
    root = jax.scipy.linalg.solve_triangular(factor, free.root.T, lower=True).T
    pull = jax.scipy.linalg.solve_triangular(factor.T, root.T @ slope, lower=False)
    step, cost = free.root @ pull, 0.5 * pull @ pull

    def joint(share: Array) -> Array:
        return log_likelihood(free.mean + share * step) - share**2 * cost

    shares = jnp.asarray(_SHARES, free.mean.dtype)
    gains = jax.vmap(joint)(shares)
    gains = jnp.where(jnp.isnan(gains), -jnp.inf, gains)
    best = jnp.argmax(gains)
    log_value = gains[best] - jnp.sum(jnp.log(jnp.diagonal(factor)))
    return Moments(free.mean + shares[best] * step, root), log_value
