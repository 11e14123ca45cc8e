"""Ensemble Kalman methods: inverse problems without derivatives of the forward map."""

from __future__ import annotations

import math
from typing import ClassVar, NamedTuple, Self

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, PyTree

from ...models import Target
from ...models._forward_map import InverseProblem, inverse_problem
from ...models._layout import Layout
from ...models._types import Batch, Key
from .._ensemble import (
    AbstractEnsemble,
    EnsembleInfo,
    EnsembleState,
    bound,
    particle_keys,
    particle_normals,
    require_bound,
)
from .._tempering import largest_power
from ..pairs._distance import product
from ..stein._svgd import DEFAULT_PARTICLES, check_population
from ._langevin import AbstractLangevinEnsemble, check_exceeds_dim, check_step_size, cloud_moments
from ._moments import Moments, uniform_weights


class EKS(AbstractLangevinEnsemble):
    """Ensemble Kalman sampler: Langevin dynamics of an inverse problem, gradients replaced by covariances of the cloud.

    ``dx_i = -[C_xG N^-1 (G(x_i) - y) + C P^-1 (x_i - m)] dt + (d + 1) / n (x_i - mean) dt + sqrt(2) C^(1/2) dW_i``
    with G the forward map, y the data, N the noise and P, m the prior. C_xG, the covariance of the cloud with its
    predictions, is C times the derivative of G where G is linear. Every particle is a draw at every step.

    Args:
        num_particles: more than dim + 1.
        step_size: Euler time step; the whitened posterior relaxes in time one.
        correction: whether the (d + 1) / n term is there. False is the sampler as first proposed: its cloud comes out
            too narrow, and with few particles collapses.

    Bias: for linear G of order step_size; otherwise that of one linear fit to G over the cloud. Cost: n forward maps,
    O(n (d + m)^2) per step; no derivative.

    Reference: Garbuno-Inigo, Hoffmann, Li and Stuart, Interacting Langevin diffusions: gradient structure and ensemble
    Kalman sampler, arXiv:1903.08866; with the correction: arXiv:1912.02859.
    """

    differentiates: ClassVar[bool] = False
    num_particles: int = eqx.field(static=True)
    step_size: Array
    correction: bool = eqx.field(static=True)
    target: Target | None
    layout: Layout | None

    def __init__(
        self, num_particles: int = DEFAULT_PARTICLES, *, step_size: float | Array = 0.05, correction: bool = True
    ) -> None:
        self.num_particles = check_population("EKS", num_particles, 3)
        self.step_size = check_step_size("EKS", step_size)
        self.correction = correction
        self.target, self.layout = None, None

    def bind(self, target: Target, num_warmup: int) -> Self:
        """See `AbstractSampler.bind`.

        Raises:
            ValueError: for a target that is no inverse problem, or too few particles.
        """
        _require_problem("EKS", target)
        why = "so that their covariance is invertible and the dynamics can reach every point"
        check_exceeds_dim("EKS", self.num_particles, target.dim, why)
        return bound(self, target)

    def draw_start(self, key: Key, target: Target, count: int) -> Float[Array, "count d"]:
        """See `AbstractEnsemble.draw_start`: the prior."""
        return _prior_draws(key, _require_problem("EKS", target), count)

    def drift(
        self, state: EnsembleState, alive: Bool[Array, " n"], batch: Batch | None
    ) -> tuple[Float[Array, "n d"], Moments, Bool[Array, " n"], dict[str, Array]]:
        """See `AbstractLangevinEnsemble.drift`."""
        problem, x = _require_problem("EKS", require_bound(self)[0]), state.particles
        predicted, alive = _predictions(problem, x, alive)
        cloud, shown = cloud_moments(x, alive), cloud_moments(predicted, alive)
        share = uniform_weights(alive, x.dtype)
        residual = problem.data - predicted
        pull = jax.scipy.linalg.cho_solve((jnp.asarray(problem.noise_root), True), residual.T).T
        prior = jax.scipy.linalg.cho_solve((jnp.asarray(problem.prior_root), True), (problem.prior_mean - x).T).T
        cross = product(cloud.deviations.T, share[:, None] * shown.deviations)
        drift = product(pull, cross.T) + product(prior, cloud.covariance)
        return (
            drift,
            cloud,
            alive,
            {"misfit": 0.5 * jnp.sum(jnp.where(alive[:, None], share[:, None] * residual * pull, 0.0))},
        )


