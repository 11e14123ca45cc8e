"""Inverse problems: the posterior under a diffusion prior, by particles with exact weights and the evidence."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from ...models._types import Key
from .._checks import check_count, check_key
from .._tempering import effective_sample_size
from ._cloud import Cloud, check_threshold, log_mean_exp, new_cloud, relative_variance, resample_where_few
from ._exact_fields import MixtureFields
from ._fields import AbstractFields
from ._noising import Moments, Nodes, Step, given_data, log_isotropic, make_nodes
from ._points import check_fields, check_log_density
from ._weighted import Weighted

LogLikelihood = Callable[[Float[Array, " d"]], Float[Array, ""]]
Prior = Literal["density", "chain"]


class Walker(NamedTuple):
    """One particle: where it is, what is expected of its data, and what its weight has been set against."""

    point: Float[Array, " d"]
    data: Moments
    """Of the data given the point and the observation, as far as two moments tell."""
    free: Moments
    """The same without the observation."""
    level: Float[Array, ""]
    """Logarithm of the intermediate target at the point."""


def posterior(
    key: Key,
    fields: AbstractFields,
    log_likelihood: LogLikelihood,
    *,
    dim: int,
    num_particles: int = 4096,
    num_steps: int = 100,
    times: Any = None,
    resample: float | None = 0.5,
    prior: Prior | None = None,
) -> Weighted:
    """Draw from ``prior(x) likelihood(x)`` where the prior is the data end of a one-sided interpolant.

    Noise is taken off step by step. A step draws from a normal law whose mean and covariance are those of
    ``x' | x, y`` under two moments of the data given x (the second from the derivative of the denoiser, Tweedie) and a
    quadratic expansion of the log-likelihood around their mean. Intermediate targets are the law of x_t times what
    that expansion says of the likelihood given x_t. All of this is a proposal: the weights make up for it in full, at
    any number of steps and for any likelihood. For a normal prior and a linear-normal observation nothing is left to
    make up for, and all weights are equal.

    What is exact depends on ``prior``:

    - "density": targets are ``rho_t``, and the way back is the exact noising kernel. The estimate of the evidence
      ``int prior likelihood`` is unbiased, that of expectations consistent. The fields must know ``log_prob(t, x)``.
    - "chain": the prior is by definition what the same chain makes without an observation. For fields that were learned
      from draws, which have no density that is cheap to compute.

    Args:
        key: typed key.
        fields: of a path with one end, the data, whose coefficient over noise rises with time; conditional ones as
            `FixedCondition`.
        log_likelihood: of one point. Twice differentiable.
        dim: dimension of a point.
        num_particles: at least two.
        num_steps: steps, equal in the logarithm of signal over noise from 1e-3 to 100, the last one to no noise at all;
            unless ``times`` are given.
        times: increasing times in [0, 1) at which there is signal and noise.
        resample: effective fraction of particles below which they are resampled, or None.
        prior: by default "density" where the fields know their log-density.

    Returns:
        Weighted particles of the posterior, the log evidence and its standard error.

    Raises:
        ValueError: for a path that is not of one end, or times without signal or noise.

    Bias: none beyond the above, but the expansion knows one mode. Where the likelihood has several under one x_t, as a
    sharply observed distance from a point has, the weights stay exact and become so uneven that their standard error,
    for want of the largest of them, is too small. The signs are resampling at every second step or so and a standard
    error near one; the effective number of particles in the end shows nothing, as weights start afresh whenever they
    are resampled. Then draw under a wider likelihood, and multiply the weights by the ratio of the two.

    Cost: per particle and step ``dim`` derivatives of the denoiser, a Hessian of the likelihood and ``O(dim^3)``.

    Reference: twisted diffusion sampling, Wu et al., arXiv:2306.17775, for weights under "chain"; ensemble posterior
    sampling in continuous time, Chen et al., arXiv:2506.03979, whose weights are exact only for vanishing steps.
    """
    check_fields(fields)
    dim, count = check_count("dim", dim, 1), check_count("num_particles", num_particles, 2)
    density = getattr(fields, "log_prob", None)
    prior = ("chain" if density is None else "density") if prior is None else prior
    if prior not in ("density", "chain") or (prior == "density" and density is None):
        raise ValueError(
            f"prior={prior!r} for {type(fields).__name__}: expected 'chain', or 'density' for fields with "
            "log_prob(t, x)."
        )
    threshold = None if resample is None else check_threshold("resample", resample)
    nodes = make_nodes(fields.path, times, check_count("num_steps", num_steps, 2))
    check_log_density("log_likelihood", log_likelihood, (dim,), nodes.time.dtype)
    return _posterior(check_key(key), fields, log_likelihood, nodes, threshold, dim, count, prior)


@eqx.filter_jit
def _posterior(
    key: Key,
    fields: AbstractFields,
    log_likelihood: LogLikelihood,
    nodes: Nodes,
    threshold: float | None,
    dim: int,
    count: int,
    prior: Prior,
) -> Weighted:
    dtype = nodes.time.dtype
    key_start, key_noise, key_resample = jax.random.split(key, 3)
    num_steps = nodes.time.shape[0]
    keys = (jax.random.split(key_noise, num_steps), jax.random.split(key_resample, num_steps))

    def look(node: tuple[Array, Array, Array], point: Array) -> Walker:
        time, signal, variance = node
        free = _denoise(fields, time, signal, variance, point)
        data, log_value = given_data(log_likelihood, free)
        known = fields.log_prob(time, point) if prior == "density" else jnp.zeros((), dtype)  # type: ignore[attr-defined]
        return Walker(point, data, free, known + log_value)

    def advance(key: Key, walker: Walker, step: Step) -> tuple[Array, Array]:
        chosen = step.law(walker.point, walker.data)
        noise = jax.random.normal(key, (dim,), dtype)
        point = chosen.mean + chosen.root @ noise
        log_proposal = chosen.log_density_of(noise)
        if prior == "density":
            back = log_isotropic(walker.point - step.ratio * point, step.lost)
        else:
            back = step.law(walker.point, walker.free).log_prob(point)
        return point, back - log_proposal - walker.level

    def move(
        state: tuple[Walker, Cloud], per: tuple[Step, tuple[Array, Array, Array], Key, Key]
    ) -> tuple[tuple[Walker, Cloud], None]:
        (walkers, cloud), (step, node, key, key_resample) = state, per
        if threshold is not None:
            cloud, walkers = resample_where_few(key_resample, cloud, walkers, threshold)
        points, change = jax.vmap(advance, (0, 0, None))(jax.random.split(key, count), walkers, step)
        moved = jax.vmap(look, (None, 0))(node, points)
        return (moved, cloud.gain(change + moved.level)), None

    first = (nodes.time[0], nodes.signal[0], nodes.variance[0])
    start = jnp.sqrt(first[2]) * jax.random.normal(key_start, (count, dim), dtype)
    walkers = jax.vmap(look, (None, 0))(first, start)
    spread = jax.vmap(lambda x: log_isotropic(x, first[2]))(start)
    cloud = new_cloud(walkers.level - spread if prior == "density" else walkers.level)
    steps = nodes.steps()
    inner = jax.tree.map(lambda leaf: leaf[:-1], steps)
    later = (nodes.time[1:], nodes.signal[1:], nodes.variance[1:])
    (walkers, cloud), _ = jax.lax.scan(move, (walkers, cloud), (inner, later, keys[0][:-1], keys[1][:-1]))
    if threshold is not None:
        cloud, walkers = resample_where_few(keys[1][-1], cloud, walkers, threshold)
    last = jax.tree.map(lambda leaf: leaf[-1], steps)
    points, change = jax.vmap(advance, (0, 0, None))(jax.random.split(keys[0][-1], count), walkers, last)
    final = jax.vmap(log_likelihood)(points)
    if prior == "density":
        final = final + jax.vmap(_clean_density(fields))(points)
    cloud = cloud.gain(change + final)
    return Weighted(
        points,
        cloud.log_weights,
        log_mean_exp(cloud.log_weights),
        jnp.sqrt(relative_variance(cloud)),
        effective_sample_size(cloud.log_weights),
        cloud.num_resampled,
    )


def _clean_density(fields: AbstractFields) -> Callable[[Array], Array]:
    if isinstance(fields, MixtureFields):
        return fields.mixtures[-1].log_prob
    return lambda x: fields.log_prob(jnp.ones((), x.dtype), x)  # type: ignore[attr-defined]


def _denoise(fields: AbstractFields, time: Array, signal: Array, variance: Array, point: Array) -> Moments:
    """Mean and covariance of the data given the point: the denoiser, and its derivative times variance over signal."""

    def clean(x: Array) -> tuple[Array, Array]:
        found = fields.ends(time, x)[-1]
        return found, found

    slope, mean = jax.jacfwd(clean, has_aux=True)(point)
    covariance = (0.5 * variance / signal) * (slope + slope.T)
    # Neither rounding nor a learned denoiser, whose derivative need not be one of a density, may leave a direction out.
    scale = variance / signal**2
    least = 10.0 * jnp.finfo(point.dtype).eps * scale
    eye = jnp.eye(point.shape[0], dtype=point.dtype)
    root = jnp.linalg.cholesky(covariance + least * eye)
    level = jnp.clip(jnp.trace(covariance) / point.shape[0], 1e-3 * scale, scale)
    return Moments(mean, jnp.where(jnp.all(jnp.isfinite(root)), root, jnp.sqrt(level) * eye))
