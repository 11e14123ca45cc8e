"""The variational bound of diffusion models, in finitely many steps and in continuous time."""

from __future__ import annotations

from typing import Any, Literal, NamedTuple, TypeAlias, get_args

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PyTree

from ...models._types import Key
from .._checks import check_count, check_key
from ._fields import AbstractFields
from ._path import AbstractPath

Parameterisation: TypeAlias = Literal["data", "noise", "score"]
_TABLE = 1_024
"""Times between which the log signal-to-noise ratio is interpolated, only to choose where to look."""


class DiffusionBound(NamedTuple):
    """Upper bounds on negative log-densities, in nats."""

    value: Float[Array, " n"]
    standard_error: Float[Array, " n"]
    """Monte Carlo error, as if draws were independent; as they are stratified in time it is less."""
    prior: Float[Array, ""]
    """Mean over points of the part that compares the first time with the base."""
    diffusion: Float[Array, ""]
    """Mean of the part along the path."""
    reconstruction: Float[Array, ""]
    """Mean of the part at the last time."""


class _Schedule(eqx.Module):
    """The path between two times, which is all that the bound sees of it."""

    path: AbstractPath
    start: Float[Array, ""]
    end: Float[Array, ""]
    num_steps: int | None = eqx.field(static=True)
    parameterisation: Parameterisation = eqx.field(static=True)

    def log_snr(self, t: Array) -> Array:
        """``log c^2 / gamma^2``."""
        return 2.0 * jnp.log(jnp.abs(self.path.coefficients(t)[-1])) - jnp.log(self.path.variance(t))

    def chosen(self, u: Array) -> tuple[Array, Array]:
        """A time and its weight, from a uniform number: even in the log signal-to-noise ratio, up to interpolation.

        Weights are those of the interpolated map, so that the interpolation is no bias.
        """
        grid = self.start + (self.end - self.start) * jnp.arange(_TABLE, dtype=u.dtype) / (_TABLE - 1.0)
        levels = jax.vmap(self.log_snr)(grid)

        def place(u: Array) -> Array:
            return jnp.interp(levels[0] + u * (levels[-1] - levels[0]), levels, grid)

        if self.num_steps is None:
            t, rate = jax.jvp(place, (u,), (jnp.ones_like(u),))
            return t, rate * jax.jvp(self.log_snr, (t,), (jnp.ones_like(t),))[1]
        step = jnp.minimum(jnp.floor(u * self.num_steps), self.num_steps - 1.0)
        t, after = place(step / self.num_steps), place((step + 1.0) / self.num_steps)
        return t, self.num_steps * jnp.expm1(self.log_snr(after) - self.log_snr(t))

    def error(self, fields: AbstractFields, t: Array, x: Array, noise: Array, condition: PyTree) -> Array:
        """``(c / gamma)^2 |x - E[x | x_t]|^2 = |z - E[z | x_t]|^2 = gamma^2 |s(x_t) - s(x_t | x)|^2``."""
        place = self.path.interpolate(t, (x,), noise)
        gamma = self.path.gamma(t)
        if self.parameterisation == "data":
            ratio = self.path.coefficients(t)[-1] / gamma
            return jnp.sum((ratio * (x - fields.ends(t, place, condition)[-1])) ** 2)
        if self.parameterisation == "noise":
            return jnp.sum((noise - fields.noise(t, place, condition)) ** 2)
        return jnp.sum((gamma * fields.score(t, place, condition) + noise) ** 2)

    def along(self, fields: AbstractFields, u: Array, x: Array, noise: Array, condition: PyTree) -> Array:
        """One draw of the part along the path."""
        t, weight = self.chosen(u)
        return 0.5 * weight * self.error(fields, t, x, noise, condition)

    def at_end(self, fields: AbstractFields, x: Array, noise: Array, condition: PyTree) -> Array:
        """One draw of the part at the last time."""
        level = self.log_snr(self.end)
        return 0.5 * (self.error(fields, self.end, x, noise, condition) + x.size * (jnp.log(2.0 * jnp.pi) - level))

    def at_start(self, x: Array) -> Array:
        """The part at the first time."""
        return 0.5 * jnp.exp(self.log_snr(self.start)) * jnp.sum(x**2)


def diffusion_bound(
    key: Key,
    fields: AbstractFields,
    x: Float[Array, "n *event"],
    *,
    num_steps: int | None = None,
    num_draws: int = 64,
    parameterisation: Parameterisation = "data",
    start: float = 1e-3,
    end: float = 1.0 - 1e-3,
    condition: PyTree = None,
) -> DiffusionBound:
    """Upper bound on ``-log p(x)`` of a diffusion model, an expectation over its forward process.

    With the signal-to-noise ratio ``r = c^2 / gamma^2`` at times ``t_0 < ... < t_T``, evenly spaced in log r, it is the
    sum of ``KL(x_{t_0} | base)``, of ``sum_i (r_{i+1} - r_i) E|x - E[x | x_{t_i}]|^2 / 2`` and of the negative
    log-density of x as a Gaussian around its prediction from x_{t_T}. The sum becomes an integral over r in continuous
    time. The base is the noise of time ``start``.

    With exact fields the gap to the negative log-likelihood falls like 1 / T, and in continuous time it is the
    (small) difference between the law of x given x_{t_T} and a Gaussian of variance 1 / r. Predictions of data, noise
    and score give the same number up to rounding where they are consistent.

    Args:
        key: a key.
        fields: fields of a path with one end.
        x: points at time 1.
        num_steps: T, or None for continuous time.
        num_draws: draws of time and noise per point, stratified in time; at least two.
        parameterisation: which prediction is compared with the truth.
        start: first time, with a signal-to-noise ratio above zero.
        end: last time, with noise left.
        condition: passed on to the fields, one leading entry per point.

    Returns:
        One bound per point with its Monte Carlo error, and the three parts.

    Raises:
        ValueError: for a path with two ends, or times at which there is no signal, or no noise.

    Bias: none beyond the bound. Cost: ``2 num_draws`` evaluations per point.

    Reference: Kingma, Salimans, Poole, Ho, Variational diffusion models, arXiv:2107.00630, eq. 11-18.
    """
    check_key(key)
    check_count("num_draws", num_draws, 2)
    x = jnp.asarray(x)
    schedule = make_schedule(fields.path, num_steps, parameterisation, start, end, x.dtype)
    return _bound(key, fields, schedule, x, condition, num_draws)