class EKIMemory(NamedTuple):
    """How far the likelihood has been taken in."""

    time: Float[Array, ""]


class EKI(AbstractEnsemble):
    """Ensemble Kalman inversion: prior draws are moved by Kalman updates that take in the likelihood bit by bit.

    ``x_i += C_xG (C_GG + N / h)^-1 (y + noise_i / sqrt(h) - G(x_i))``, noise_i with covariance N. After steps h that
    sum to one the cloud approximates the posterior; if they go on, it contracts to a regularised least-squares fit.

    Args:
        num_particles: at least 3; fewer than dim + 2 search the span of the prior draws only.
        final_time: what the steps sum to: 1 for the posterior, ``math.inf`` to go on for all steps of the run.
        ess_fraction: steps are as long as leaves the likelihood's weights this effective fraction of the particles.

    Bias: none for linear forward maps as n grows; otherwise that of linear fits to G over the cloud. Cost: n forward
    maps and O(n m (d + m) + m^3) per step; no derivative.

    Reference: Iglesias, Law and Stuart, Ensemble Kalman methods for inverse problems, arXiv:1209.2736; step sizes by
    the effective sample size: De Simon, Iglesias, Jones and Wood, arXiv:1812.02033 (in spirit).
    """

    differentiates: ClassVar[bool] = False
    num_particles: int = eqx.field(static=True)
    final_time: float = eqx.field(static=True)
    ess_fraction: Array
    target: Target | None
    layout: Layout | None

    def __init__(
        self, num_particles: int = DEFAULT_PARTICLES, *, final_time: float = 1.0, ess_fraction: float = 0.5
    ) -> None:
        self.num_particles = check_population("EKI", num_particles, 3)
        if not final_time > 0 or not 0 < ess_fraction < 1:
            raise ValueError(
                f"EKI(final_time={final_time}, ess_fraction={ess_fraction}): expected a positive time (1 for the "
                "posterior) and a fraction strictly between 0 and 1."
            )
        self.final_time = float(final_time)
        self.ess_fraction = jnp.asarray(ess_fraction, jnp.result_type(float))
        self.target, self.layout = None, None

    def bind(self, target: Target, num_warmup: int) -> Self:
        """See `AbstractSampler.bind`.

        Raises:
            ValueError: for a target that is no inverse problem.
        """
        _require_problem("EKI", target)
        return bound(self, target)

    def draw_start(self, key: Key, target: Target, count: int) -> Float[Array, "count d"]:
        """See `AbstractEnsemble.draw_start`: the prior."""
        return _prior_draws(key, _require_problem("EKI", target), count)

    def prepare(self, key: Key, particles: Float[Array, "n d"]) -> EKIMemory:
        """See `AbstractEnsemble.prepare`."""
        return EKIMemory(jnp.zeros((), particles.dtype))

    def step(self, key: Key, state: EnsembleState, batch: Batch | None = None) -> tuple[EnsembleState, EnsembleInfo]:
        """One update; nothing once the final time is reached (where other clouds go on)."""
        new, info = super().step(key, state, batch)
        over = self.done(state)
        return jax.tree.map(lambda a, b: jnp.where(over, b, a), new, state), info

    def move(
        self, key: Key, state: EnsembleState, alive: Bool[Array, " n"], batch: Batch | None
    ) -> tuple[Float[Array, "n d"], EKIMemory, Bool[Array, " n"], dict[str, Array]]:
        """See `AbstractEnsemble.move`."""
        problem, x = _require_problem("EKI", require_bound(self)[0]), state.particles
        dtype, now = x.dtype, state.memory.time
        predicted, alive = _predictions(problem, x, alive)
        cloud, shown = cloud_moments(x, alive), cloud_moments(predicted, alive)
        share = uniform_weights(alive, dtype)
        residual = jnp.where(alive[:, None], problem.data - predicted, 0.0)
        whitened = jax.scipy.linalg.solve_triangular(jnp.asarray(problem.noise_root), residual.T, lower=True).T
        misfit = jnp.where(alive, 0.5 * jnp.sum(whitened**2, axis=1), jnp.inf)
        left = jnp.asarray(min(self.final_time, 1.0 / float(jnp.finfo(dtype).eps)), dtype) - now
        step = largest_power(-misfit, self.ess_fraction.astype(dtype), left)
        step = jnp.maximum(step, jnp.finfo(dtype).tiny ** 0.25)
        count = jnp.sum(alive).astype(dtype)
        unbiased = count / jnp.maximum(count - 1.0, 1.0)
        cross = unbiased * product(cloud.deviations.T, share[:, None] * shown.deviations)
        root = jnp.asarray(problem.noise_root)
        noise = product(root, root.T)
        # In units of N / h, so that tiny and huge steps are both exact.
        inner = unbiased * step * shown.covariance + noise
        normal = particle_normals(key, predicted)
        innovation = residual + product(normal, jnp.asarray(problem.noise_root).T) / jnp.sqrt(step)
        gain = jax.scipy.linalg.cho_solve((jnp.linalg.cholesky(inner), True), (step * innovation).T).T
        time = jnp.where(step >= left, now + left, now + step)
        mean_misfit = jnp.sum(jnp.where(alive, share * misfit, 0.0))
        return x + product(gain, cross.T), EKIMemory(time), alive, {"time": time, "misfit": mean_misfit}

    def done(self, state: EnsembleState) -> Array:
        """See `AbstractKernel.done`."""
        return state.memory.time >= self.final_time

    def outcome(self, state: EnsembleState) -> dict[str, Array]:
        """See `AbstractEnsemble.outcome`."""
        return {} if math.isinf(self.final_time) else {"converged": self.done(state)}

    def summary(self, records: PyTree) -> dict[str, str]:
        """Time and misfit of the last step shown."""
        if records["time"].shape[0] == 0:
            return {}
        last = {name: float(np.mean(records[name][-1])) for name in ("time", "misfit")}
        return {"time": f"{last['time']:.3g}", "misfit": f"{last['misfit']:.4g}"}


def _predictions(
    problem: InverseProblem, particles: Float[Array, "n d"], alive: Bool[Array, " n"]
) -> tuple[Float[Array, "n m"], Bool[Array, " n"]]:
    """The forward map at every particle (the data where it fails), and which particles count."""
    predicted = jax.vmap(problem.forward)(particles)
    alive = alive & jnp.all(jnp.isfinite(predicted), axis=1)
    return jnp.where(alive[:, None], predicted, problem.data), alive


def _prior_draws(key: Key, problem: InverseProblem, count: int) -> Float[Array, "count d"]:
    mean = problem.prior_mean
    normal = jax.vmap(lambda k: jax.random.normal(k, mean.shape, mean.dtype))(particle_keys(key, count))
    return jax.vmap(problem.from_noise)(normal)


def _require_problem(name: str, target: Target) -> InverseProblem:
    problem = inverse_problem(target)
    if problem is None:
        raise ValueError(
            f"{name} needs a forward map and its data, and {target.program.source} is a density. Expected "
            "pf.from_forward_map(forward, data, noise_covariance=..., prior_mean=..., prior_covariance=...); for other "
            "targets use pf.ALDI, or pf.CBS without gradients."
        )
    return problem
