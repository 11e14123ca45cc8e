"""Log ratios of normalising constants from work: one-sided, two-sided, and bounds that hold in expectation."""

from __future__ import annotations

from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PyTree

from ...models._types import Key
from .._checks import check_key
from ._cloud import log_mean_exp, new_cloud, relative_variance
from ._sde import Diffusion
from ._transition import Driving
from ._weighted import LogDensity, Weighted, weighted

NORMAL_95 = 1.959963984540054


class Estimate(NamedTuple):
    """A number with the standard error it was measured with."""

    value: Float[Array, ""]
    standard_error: Float[Array, ""]

    @property
    def interval(self) -> tuple[Float[Array, ""], Float[Array, ""]]:
        """What covers the truth with probability 95 %, as far as the estimate is normal."""
        return self.value - NORMAL_95 * self.standard_error, self.value + NORMAL_95 * self.standard_error


class FreeEnergy(NamedTuple):
    """Estimates of log Z_target - log Z_base."""

    bennett: Estimate
    """Of the least variance that forward and backward work together allow."""
    forward: Estimate
    """``log mean exp`` of forward log-weights (Jarzynski). Its exponential is unbiased."""
    backward: Estimate
    """``-log mean exp`` of backward log-weights."""
    lower: Estimate
    """Mean of forward log-weights: a lower bound in expectation."""
    upper: Estimate
    """Minus the mean of backward log-weights: an upper bound in expectation."""
    overlap: Float[Array, ""]
    """Between 0 and 1, the share of forward and backward paths that could be either: twice the mean over both sides
    of p (1 - p), over that of two equal laws. Below about 0.03 the standard errors cannot be trusted."""


def log_evidence(
    key: Key,
    fields: Driving,
    base: Float[Array, "n *event"],
    target: Float[Array, "m *event"],
    *,
    log_base: LogDensity,
    log_target: LogDensity,
    epsilon: Diffusion = 1.0,
    num_steps: int = 100,
    times: Any = None,
    condition: PyTree = None,
) -> FreeEnergy:
    """Log ratio of normalising constants of two densities that can both be drawn from.

    Particles of the base are moved to the target, and particles of the target to the base, each with the exact weights
    of `weighted`; the two sets of work are combined. Where the target cannot be drawn from, `weighted` alone gives the
    forward estimate.

    Args:
        key: typed key.
        fields: fields of an interpolant, or any velocity and score.
        base: independent draws of the base.
        target: independent draws of the target; their number may differ.
        log_base: log-density of one point at time 0, up to the constant that is wanted.
        log_target: the same at time 1.
        epsilon: positive, a number or a function of time.
        num_steps: steps from 0 to 1, unless ``times`` are given.
        times: increasing times in [0, 1].
        condition: passed on to the fields, the same for all points.

    Returns:
        All estimates with standard errors. They are consistent whatever the fields and the number of steps are.

    Cost: ``(n + m) (num_steps + 1)`` evaluations of the fields.

    Reference: He et al., FEAT, arXiv:2504.11516, section 3; Bennett, Efficient estimation of free energy differences
    from Monte Carlo data, 1976.
    """
    key_forward, key_backward = jax.random.split(check_key(key))
    settings: dict[str, Any] = {"epsilon": epsilon, "num_steps": num_steps, "times": times}

    def run(key: Key, x: Any, *, reverse: bool) -> Weighted:
        x = jnp.asarray(x)
        given = jax.tree.map(lambda leaf: jnp.broadcast_to(leaf, (x.shape[0], *jnp.shape(leaf))), condition)
        ends: dict[str, Any] = {"log_base": log_base, "log_target": log_target, "reverse": reverse}
        return weighted(key, fields, x, condition=given, **ends, **settings)

    forward, backward = run(key_forward, base, reverse=False), run(key_backward, target, reverse=True)
    return free_energy(forward.log_weights, backward.log_weights)


