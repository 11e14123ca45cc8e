"""Stein flows in the dual coordinates of a mirror map."""

from __future__ import annotations

import abc
from typing import Any, Self

import equinox as eqx
import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Bool, Float

from ...models import Target
from ...models._layout import Layout
from ...models._types import Batch, Key
from .._ensemble import AbstractEnsemble, EnsembleState, Evaluated, bound, require_bound
from ..engine._pairs import reduce_pairs
from ..pairs import IMQ, AbstractRadialKernel
from ..pairs._distance import product, squared_distances
from ._flow import FlowMemory, flow_statistics, flow_summary
from ._mirror import Mirror, Primal, dual_logdensity
from ._svgd import DEFAULT_PARTICLES, check_population
from ._update import AbstractUpdate, Coin, Optax


class AbstractMirrored(AbstractEnsemble):
    """Particles that move in dual coordinates, so that none can leave the support."""

    kernel: eqx.AbstractVar[AbstractRadialKernel]
    update: eqx.AbstractVar[AbstractUpdate]

    @abc.abstractmethod
    def direction(self, mirror: Mirror, primal: Primal, at: Evaluated) -> tuple[Float[Array, "n d"], dict[str, Array]]:
        """Direction of every particle in dual coordinates, and statistics. The dead weigh nothing."""

    def bind(self, target: Target, num_warmup: int) -> Self:
        """See `AbstractSampler.bind`."""
        sampler = bound(self, target)
        Mirror.of(*require_bound(sampler))
        return sampler

    def prepare(self, key: Key, particles: Float[Array, "n d"]) -> FlowMemory:
        """See `AbstractEnsemble.prepare`."""
        return FlowMemory(self.update.init(Mirror.of(*require_bound(self)).to_dual(particles)), ())

    def move(
        self, key: Key, state: EnsembleState, alive: Bool[Array, " n"], batch: Batch | None
    ) -> tuple[Float[Array, "n d"], FlowMemory, Bool[Array, " n"], dict[str, Array]]:
        """See `AbstractEnsemble.move`."""
        target, layout = require_bound(self)
        mirror = Mirror.of(target, layout)
        dual = mirror.to_dual(state.particles)
        logdensity = jax.value_and_grad(lambda x: dual_logdensity(mirror, target, layout, x, batch))
        value, scores = jax.vmap(logdensity)(dual)
        fine = alive & jnp.isfinite(value) & jnp.all(jnp.isfinite(scores), axis=1)
        at = Evaluated(value, jnp.where(fine[:, None], scores, 0.0), fine)
        direction, statistics = self.direction(mirror, mirror.primal(dual), at)
        direction = jnp.where(fine[:, None], direction, 0.0)
        moved, update = self.update(dual, direction, state.memory.update)
        shown = {**flow_statistics(at, dual, direction, exact=batch is None), **statistics}
        return mirror.to_position(moved), FlowMemory(update, ()), fine, shown

    def summary(self, records: Any) -> dict[str, str]:
        """Mean log-density and mean length of the direction, of the last step shown."""
        return flow_summary(records)


def mirrored_force(
    kernel: AbstractRadialKernel,
    squared_bandwidth: Float[Array, ""],
    mirror: Mirror,
    primal: Primal,
    scores: Float[Array, "n d"],
    weight: Float[Array, " n"],
) -> Float[Array, "n d"]:
    """``sum_j w_j [k(x_i, x_j) s_j + grad k(x_i, x_j)] / sum_j w_j``: kernel on primal, gradients in dual coordinates.

    Args:
        kernel: positive-definite kernel of primal coordinates.
        squared_bandwidth: its h^2.
        mirror: the mirror map.
        primal: particles.
        scores: gradients of the log-density of the dual coordinates.
        weight: weight of each particle.

    Reference: Shi, Liu and Mackey, arXiv:2106.12506, eq. 7.
    """
    centred = primal._replace(points=primal.points - (weight @ primal.points) / jnp.sum(weight))
    total = reduce_pairs(
        _term, (kernel, squared_bandwidth, mirror), centred.points, (centred, scores), weight=weight
    )  # fmt: skip
    return total / jnp.sum(weight)