class DiffusionLoss(eqx.Module):
    """The part of the bound that depends on the fields, as a loss for `train`: one draw of time and noise per point.

    Args:
        num_steps: number of steps, or None for continuous time.
        parameterisation: see `diffusion_bound`.
        start: first time.
        end: last time.
    """

    num_steps: int | None = eqx.field(static=True, default=None)
    parameterisation: Parameterisation = eqx.field(static=True, default="noise")
    start: float = eqx.field(static=True, default=1e-3)
    end: float = eqx.field(static=True, default=1.0 - 1e-3)

    def __call__(
        self, key: Key, fields: AbstractFields, ends: tuple[Float[Array, "n *event"], ...], condition: PyTree = None
    ) -> Float[Array, " part"]:
        """Means over the batch of the parts along the path and at its end."""
        x = ends[-1]
        schedule = make_schedule(fields.path, self.num_steps, self.parameterisation, self.start, self.end, x.dtype)
        along, at_end = _draws(key, fields, schedule, x, condition)
        return jnp.stack([jnp.mean(along), jnp.mean(at_end)])


def make_schedule(
    path: AbstractPath, num_steps: int | None, parameterisation: Any, start: Any, end: Any, dtype: Any
) -> _Schedule:
    """A schedule checked."""
    if path.num_ends != 1:
        raise ValueError(
            f"path is {type(path).__name__}, with two ends: expected one whose base is noise, such as "
            "VariancePreserving() or OneSidedLinear()."
        )
    if parameterisation not in get_args(Parameterisation):
        raise ValueError(f"parameterisation={parameterisation!r}: expected one of {list(get_args(Parameterisation))}.")
    if num_steps is not None:
        check_count("num_steps", num_steps, 1)
    with jax.ensure_compile_time_eval():
        first, last = jnp.asarray(start, dtype), jnp.asarray(end, dtype)
        schedule = _Schedule(path, first, last, num_steps, parameterisation)
        if not any(isinstance(leaf, jax.core.Tracer) for leaf in jax.tree.leaves(path)):
            grid = first + (last - first) * jnp.linspace(0.0, 1.0, 33, dtype=dtype)
            levels = np.asarray(jax.vmap(schedule.log_snr)(grid))
            if not (0 <= start < end <= 1) or not np.isfinite(levels).all() or not (np.diff(levels) > 0).all():
                raise ValueError(
                    f"start={start}, end={end} on {type(path).__name__}: expected 0 <= start < end <= 1, between which "
                    "the signal-to-noise ratio rises from above zero to a finite number; take times further inside."
                )
    return schedule


@eqx.filter_jit
def _bound(
    key: Key, fields: AbstractFields, schedule: _Schedule, x: Array, condition: PyTree, num_draws: int
) -> DiffusionBound:
    keys = jax.random.split(key, x.shape[0])

    def one(key: Key, point: Array, condition: PyTree) -> tuple[Array, Array]:
        points = jnp.broadcast_to(point, (num_draws, *point.shape))
        given = jax.tree.map(lambda c: jnp.broadcast_to(c, (num_draws, *c.shape)), condition)
        return _draws(key, fields, schedule, points, given)

    along, at_end = jax.vmap(one)(keys, x, condition)
    prior = jax.vmap(schedule.at_start)(x)
    draws = along + at_end
    error = jnp.std(draws, axis=1, ddof=1) / num_draws**0.5
    value = prior + jnp.mean(draws, axis=1)
    return DiffusionBound(value, error, jnp.mean(prior), jnp.mean(along), jnp.mean(at_end))


def _draws(
    key: Key, fields: AbstractFields, schedule: _Schedule, x: Array, condition: PyTree
) -> tuple[Float[Array, " n"], Float[Array, " n"]]:
    """Draws of the two random parts, one per point, their times stratified over the points."""
    to_time, to_noise, to_last = jax.random.split(key, 3)
    num = x.shape[0]
    u = (jnp.arange(num, dtype=x.dtype) + jax.random.uniform(to_time, (num,), x.dtype)) / num
    noise, last = (jax.random.normal(k, x.shape, x.dtype) for k in (to_noise, to_last))

    def one(u: Array, x: Array, noise: Array, last: Array, condition: PyTree) -> tuple[Array, Array]:
        return schedule.along(fields, u, x, noise, condition), schedule.at_end(fields, x, last, condition)

    return jax.vmap(one)(u, x, noise, last, condition)
