"""From one end of an interpolant to the other with exact weights: a learned transport as importance sampler or SMC."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, PyTree

from ...models._types import Key
from .._checks import check_key, check_positive
from .._tempering import effective_sample_size
from ._cloud import Cloud, check_threshold, log_mean_exp, new_cloud, relative_variance, resample_where_few
from ._points import check_log_density, check_points
from ._sde import Diffusion, make_diffusion
from ._times import make_times
from ._transition import Driving, Located, locate, transition

LogDensity = Callable[[Float[Array, " *event"]], Float[Array, ""]]


class Weighted(NamedTuple):
    """Weighted particles of the end that was aimed at."""

    particles: Float[Array, "n *event"]
    log_weights: Float[Array, " n"]
    """The mean of their exponentials is the estimate of the evidence."""
    log_evidence: Float[Array, ""]
    """Log of the ratio of normalising constants, of the end that was aimed at over the one of the start."""
    standard_error: Float[Array, ""]
    """Of ``log_evidence``, from this one cloud."""
    ess: Float[Array, ""]
    """Effective number of particles: ``(sum w)^2 / sum w^2`` in the end."""
    num_resampled: Int[Array, ""]
    """How many times the particles were resampled."""


def weighted(
    key: Key,
    fields: Driving,
    x: Float[Array, "n *event"],
    *,
    log_base: LogDensity,
    log_target: LogDensity,
    epsilon: Diffusion = 1.0,
    num_steps: int = 100,
    times: Any = None,
    resample: float | None = None,
    log_density: Callable[[Float[Array, ""], Float[Array, " *event"]], Float[Array, ""]] | None = None,
    reverse: bool = False,
    condition: PyTree = None,
) -> Weighted:
    """Move points with noise, and weigh each by what its path is worth.

    ``log w = log target(x_K) - log base(x_0) + sum_k log B_k / F_k`` with the Gaussian kernels of each step forward and
    backward. The weights are exact for any fields and any number of steps: for a function f of the particles
    ``E[mean(w f)] = int f target / int base``. Errors of the fields and of the discretisation cost effective particles,
    never correctness.

    With ``resample`` particles are resampled where their effective fraction falls below that threshold, by weights
    that compare them with ``log_density(t, .)`` on the way (a guess of the law of x_t up to a constant; any will do).
    The evidence estimate stays unbiased, and so does the weighted mean of f above; ratios of the two, as all
    expectations under normalised weights, have a bias of order 1 / n.

    How many steps: the log-weights of exact fields have a variance of about ``2 (int |sym grad b|_F dt)^2 / num_steps``
    where the times are spread evenly in the integral. Epsilon does not matter at this order as long as
    ``epsilon < num_steps * (smallest variance) / 10``, where the score changes little during a step; below that, the
    larger it is the better are errors of the velocity mended, which cost a variance of at most
    ``2 int E|error|^2 dt / epsilon`` (the part of the error that is a gradient counts; the bound is met once the noise
    mixes quickly).

    Args:
        key: typed key.
        fields: fields of an interpolant, or any velocity and score.
        x: independent draws of the base; with ``reverse`` of the target.
        log_base: log-density of one point at time 0, up to a constant.
        log_target: log-density of one point at time 1, up to a constant.
        epsilon: positive, a number or a function of time.
        num_steps: steps from 0 to 1, unless ``times`` are given.
        times: increasing times in [0, 1].
        resample: None, or a fraction in (0, 1].
        log_density: intermediate targets for ``resample``; by default ``fields.log_prob``.
        reverse: from the target to the base.
        condition: passed on to the fields, one leading entry per point.

    Returns:
        Particles, weights and evidence. A particle that leaves the support, or that meets a number that is not finite,
        has weight zero.

    Raises:
        ValueError: for epsilon zero, whose paths have no density (see `log_prob` for the flow's), or for resampling
            without intermediate targets or with conditions.

    Cost: ``num_steps + 1`` evaluations of velocity and score per particle; memory that of three clouds.

    Reference: He et al., FEAT: free energy estimators with adaptive transport, arXiv:2504.11516, section 3; Del Moral,
    Doucet and Jasra, Sequential Monte Carlo samplers, 2006, for the resampling.
    """
    x, condition = check_points(fields, x, condition, least=2, finite=False)
    for name, end in (("log_base", log_base), ("log_target", log_target)):
        check_log_density(name, end, x.shape[1:], x.dtype)
    epsilon = noisy(epsilon, x.dtype)
    grid = make_times(times, num_steps, x.dtype, reverse=reverse)
    if resample is not None:
        resample = check_threshold("resample", resample)
        log_density = getattr(fields, "log_prob", None) if log_density is None else log_density
        if log_density is None:
            raise ValueError(
                f"resample={resample} needs intermediate targets and {type(fields).__name__} knows no log-density: "
                "pass log_density(t, x), for instance (1 - t) log_base(x) + t log_target(x)."
            )
        if condition is not None:
            raise ValueError("condition with resample: particles of different conditions cannot replace each other.")
    ends = (log_target, log_base) if reverse else (log_base, log_target)
    return _weighted(check_key(key), fields, x, ends, epsilon, grid, resample, log_density, condition)


def noisy(epsilon: Any, dtype: Any) -> Any:
    """Epsilon above zero."""
    if callable(epsilon):
        return make_diffusion(epsilon, dtype)
    return check_positive("epsilon", epsilon, dtype, "units of variance; without noise use log_prob")


@eqx.filter_jit
def _weighted(
    key: Key,
    fields: Driving,
    x: Array,
    ends: tuple[LogDensity, LogDensity],
    epsilon: Any,
    grid: Array,
    threshold: float | None,
    log_density: Callable[[Array, Array], Array] | None,
    condition: PyTree,
) -> Weighted:
    num_steps = grid.shape[0] - 1
    key_noise, key_resample = jax.random.split(key)
    keys = (jax.random.split(key_noise, num_steps), jax.random.split(key_resample, num_steps))
    # Without resampling nobody asks for the weights on the way: the intermediate targets are left out.
    known = log_density if threshold is not None else None
    here = locate(fields, grid[0], x, condition)
    level = _over_points(known, grid[0], x)
    cloud = new_cloud(level - jax.vmap(ends[0])(x))

    def step(state: tuple[Located, Array, Cloud], interval: tuple[Array, ...]) -> tuple[tuple[Any, ...], None]:
        here, level, cloud = state
        t, end, key, key_resample = interval
        noise = jax.random.normal(key, here.points.shape, here.points.dtype)
        if threshold is not None:
            cloud, (here, level) = resample_where_few(key_resample, cloud, (here, level), threshold)
        there, log_ratio = transition(fields, epsilon, here, t, end, noise, condition)
        risen = _over_points(known, end, there.points)
        return (there, risen, cloud.gain(log_ratio + risen - level)), None

    state, _ = jax.lax.scan(step, (here, level, cloud), (grid[:-1], grid[1:], *keys))
    here, level, cloud = state
    cloud = cloud.gain(jax.vmap(ends[1])(here.points) - level)
    return Weighted(
        here.points,
        cloud.log_weights,
        log_mean_exp(cloud.log_weights),
        jnp.sqrt(relative_variance(cloud)),
        effective_sample_size(cloud.log_weights),
        cloud.num_resampled,
    )


def _over_points(log_density: Callable[[Array, Array], Array] | None, t: Array, points: Array) -> Float[Array, " n"]:
    if log_density is None:
        return jnp.zeros(points.shape[:1], points.dtype)
    return jax.vmap(log_density, (None, 0))(t, points)
