"""Stein variational mirror descent: kernels that adapt to the geometry."""

from __future__ import annotations

import equinox as eqx
import jax.numpy as jnp
import optax
from jaxtyping import Array, Bool, Float

from ...models import Target
from ...models._layout import Layout
from .._ensemble import Evaluated
from ..pairs import AbstractRadialKernel
from ..pairs._distance import product, squared_distances
from ._mirror import Mirror, Primal
from ._mirrored import AbstractMirrored, check_radial, mirrored_direction
from ._svgd import DEFAULT_PARTICLES, check_population
from ._update import AbstractUpdate, Coin, Optax


class AbstractSVMD(AbstractMirrored):
    """The direction that `SVMD` and `CoinSVMD` share."""

    cutoff: eqx.AbstractVar[Array]
    damping: eqx.AbstractVar[Array]

    def direction(self, mirror: Mirror, primal: Primal, at: Evaluated) -> tuple[Float[Array, "n d"], dict[str, Array]]:
        """See `AbstractMirrored.direction`.

        With the Gram matrix ``G / n = E mu E'`` on the cloud, the kernel ``mean_c k^1/2(., c) H_c k^1/2(c, .)`` has
        k^1/2 / n = E mu^1/2 E'. By the Nystroem extension of its eigenfunctions, attraction and repulsion together
        are ``E mu^1/2 E' H E mu^-1/2 E'`` applied to the direction of `MirroredSVGD`.
        """
        plain, statistics = mirrored_direction(self.kernel, mirror, primal, at)
        dtype = plain.dtype
        up, down, rank = adaptive_roots(self.kernel, primal.points, at.alive, self.cutoff.astype(dtype))
        inner = mirror.metric(primal, down(plain), self.damping.astype(dtype))
        return up(jnp.where(at.alive[:, None], inner, 0.0)), {**statistics, "rank": rank}


class SVMD(AbstractSVMD):
    """Stein variational mirror descent: with one particle, mirror descent to the mode; with many, a sampler.

    The kernel ``K(x, y) = mean_c k^1/2(x, x_c) H(x_c) k^1/2(x_c, y)``, H the Hessian of the mirror map's potential,
    undoes the preconditioning of dual coordinates by H^-1, which slows `MirroredSVGD` down near the boundary.

    Args:
        num_particles: at least 2.
        kernel: k, of the constrained values; by default `IMQ` with the median rule.
        optimizer: an optax transformation; `CoinSVMD` needs none.
        cutoff: share of the Gram matrix' trace that the eigenfunctions kept stand for.
        damping: H is replaced by ``(H^-1 + damping)^-1``, which stays a valid kernel: otherwise one particle at the
            boundary, where H is infinite, outweighs all others. In squared units of the constrained values.

    Bias: directions outside the eigenfunctions kept are not moved. Cost: as `MirroredSVGD`, and O(n^3) time and O(n^2)
    memory for the eigenfunctions.

    Reference: Shi, Liu and Mackey, Sampling with mirrored Stein operators, arXiv:2106.12506, section 4.
    """

    num_particles: int = eqx.field(static=True)
    kernel: AbstractRadialKernel
    update: AbstractUpdate
    cutoff: Array
    damping: Array
    target: Target | None
    layout: Layout | None

    def __init__(
        self,
        num_particles: int = DEFAULT_PARTICLES,
        *,
        kernel: AbstractRadialKernel | None = None,
        optimizer: optax.GradientTransformation | None = None,
        cutoff: float = 0.98,
        damping: float = 1e-2,
    ) -> None:
        self.num_particles = check_population("SVMD", num_particles)
        self.kernel = check_radial("SVMD", kernel)
        self.update = Optax(optax.rmsprop(0.1) if optimizer is None else optimizer)
        self.cutoff, self.damping = check_adaptive("SVMD", cutoff, damping)
        self.target, self.layout = None, None


class CoinSVMD(AbstractSVMD):
    """`SVMD` by coin betting in dual coordinates: no learning rate.

    Args:
        num_particles: at least 2.
        kernel: as in `SVMD`.
        cutoff: as in `SVMD`.
        damping: as in `SVMD`.
        alpha: see `Coin`.

    Reference: Sharrock, Mackey and Nemeth, Learning rate free sampling in constrained domains, arXiv:2305.14943,
    appendix (Coin SVMD).
    """

    num_particles: int = eqx.field(static=True)
    kernel: AbstractRadialKernel
    update: AbstractUpdate
    cutoff: Array
    damping: Array
    target: Target | None
    layout: Layout | None

    def __init__(
        self,
        num_particles: int = DEFAULT_PARTICLES,
        *,
        kernel: AbstractRadialKernel | None = None,
        cutoff: float = 0.98,
        damping: float = 1e-2,
        alpha: float = 0.0,
    ) -> None:
        self.num_particles = check_population("CoinSVMD", num_particles)
        self.kernel = check_radial("CoinSVMD", kernel)
        self.update = Coin(alpha=alpha)
        self.cutoff, self.damping = check_adaptive("CoinSVMD", cutoff, damping)
        self.target, self.layout = None, None


class Root(eqx.Module):
    """``E mu^power E'`` on the eigenfunctions kept."""

    vectors: Float[Array, "n n"]
    powers: Float[Array, " n"]

    def __call__(self, x: Float[Array, "n d"]) -> Float[Array, "n d"]:
        """Apply it to every column."""
        return product(self.vectors * self.powers, product(self.vectors.T, x))


def adaptive_roots(
    kernel: AbstractRadialKernel, points: Float[Array, "n m"], alive: Bool[Array, " n"], cutoff: Float[Array, ""]
) -> tuple[Root, Root, Float[Array, ""]]:
    """Root and inverse root of the Gram matrix over n on the leading eigenvectors, and how many those are."""
    count = jnp.maximum(jnp.sum(alive), 1).astype(points.dtype)
    centred = jnp.where(alive[:, None], points, 0.0)
    centred = centred - jnp.sum(centred, axis=0) / count
    gram = kernel.profile(squared_distances(centred, centred), kernel.fit(points, alive)).value
    gram = jnp.where(alive[:, None] & alive[None, :], gram, 0.0) / count
    values, vectors = jnp.linalg.eigh(0.5 * (gram + gram.T))
    values, vectors = values[::-1], vectors[:, ::-1]
    before = jnp.cumsum(values) - values
    kept = (before < cutoff * jnp.sum(values)) & (values > values.shape[0] * jnp.finfo(values.dtype).eps * values[0])
    root = jnp.sqrt(jnp.where(kept, values, 1.0))
    up, down = (Root(vectors, jnp.where(kept, power, 0.0)) for power in (root, 1.0 / root))
    return up, down, jnp.sum(kept).astype(points.dtype)


def check_adaptive(name: str, cutoff: float, damping: float) -> tuple[Array, Array]:
    """Both settings as arrays.

    Raises:
        ValueError: if the cut-off is not a share or the damping is not positive.
    """
    if not 0 < cutoff <= 1 or not damping > 0:
        raise ValueError(
            f"{name}(cutoff={cutoff}, damping={damping}): expected a share of at most 1 (0.98 is usual) and a positive "
            "damping (1e-2 is usual)."
        )
    return jnp.asarray(cutoff, jnp.result_type(float)), jnp.asarray(damping, jnp.result_type(float))
