"""Stein variational gradient descent."""

from __future__ import annotations

import equinox as eqx
import optax
from jaxtyping import Array, Float, Int

from ...models import Target
from ...models._layout import Layout
from ...models._types import Batch, Key
from .._ensemble import Evaluated
from ..engine._mesh import pad_rows
from ..pairs import RBF, AbstractRadialKernel, AbstractSteinKernel, MatrixValued, random_batch_force
from ._annealing import Annealing
from ._flow import AbstractParticleFlow
from ._preconditioner import AbstractPreconditioner
from ._update import AbstractUpdate, Coin, Optax

DEFAULT_PARTICLES = 100


class AbstractSVGD(AbstractParticleFlow):
    """The direction that `SVGD` and `CoinSVGD` share."""

    kernel: eqx.AbstractVar[AbstractSteinKernel]
    annealing: eqx.AbstractVar[Annealing | None]
    preconditioner: eqx.AbstractVar[AbstractPreconditioner | None]
    random_batch: eqx.AbstractVar[int | None]

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
        kernel = self.kernel
        if self.preconditioner is not None:
            assert isinstance(kernel, AbstractRadialKernel)
            metric = self.preconditioner(lambda x: self.logdensity(x, batch), particles, at.alive)
            kernel = MatrixValued(metric, kernel)
        fitted = kernel.fit(particles, at.alive)
        scores = at.scores if self.annealing is None else at.scores * self.annealing(step).astype(particles.dtype)
        if self.random_batch is None:
            force = kernel.force(fitted, particles, scores, at.alive.astype(particles.dtype))
        else:
            # Places that only fill the last device are dealt to no group: the deal does not depend on the devices.
            x, s, alive = (v[: self.num_particles] for v in (particles, scores, at.alive))
            force = random_batch_force(key, kernel, fitted, x, s, alive, self.random_batch)
            force = pad_rows(force, particles.shape[0])
        return force, (), kernel.statistics(fitted)


class SVGD(AbstractSVGD):
    """Stein variational gradient descent.

    Moves particle i along ``phi(x_i) = 1/n sum_j [k(x_i, x_j) grad log p(x_j) + grad_j k(x_i, x_j)]``.

    Args:
        num_particles: at least 2.
        kernel: by default `RBF` with the median rule; `Graphical` has one per node of a graphical model.
        optimizer: an optax transformation of the ascent direction; its learning rate matters (`CoinSVGD` has none).
        annealing: factor of the attraction over the first steps, so that particles spread over distant modes.
        preconditioner: `AverageHessian` or `EnsembleCovariance`: the kernel becomes ``M^-1 k`` in the metric M.
        random_batch: particles see only a random group of this many in each step.

    Bias: none in the limit of many particles; with n fixed, variances come out too small, more so in high dimension.
    ``random_batch`` adds noise, which a decreasing learning rate removes.
    Cost: n gradients and O(n^2 d) per step, O(n random_batch d) with random batches; memory O(n d).

    Reference: Liu and Wang, Stein variational gradient descent: a general purpose Bayesian inference algorithm,
    arXiv:1608.04471, algorithm 1.
    """

    num_particles: int = eqx.field(static=True)
    kernel: AbstractSteinKernel
    update: AbstractUpdate
    annealing: Annealing | None
    preconditioner: AbstractPreconditioner | None
    random_batch: int | None = eqx.field(static=True)
    target: Target | None
    layout: Layout | None

    def __init__(
        self,
        num_particles: int = DEFAULT_PARTICLES,
        *,
        kernel: AbstractSteinKernel | None = None,
        optimizer: optax.GradientTransformation | None = None,
        annealing: Annealing | None = None,
        preconditioner: AbstractPreconditioner | None = None,
        random_batch: int | None = None,
    ) -> None:
        self.num_particles = check_population("SVGD", num_particles)
        self.kernel = RBF() if kernel is None else kernel
        self.update = Optax(optax.adagrad(0.1) if optimizer is None else optimizer)
        self.annealing = annealing
        self.preconditioner = check_preconditioner("SVGD", preconditioner, self.kernel)
        self.random_batch = check_random_batch("SVGD", random_batch, num_particles)
        self.target, self.layout = None, None


class CoinSVGD(AbstractSVGD):
    """Stein variational gradient descent without a learning rate: the moves are bets on the direction of `SVGD`.

    Args:
        num_particles: at least 2.
        kernel: by default `RBF` with the median rule.
        alpha: see `Coin`; 100 for the weights of neural networks.
        annealing: as in `SVGD`.
        preconditioner: as in `SVGD`.
        random_batch: as in `SVGD`; bets on noise lose, so that few particles per group slow the flow down.

    Bias and cost: as `SVGD`, with five numbers more per coordinate.

    Reference: Sharrock and Nemeth, Coin sampling: gradient-based Bayesian inference without learning rates,
    arXiv:2301.11294, algorithm 1.
    """

    num_particles: int = eqx.field(static=True)
    kernel: AbstractSteinKernel
    update: AbstractUpdate
    annealing: Annealing | None
    preconditioner: AbstractPreconditioner | None
    random_batch: int | None = eqx.field(static=True)
    target: Target | None
    layout: Layout | None

    def __init__(
        self,
        num_particles: int = DEFAULT_PARTICLES,
        *,
        kernel: AbstractSteinKernel | None = None,
        alpha: float = 0.0,
        annealing: Annealing | None = None,
        preconditioner: AbstractPreconditioner | None = None,
        random_batch: int | None = None,
    ) -> None:
        self.num_particles = check_population("CoinSVGD", num_particles)
        self.kernel = RBF() if kernel is None else kernel
        self.update = Coin(alpha=alpha)
        self.annealing = annealing
        self.preconditioner = check_preconditioner("CoinSVGD", preconditioner, self.kernel)
        self.random_batch = check_random_batch("CoinSVGD", random_batch, num_particles)
        self.target, self.layout = None, None


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


def check_preconditioner(
    name: str, preconditioner: AbstractPreconditioner | None, kernel: AbstractSteinKernel
) -> AbstractPreconditioner | None:
    """The preconditioner.

    Raises:
        ValueError: if it is none, or the kernel is not radial.
    """
    if preconditioner is None:
        return None
    if not isinstance(preconditioner, AbstractPreconditioner):
        raise ValueError(
            f"{name}(preconditioner={preconditioner!r}): expected AverageHessian() or EnsembleCovariance() of "
            "pushforward.samplers.stein."
        )
    if not isinstance(kernel, AbstractRadialKernel):
        raise ValueError(
            f"{name}(kernel={type(kernel).__name__}, preconditioner={type(preconditioner).__name__}): expected a "
            "radial kernel such as RBF(), in whose metric the preconditioner acts, or no preconditioner."
        )
    return preconditioner


def check_random_batch(name: str, random_batch: int | None, num_particles: int) -> int | None:
    """The size of a random group.

    Raises:
        ValueError: if it is not between 2 and the number of particles.
    """
    if random_batch is None:
        return None
    if isinstance(random_batch, bool) or not isinstance(random_batch, int) or not 2 <= random_batch <= num_particles:
        raise ValueError(
            f"{name}(random_batch={random_batch!r}): expected a whole number from 2 to num_particles={num_particles}, "
            "or None for all pairs."
        )
    return random_batch