def free_energy(forward: Float[Array, " n"], backward: Float[Array, " m"]) -> FreeEnergy:
    """Combine log-weights of forward and of backward paths.

    Args:
        forward: ``log dP_backward / dP_forward`` plus the log ratio of constants that is wanted, on paths of the base.
        backward: ``log dP_forward / dP_backward`` minus that ratio, on paths from the target. Minus infinity stands for
            a path that the other direction cannot take.

    Returns:
        All estimates. Bennett's C solves ``sum_i expit(W_i - C - M) = sum_j expit(V_j + C + M)``, ``M = log(n / m)``;
        it is found by bisection between the extremes of W and -V, which bracket it, and its standard error is that of
        an estimating equation, so that each side counts with its own variance.

    Raises:
        ValueError: for fewer than two weights on a side.

    Reference: Bennett, 1976; Shirts, Bair, Hooker and Pande, Equilibrium free energies from nonequilibrium measurements
    using maximum-likelihood methods, 2003, eq. 8.
    """
    checked = []
    for name, value in (("forward", forward), ("backward", backward)):
        found = jnp.asarray(value)
        if found.ndim != 1 or found.shape[0] < 2 or not jnp.issubdtype(found.dtype, jnp.floating):
            raise ValueError(
                f"{name} has shape {found.shape} and dtype {found.dtype}: expected at least two log-weights, shape "
                "(n,), in floating-point numbers."
            )
        checked.append(found)
    return _free_energy(*checked)


@eqx.filter_jit
def _free_energy(forward: Array, backward: Array) -> FreeEnergy:
    bennett, overlap = _bennett(forward, backward)
    ahead, back = _jarzynski(forward), _jarzynski(backward)
    low, high = _mean(forward), _mean(backward)
    return FreeEnergy(bennett, ahead, back._replace(value=-back.value), low, high._replace(value=-high.value), overlap)


def _jarzynski(logs: Array) -> Estimate:
    cloud = new_cloud(logs)
    return Estimate(log_mean_exp(cloud.log_weights), jnp.sqrt(relative_variance(cloud)))


def _mean(logs: Array) -> Estimate:
    return Estimate(jnp.mean(logs), jnp.std(logs, ddof=1) / logs.shape[0] ** 0.5)


def _bennett(forward: Array, backward: Array) -> tuple[Estimate, Array]:
    count, other = forward.shape[0], backward.shape[0]
    shift = jnp.log(jnp.asarray(count / other, forward.dtype))
    values = jnp.concatenate([forward, -backward])
    finite = jnp.isfinite(values)
    # Weights of zero on either side move the root out of the range of the others by at most these logarithms.
    low = jnp.min(jnp.where(finite, values, jnp.inf)) - jnp.log(jnp.asarray(2.0 * count, values.dtype))
    high = jnp.max(jnp.where(finite, values, -jnp.inf)) + jnp.log(jnp.asarray(2.0 * other, values.dtype))

    def sides(value: Array) -> tuple[Array, Array]:
        return jax.nn.sigmoid(forward - value - shift), jax.nn.sigmoid(backward + value + shift)

    def halve(bounds: tuple[Array, Array], _: None) -> tuple[tuple[Array, Array], None]:
        low, high = bounds
        middle = 0.5 * (low + high)
        # In logarithms: far from the root both sums can be below the smallest number.
        ahead = jax.nn.logsumexp(jax.nn.log_sigmoid(forward - middle - shift))
        back = jax.nn.logsumexp(jax.nn.log_sigmoid(backward + middle + shift))
        rise = ahead > back
        return (jnp.where(rise, middle, low), jnp.where(rise, high, middle)), None

    steps = jnp.finfo(values.dtype).nmant + 20
    (low, high), _ = jax.lax.scan(halve, (low, high), None, length=steps)
    value = 0.5 * (low + high)
    ahead, back = sides(value)
    shared = jnp.sum(ahead * (1.0 - ahead)) + jnp.sum(back * (1.0 - back))
    spread = count * jnp.var(ahead, ddof=1) + other * jnp.var(back, ddof=1)
    most = count * other / (count + other)
    return Estimate(value, jnp.sqrt(spread) / shared), shared / most
