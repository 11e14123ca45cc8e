"""Affine-invariant interacting Langevin dynamics."""

from __future__ import annotations

from typing import Self

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from ...models import Target
from ...models._layout import Layout
from ...models._types import Batch
from .._ensemble import EnsembleState, bound
from ..pairs._distance import product
from ..stein._svgd import DEFAULT_PARTICLES, check_population
from ._langevin import AbstractLangevinEnsemble, check_exceeds_dim, check_step_size, cloud_moments
from ._moments import Moments


class ALDI(AbstractLangevinEnsemble):
    """Affine-invariant interacting Langevin dynamics, with gradients.

    ``dx_i = C grad log p(x_i) dt + (d + 1) / n (x_i - mean) dt + sqrt(2) C^(1/2) dW_i`` with C the covariance (1/n) of
    the cloud. Without the middle term (``correction=False``) the cloud comes out too narrow, by a factor of about
    ``1 - (d + 1) / n``. Nothing needs to be known of the target's scales and correlations: the step size is relative
    to them. Every particle is a draw at every step.

    Args:
        num_particles: more than dim + 1; 2 dim or more mix well.
        step_size: Euler time step; the whitened posterior relaxes in time one.
        correction: False for the uncorrected system.

    Bias: of order step_size, at any number of particles above dim + 1. Cost: n gradients, O(n d^2 + d^3) per step.

    Reference: Garbuno-Inigo, Nuesken and Reich, Affine invariant interacting Langevin dynamics for Bayesian inference,
    arXiv:1912.02859; the middle term is the divergence of C.
    """

    num_particles: int = eqx.field(static=True)
    step_size: Array
    correction: bool = eqx.field(static=True)
    target: Target | None
    layout: Layout | None

    def __init__(
        self, num_particles: int = DEFAULT_PARTICLES, *, step_size: float | Array = 0.05, correction: bool = True
    ) -> None:
        self.num_particles = check_population("ALDI", num_particles, 3)
        self.step_size = check_step_size("ALDI", step_size)
        self.correction = correction
        self.target, self.layout = None, None

    def bind(self, target: Target, num_warmup: int) -> Self:
        """See `AbstractSampler.bind`.

        Raises:
            ValueError: unless there are more than dim + 1 particles.
        """
        why = "so that their covariance is invertible and the dynamics can reach every point"
        check_exceeds_dim("ALDI", self.num_particles, target.dim, why)
        return bound(self, target)

    def drift(
        self, state: EnsembleState, alive: Bool[Array, " n"], batch: Batch | None
    ) -> tuple[Float[Array, "n d"], Moments, Bool[Array, " n"], dict[str, Array]]:
        """See `AbstractLangevinEnsemble.drift`."""
        at = self.evaluate(state.particles, alive, batch)
        cloud = cloud_moments(state.particles, at.alive)
        count = jnp.maximum(jnp.sum(at.alive), 1).astype(state.particles.dtype)
        mean_lp = jnp.sum(jnp.where(at.alive, at.logdensity, 0.0)) / count
        return product(at.scores, cloud.covariance), cloud, at.alive, {"mean_lp": mean_lp}
