"""Metrics for matrix-valued Stein kernels, from the cloud."""

from __future__ import annotations

import abc
from collections.abc import Callable

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from ..pairs._distance import product

LogDensity = Callable[[Array], Array]


class AbstractPreconditioner(eqx.Module):
    """A positive-definite matrix M(cloud) in which distances are measured and whose inverse preconditions moves."""

    @abc.abstractmethod
    def __call__(
        self, logdensity: LogDensity, particles: Float[Array, "n d"], alive: Bool[Array, " n"]
    ) -> Float[Array, "d d"]:
        """M for the cloud."""


class AverageHessian(AbstractPreconditioner):
    """The mean over particles of ``-grad^2 log p``, with the magnitudes of its eigenvalues, none below a floor.

    Args:
        floor: least eigenvalue as a share of the largest.

    Cost: n d gradients and O(n d^2 + d^3) per step.

    Reference: Wang et al., arXiv:1910.12794, section 3.2 ("average").
    """

    floor: float = eqx.field(static=True)

    def __init__(self, *, floor: float = 1e-3) -> None:
        if not 0 < floor <= 1:
            raise ValueError(f"AverageHessian(floor={floor}): expected a share between 0 and 1, such as 1e-3.")
        self.floor = floor

    def __call__(
        self, logdensity: LogDensity, particles: Float[Array, "n d"], alive: Bool[Array, " n"]
    ) -> Float[Array, "d d"]:
        """See `AbstractPreconditioner`."""

        def curvature(sums: tuple[Array, Array], one: tuple[Array, Array]) -> tuple[tuple[Array, Array], None]:
            x, used = one
            hessian = jax.hessian(lambda y: -logdensity(y))(x)
            fine = used & jnp.all(jnp.isfinite(hessian))
            return (sums[0] + jnp.where(fine, hessian, 0.0), sums[1] + fine), None

        # One particle at a time: n d^2 numbers are never kept.
        dim = particles.shape[1]
        nothing = jnp.zeros((dim, dim), particles.dtype), jnp.zeros((), jnp.int32)
        (total, count), _ = jax.lax.scan(curvature, nothing, (particles, alive))
        total = total / jnp.maximum(count, 1).astype(particles.dtype)
        values, vectors = jnp.linalg.eigh(0.5 * (total + total.T))
        size = jnp.abs(values)
        size = jnp.maximum(size, self.floor * jnp.maximum(jnp.max(size), jnp.finfo(size.dtype).tiny))
        return product(vectors * size, vectors.T)


class EnsembleCovariance(AbstractPreconditioner):
    """The inverse of the particles' covariance, shrunk towards a multiple of the identity. Needs no derivatives.

    Args:
        shrinkage: share of the identity, strictly between 0 and 1; more where there are few particles.

    Cost: O(n d^2 + d^3) per step.

    Bias: none of its own: any positive-definite M has the same fixed points.
    """

    shrinkage: float = eqx.field(static=True)

    def __init__(self, *, shrinkage: float = 0.1) -> None:
        if not 0 < shrinkage < 1:
            raise ValueError(f"EnsembleCovariance(shrinkage={shrinkage}): expected a number between 0 and 1.")
        self.shrinkage = shrinkage

    def __call__(
        self, logdensity: LogDensity, particles: Float[Array, "n d"], alive: Bool[Array, " n"]
    ) -> Float[Array, "d d"]:
        """See `AbstractPreconditioner`."""
        weight = alive.astype(particles.dtype) / jnp.maximum(jnp.sum(alive), 1).astype(particles.dtype)
        centred = particles - weight @ particles
        covariance = product((centred * weight[:, None]).T, centred)
        dim = particles.shape[1]
        level = jnp.trace(covariance) / dim
        level = jnp.where(level > 0, level, 1.0)
        shrunk = (1.0 - self.shrinkage) * covariance + self.shrinkage * level * jnp.eye(dim, dtype=particles.dtype)
        inverse = jnp.linalg.inv(shrunk)
        return 0.5 * (inverse + inverse.T)
