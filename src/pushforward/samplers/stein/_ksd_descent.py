"""Descent of the kernel Stein discrepancy."""

from __future__ import annotations

import equinox as eqx
import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int

from ...models import Target
from ...models._layout import Layout
from ...models._types import Batch, Key
from .._ensemble import Evaluated
from ..engine._pairs import reduce_pairs
from ..pairs import IMQ, AbstractRadialKernel, Laplace, stein_kernel_rows
from ._flow import AbstractParticleFlow
from ._svgd import DEFAULT_PARTICLES, check_population
from ._update import AbstractUpdate, Coin, Optax


class AbstractKSDDescent(AbstractParticleFlow):
    """The direction that `KSDDescent` and `CoinKSDD` share."""

    kernel: eqx.AbstractVar[AbstractRadialKernel]

    def direction(
        self,
        key: Key,
        particles: Float[Array, "n d"],
        at: Evaluated,
        step: Int[Array, ""],
        memory: tuple[()],
        batch: Batch | None,
    ) -> tuple[Float[Array, "n d"], tuple[()], dict[str, Array]]:
        """See `AbstractParticleFlow.direction`."""
        squared_bandwidth = self.kernel.fit(particles, at.alive)
        weight = at.alive.astype(particles.dtype)
        count = jnp.maximum(jnp.sum(weight), 1.0)
        centred = particles - (weight @ particles) / count
        columns = jax.lax.stop_gradient((centred, at.scores))

        def discrepancy(x: Array, s: Array) -> Array:
            rows = reduce_pairs(stein_kernel_rows, (self.kernel, squared_bandwidth), (x, s), columns, weight=weight)
            return rows @ weight / count

        # u is symmetric: its derivative in both places is twice that in the first, which halving the square undoes.
        value, (to_points, to_scores) = jax.value_and_grad(discrepancy, argnums=(0, 1))(centred, at.scores)

        def curved(x: Array, v: Array) -> Array:
            return jax.jvp(jax.grad(lambda y: self.logdensity(y, batch)), (x,), (v,))[1]

        through_scores = jax.vmap(curved)(particles, to_scores)
        through_scores = jnp.where(at.alive[:, None], through_scores, 0.0)
        squared = jnp.maximum(value / count, 0.0)
        statistics = {"ksd": jnp.sqrt(squared), **self.kernel.statistics(squared_bandwidth)}
        return -(to_points + through_scores), (), statistics


class KSDDescent(AbstractKSDDescent):
    """Gradient descent of half the squared kernel Stein discrepancy ``1 / (2 n^2) sum_ij u(x_i, x_j)``.

    The direction is -n times the gradient, so that step sizes do not depend on n. It goes through the scores too, by
    one Hessian-vector product per particle.

    Args:
        num_particles: at least 2.
        kernel: by default `IMQ` with the median rule; smooth, so not `Laplace`.
        optimizer: an optax transformation of the ascent direction; `CoinKSDD` needs none.

    Bias: none in the limit of many particles. The objective has stationary points that are not the target: particles
    on an axis of symmetry never leave it. Start them off it, or spread them with annealed `SVGD`.
    Cost: n gradients, n Hessian-vector products and O(n^2 d) per step; memory O(n d).

    Reference: Korba, Aubin-Frankowski, Majewski and Ablin, Kernel Stein discrepancy descent, arXiv:2105.09994, eq. 7.
    """

    num_particles: int = eqx.field(static=True)
    kernel: AbstractRadialKernel
    update: AbstractUpdate
    target: Target | None
    layout: Layout | None

    def __init__(
        self,
        num_particles: int = DEFAULT_PARTICLES,
        *,
        kernel: AbstractRadialKernel | None = None,
        optimizer: optax.GradientTransformation | None = None,
    ) -> None:
        self.num_particles = check_population("KSDDescent", num_particles)
        self.kernel = check_smooth("KSDDescent", kernel)
        self.update = Optax(optax.adagrad(0.1) if optimizer is None else optimizer)
        self.target, self.layout = None, None


class CoinKSDD(AbstractKSDDescent):
    """`KSDDescent` by coin betting: no learning rate.

    Args:
        num_particles: at least 2.
        kernel: as in `KSDDescent`.
        alpha: see `Coin`.

    Reference: Sharrock and Nemeth, arXiv:2301.11294, appendix (Coin KSDD).
    """

    num_particles: int = eqx.field(static=True)
    kernel: AbstractRadialKernel
    update: AbstractUpdate
    target: Target | None
    layout: Layout | None

    def __init__(
        self,
        num_particles: int = DEFAULT_PARTICLES,
        *,
        kernel: AbstractRadialKernel | None = None,
        alpha: float = 0.0,
    ) -> None:
        self.num_particles = check_population("CoinKSDD", num_particles)
        self.kernel = check_smooth("CoinKSDD", kernel)
        self.update = Coin(alpha=alpha)
        self.target, self.layout = None, None


def check_smooth(name: str, kernel: AbstractRadialKernel | None) -> AbstractRadialKernel:
    """The kernel, by default an inverse multiquadric.

    Raises:
        ValueError: if its Stein kernel does not exist.
    """
    if kernel is None:
        return IMQ()
    if not isinstance(kernel, AbstractRadialKernel) or isinstance(kernel, Laplace):
        raise ValueError(
            f"{name}(kernel={kernel!r}): expected a radial kernel that is twice differentiable where particles meet, "
            "such as IMQ() or RBF()."
        )
    return kernel