def _term(
    parameters: tuple[AbstractRadialKernel, Array, Mirror], x: Array, column: tuple[Primal, Array], weight: Array
) -> Array:
    kernel, squared_bandwidth, mirror = parameters
    primal, scores = column
    profile = kernel.profile(squared_distances(x, primal.points), squared_bandwidth)
    attraction = product(profile.value, weight[:, None] * scores)
    return attraction + mirror.pulled_differences(2.0 * profile.first * weight[None, :], x, primal)


def mirrored_direction(
    kernel: AbstractRadialKernel, mirror: Mirror, primal: Primal, at: Evaluated
) -> tuple[Float[Array, "n d"], dict[str, Array]]:
    """The mirrored force with the kernel's bandwidth rule."""
    fitted = kernel.fit(primal.points, at.alive)
    weight = at.alive.astype(primal.points.dtype)
    # An empty cloud has no force, and no division by zero either.
    weight = weight.at[0].add(jnp.where(jnp.any(at.alive), 0.0, 1.0))
    return mirrored_force(kernel, fitted, mirror, primal, at.scores, weight), kernel.statistics(fitted)


class MirroredSVGD(AbstractMirrored):
    """Mirrored Stein variational gradient descent: `SVGD` in dual coordinates with a kernel on the constrained space.

    Simplices, half-lines and boxes among the sites' supports get the entropic mirror map (see `Mirror`), so that no
    particle can leave them and densities that are infinite at the boundary do no harm.

    Args:
        num_particles: at least 2.
        kernel: of the constrained values; by default `IMQ` with the median rule.
        optimizer: an optax transformation; `CoinMirroredSVGD` needs none.

    Bias: none in the limit of many particles. Cost: n gradients and O(n^2 d) per step; memory O(n d).

    Reference: Shi, Liu and Mackey, Sampling with mirrored Stein operators, arXiv:2106.12506, algorithm 1 (MSVGD).
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
        self.num_particles = check_population("MirroredSVGD", num_particles)
        self.kernel = check_radial("MirroredSVGD", kernel)
        self.update = Optax(optax.rmsprop(0.1) if optimizer is None else optimizer)
        self.target, self.layout = None, None

    def direction(self, mirror: Mirror, primal: Primal, at: Evaluated) -> tuple[Float[Array, "n d"], dict[str, Array]]:
        """See `AbstractMirrored.direction`."""
        return mirrored_direction(self.kernel, mirror, primal, at)


class CoinMirroredSVGD(AbstractMirrored):
    """`MirroredSVGD` by coin betting in dual coordinates: no learning rate.

    Args:
        num_particles: at least 2.
        kernel: as in `MirroredSVGD`.
        alpha: see `Coin`.

    Reference: Sharrock, Mackey and Nemeth, Learning rate free sampling in constrained domains, arXiv:2305.14943,
    algorithm 2 (Coin MSVGD).
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
        self.num_particles = check_population("CoinMirroredSVGD", num_particles)
        self.kernel = check_radial("CoinMirroredSVGD", kernel)
        self.update = Coin(alpha=alpha)
        self.target, self.layout = None, None

    def direction(self, mirror: Mirror, primal: Primal, at: Evaluated) -> tuple[Float[Array, "n d"], dict[str, Array]]:
        """See `AbstractMirrored.direction`."""
        return mirrored_direction(self.kernel, mirror, primal, at)


def check_radial(name: str, kernel: AbstractRadialKernel | None) -> AbstractRadialKernel:
    """The kernel, by default an inverse multiquadric.

    Raises:
        ValueError: if it is not radial.
    """
    if kernel is None:
        return IMQ()
    if not isinstance(kernel, AbstractRadialKernel):
        raise ValueError(f"{name}(kernel={kernel!r}): expected a radial kernel such as IMQ() or RBF().")
    return kernel
