"""Interacting Langevin systems, preconditioned by the covariance of their own cloud."""

from __future__ import annotations

import abc
from typing import ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, PyTree

from ...models._types import Batch, Key
from .._ensemble import AbstractEnsemble, EnsembleState, particle_normals
from ..pairs._distance import product
from ._moments import Moments, lower_root, moments, uniform_weights

_LARGEST_DRIFT = 3.0
"""In units of what the drift is in equilibrium; steps are shortened where the cloud is farther off than that."""


class AbstractLangevinEnsemble(AbstractEnsemble):
    """``dx_i = drift_i dt + c (d + 1) / n (x_i - mean) dt + sqrt(2) C^(1/2) dW_i``, C the covariance of the cloud.

    The Euler step is shortened by the factor ``min(1, 3 / r)``, r the root mean square of ``C^(-1/2) drift`` per
    coordinate: r is about one in equilibrium, and explicit steps from a cloud that is far too wide would explode.
    """

    ergodic: ClassVar[bool] = True
    step_size: eqx.AbstractVar[Array]
    correction: eqx.AbstractVar[bool]

    @abc.abstractmethod
    def drift(
        self, state: EnsembleState, alive: Bool[Array, " n"], batch: Batch | None
    ) -> tuple[Float[Array, "n d"], Moments, Bool[Array, " n"], dict[str, Array]]:
        """Drift of every particle, moments of the cloud, which particles count, statistics."""

    def prepare(self, key: Key, particles: Float[Array, "n d"]) -> tuple[()]:
        """See `AbstractEnsemble.prepare`."""
        return ()

    def move(
        self, key: Key, state: EnsembleState, alive: Bool[Array, " n"], batch: Batch | None
    ) -> tuple[Float[Array, "n d"], tuple[()], Bool[Array, " n"], dict[str, Array]]:
        """See `AbstractEnsemble.move`."""
        x = state.particles
        drift, cloud, alive, statistics = self.drift(state, alive, batch)
        count = jnp.maximum(jnp.sum(alive), 1).astype(x.dtype)
        root = lower_root(cloud.covariance)
        whitened = jax.scipy.linalg.solve_triangular(root, jnp.where(alive[:, None], drift, 0.0).T, lower=True)
        size = jnp.sqrt(jnp.sum(whitened**2) / (count * x.shape[1]))
        step = self.step_size.astype(x.dtype) * jnp.minimum(1.0, _LARGEST_DRIFT / jnp.maximum(size, 1e-30))
        if self.correction:
            drift = drift + (x.shape[1] + 1.0) / count * cloud.deviations
        noise = product(particle_normals(key, x), root.T)
        moved = x + step * drift + jnp.sqrt(2.0 * step) * noise
        return moved, (), alive, {**statistics, "step_size": step, "drift": size}

    def summary(self, records: PyTree) -> dict[str, str]:
        """Step size and size of the drift, of the last step shown."""
        if records["step_size"].shape[0] == 0:
            return {}
        last = {name: float(np.mean(records[name][-1])) for name in ("step_size", "drift")}
        return {"step size": f"{last['step_size']:.3g}", "drift": f"{last['drift']:.3g}"}


def cloud_moments(particles: Float[Array, "n d"], alive: Bool[Array, " n"]) -> Moments:
    """Moments of the living particles, equally weighted (covariance with 1/n, as the correction assumes)."""
    return moments(particles, uniform_weights(alive, particles.dtype))


def check_step_size(name: str, step_size: float | Array) -> Array:
    """A positive number as an array.

    Raises:
        ValueError: if it is none.
    """
    value = jnp.asarray(step_size)
    if isinstance(step_size, bool) or value.ndim or not (isinstance(value, jax.core.Tracer) or bool(value > 0)):
        raise ValueError(
            f"{name}(step_size={step_size!r}): expected a positive number, a time step in units in which the whitened "
            "posterior relaxes in time one; 0.05 is usual."
        )
    return value.astype(jnp.result_type(float))


def check_exceeds_dim(name: str, num_particles: int, dim: int, why: str) -> None:
    """Refuse clouds that cannot span the space.

    Raises:
        ValueError: unless ``num_particles > dim + 1``.
    """
    if num_particles <= dim + 1:
        raise ValueError(
            f"{name}(num_particles={num_particles}) for a target of {dim} unconstrained dimensions: expected more than "
            f"dim + 1 = {dim + 1} particles, {why}. Use at least {dim + 2}, better {max(2 * dim, dim + 10)}, or in "
            "high dimension a sampler that works with few particles, such as pf.SVGD or pf.NUTS."
        )
