"""Stein variational gradient descent."""

from __future__ import annotations

import equinox as eqx
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int

from ...models import Target
from ...models._layout import Layout
from ...models._types import Key
from .._ensemble import Evaluated
from ..pairs import RBF, AbstractRadialKernel, stein_force
from ._annealing import Annealing
from ._flow import AbstractParticleFlow
from ._update import AbstractUpdate, Coin, Optax

DEFAULT_PARTICLES = 100


class SVGD(AbstractParticleFlow):
    """Stein variational gradient descent.

    Moves particle i along ``phi(x_i) = 1/n sum_j [k(x_i, x_j) grad log p(x_j) + grad_j k(x_i, x_j)]``.

    Args:
        num_particles: at least 2.
        kernel: by default `RBF` with the median rule.
        optimizer: an optax transformation of the ascent direction; its learning rate matters (`CoinSVGD` has none).
        annealing: factor of the attraction over the first steps, so that particles spread over distant modes.

    Bias: none in the limit of many particles; with n fixed, variances come out too small, more so in high dimension.
    Cost: n gradients and O(n^2 d) per step; memory O(n d).

    Reference: Liu and Wang, Stein variational gradient descent: a general purpose Bayesian inference algorithm,
    arXiv:1608.04471, algorithm 1.
    """

    num_particles: int = eqx.field(static=True)
    kernel: AbstractRadialKernel
    update: AbstractUpdate
    annealing: Annealing | None
    target: Target | None
    layout: Layout | None

    def __init__(
        self,
        num_particles: int = DEFAULT_PARTICLES,
        *,
        kernel: AbstractRadialKernel | None = None,
        optimizer: optax.GradientTransformation | None = None,
        annealing: Annealing | None = None,
    ) -> None:
        self.num_particles = check_population("SVGD", num_particles)
        self.kernel = RBF() if kernel is None else kernel
        self.update = Optax(optax.adagrad(0.1) if optimizer is None else optimizer)
        self.annealing = annealing
        self.target, self.layout = None, None

    def direction(
        self, key: Key, particles: Float[Array, "n d"], at: Evaluated, step: Int[Array, ""], memory: tuple[()]
    ) -> tuple[Float[Array, "n d"], tuple[()], dict[str, Array]]:
        """See `AbstractParticleFlow.direction`."""
        return stein_direction(self.kernel, self.annealing, particles, at, step)


class CoinSVGD(AbstractParticleFlow):
    """Stein variational gradient descent without a learning rate: the moves are bets on the direction of `SVGD`.

    Args:
        num_particles: at least 2.
        kernel: by default `RBF` with the median rule.
        alpha: see `Coin`; 100 for the weights of neural networks.
        annealing: as in `SVGD`.

    Bias and cost: as `SVGD`, with five numbers more per coordinate.

    Reference: Sharrock and Nemeth, Coin sampling: gradient-based Bayesian inference without learning rates,
    arXiv:2301.11294, algorithm 1.
    """

    num_particles: int = eqx.field(static=True)
    kernel: AbstractRadialKernel
    update: AbstractUpdate
    annealing: Annealing | None
    target: Target | None
    layout: Layout | None

    def __init__(
        self,
        num_particles: int = DEFAULT_PARTICLES,
        *,
        kernel: AbstractRadialKernel | None = None,
        alpha: float = 0.0,
        annealing: Annealing | None = None,
    ) -> None:
        self.num_particles = check_population("CoinSVGD", num_particles)
        self.kernel = RBF() if kernel is None else kernel
        self.update = Coin(alpha=alpha)
        self.annealing = annealing
        self.target, self.layout = None, None

    def direction(
        self, key: Key, particles: Float[Array, "n d"], at: Evaluated, step: Int[Array, ""], memory: tuple[()]
    ) -> tuple[Float[Array, "n d"], tuple[()], dict[str, Array]]:
        """See `AbstractParticleFlow.direction`."""
        return stein_direction(self.kernel, self.annealing, particles, at, step)


def stein_direction(
    kernel: AbstractRadialKernel,
    annealing: Annealing | None,
    particles: Float[Array, "n d"],
    at: Evaluated,
    step: Int[Array, ""],
) -> tuple[Float[Array, "n d"], tuple[()], dict[str, Array]]:
    """The Stein force with the kernel's bandwidth rule."""
    squared_bandwidth = kernel.bandwidth(particles, at.alive)
    scores = at.scores if annealing is None else at.scores * annealing(step).astype(particles.dtype)
    force = stein_force(kernel, squared_bandwidth, particles, scores, at.alive.astype(particles.dtype))
    return force, (), {"bandwidth": jnp.sqrt(squared_bandwidth)}


def check_population(name: str, num_particles: int, least: int = 2) -> int:
    """The number of particles.

    Raises:
        ValueError: if there are fewer than ``least``.
    """
    if isinstance(num_particles, bool) or not isinstance(num_particles, int) or num_particles < least:
        raise ValueError(
            f"{name}(num_particles={num_particles!r}): expected a whole number of at least {least} particles; "
            f"{DEFAULT_PARTICLES} is usual."
        )
    return num_particles
