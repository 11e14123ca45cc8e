"""Laplacian-adjusted Wasserstein gradient descent on a grid."""

from __future__ import annotations

from typing import Any, NamedTuple, Self

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.scipy.ndimage import map_coordinates
from jaxtyping import Array, Float, Int

from ...models import Target
from ...models._layout import Layout
from ...models._types import Batch, Key
from .._ensemble import Evaluated, bound, require_bound
from ._flow import AbstractParticleFlow
from ._svgd import DEFAULT_PARTICLES, check_population
from ._update import AbstractUpdate, Coin, Optax

_RESOLVED = 1e-11
"""Least eigenvalue as a share of the largest: smaller ones are rounding, and the flow divides by them."""
_DEPTH = 50.0
"""Nats below the highest density at which the grid ends: further out eigenfunctions drown in rounding."""


class Spectrum(NamedTuple):
    """Eigenfunctions of the Langevin generator on a grid, the constant one left out."""

    values: Float[Array, " k"] | np.ndarray
    functions: Float[Array, "k *grid"] | np.ndarray
    """Orthonormal in L^2 of the target."""
    slopes: Float[Array, "d k *grid"] | np.ndarray


class AbstractLAWGD(AbstractParticleFlow):
    """The direction that `LAWGD` and `CoinLAWGD` share."""

    lower: eqx.AbstractVar[tuple[float, ...]]
    upper: eqx.AbstractVar[tuple[float, ...]]
    num_grid: eqx.AbstractVar[int]
    num_functions: eqx.AbstractVar[int]
    spectrum: eqx.AbstractVar[Spectrum | None]

    def bind(self, target: Target, num_warmup: int) -> Self:
        """See `AbstractSampler.bind`; computes the eigenfunctions.

        Raises:
            ValueError: if the box has not the dimension of the target, or holds no point of finite density.
        """
        sampler = bound(self, target)
        _, layout = require_bound(sampler)
        if layout.dim > 2 or len(self.lower) not in (1, layout.dim):
            raise ValueError(
                f"{type(self).__name__}(lower={self.lower}, upper={self.upper}): the target has {layout.dim} "
                "unconstrained dimension(s); expected a bound for all or one each, for a target of one or two "
                "dimensions. Use pf.SVGD for more."
            )
        low, high = (np.broadcast_to(corner, (layout.dim,)) for corner in (self.lower, self.upper))
        axes = [np.linspace(a, b, self.num_grid) for a, b in zip(low, high, strict=True)]
        spectrum = langevin_spectrum(_density_on(target, layout, axes), axes, self.num_functions)
        cast = Spectrum(*(jnp.asarray(x, layout.dtype) for x in spectrum))
        return eqx.tree_at(lambda s: s.spectrum, sampler, cast, is_leaf=lambda x: x is None)

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
        assert self.spectrum is not None
        low, high = (jnp.asarray(x, particles.dtype) for x in (self.lower, self.upper))
        places = list(((particles - low) / (high - low) * (self.num_grid - 1)).T)

        def read(table: Any) -> Array:
            return map_coordinates(table, places, order=1, mode="nearest")

        values = jax.vmap(read)(self.spectrum.functions)
        slopes = jax.vmap(jax.vmap(read))(self.spectrum.slopes)
        weight = at.alive.astype(particles.dtype)
        means = values @ weight / jnp.maximum(jnp.sum(weight), 1.0)
        # Under the target the means of the eigenfunctions are zero: their squares add up to the chi-squared divergence.
        divergence = jnp.sum(means**2)
        return -jnp.einsum("dkn,k->nd", slopes, means / self.spectrum.values), (), {"chi_squared": divergence}


class LAWGD(AbstractLAWGD):
    """Laplacian-adjusted Wasserstein gradient descent, for targets of one or two dimensions.

    The flow of the chi-squared divergence, smoothed by the inverse of the Langevin generator
    ``L = -Laplace + grad V . grad``: ``x_i -= eps sum_k grad phi_k(x_i) / lambda_k mean_j phi_k(x_j)`` with the
    eigenfunctions phi_k of L. It converges at a rate that does not depend on the target's Poincare constant, so that
    mass finds the right mode weights; the eigenfunctions make it a method for small dimensions.

    Args:
        lower: lower corner of a box that holds the target, in unconstrained coordinates; a number for all dimensions or
            one each.
        upper: upper corner.
        num_particles: at least 2.
        num_grid: points per dimension.
        num_functions: eigenfunctions kept.
        optimizer: an optax transformation of the ascent direction; `CoinLAWGD` needs none.

    Bias: of the grid, and of leaving out all but the slowest eigenfunctions. Cost: once an eigenproblem of
    num_grid^d unknowns (on the host); per step O(n num_functions).

    Reference: Chewi, Le Gouic, Lu, Maunu and Rigollet, SVGD as a kernelized Wasserstein gradient flow of the
    chi-squared divergence, arXiv:2006.02509, section 4.
    """

    num_particles: int = eqx.field(static=True)
    lower: tuple[float, ...] = eqx.field(static=True)
    upper: tuple[float, ...] = eqx.field(static=True)
    num_grid: int = eqx.field(static=True)
    num_functions: int = eqx.field(static=True)
    update: AbstractUpdate
    spectrum: Spectrum | None
    target: Target | None
    layout: Layout | None

    def __init__(
        self,
        lower: Any,
        upper: Any,
        num_particles: int = DEFAULT_PARTICLES,
        *,
        num_grid: int = 128,
        num_functions: int = 50,
        optimizer: optax.GradientTransformation | None = None,
    ) -> None:
        self.num_particles = check_population("LAWGD", num_particles)
        self.lower, self.upper = check_box("LAWGD", lower, upper, num_grid, num_functions)
        self.num_grid, self.num_functions = num_grid, num_functions
        self.update = Optax(optax.adagrad(0.1) if optimizer is None else optimizer)
        self.spectrum, self.target, self.layout = None, None, None


class CoinLAWGD(AbstractLAWGD):
    """`LAWGD` by coin betting: no learning rate.

    Args:
        lower: as in `LAWGD`.
        upper: as in `LAWGD`.
        num_particles: at least 2.
        num_grid: as in `LAWGD`.
        num_functions: as in `LAWGD`.
        alpha: see `Coin`.

    Reference: Sharrock and Nemeth, arXiv:2301.11294, appendix (Coin LAWGD).
    """

    num_particles: int = eqx.field(static=True)
    lower: tuple[float, ...] = eqx.field(static=True)
    upper: tuple[float, ...] = eqx.field(static=True)
    num_grid: int = eqx.field(static=True)
    num_functions: int = eqx.field(static=True)
    update: AbstractUpdate
    spectrum: Spectrum | None
    target: Target | None
    layout: Layout | None

    def __init__(
        self,
        lower: Any,
        upper: Any,
        num_particles: int = DEFAULT_PARTICLES,
        *,
        num_grid: int = 128,
        num_functions: int = 50,
        alpha: float = 0.0,
    ) -> None:
        self.num_particles = check_population("CoinLAWGD", num_particles)
        self.lower, self.upper = check_box("CoinLAWGD", lower, upper, num_grid, num_functions)
        self.num_grid, self.num_functions = num_grid, num_functions
        self.update = Coin(alpha=alpha)
        self.spectrum, self.target, self.layout = None, None, None


def langevin_spectrum(log_density: np.ndarray, axes: list[np.ndarray], num_functions: int) -> Spectrum:
    """The slowest eigenfunctions of ``-Laplace - grad log p . grad``, by finite volumes.

    With p between neighbours taken as the geometric mean, conjugation by sqrt(p) gives a symmetric matrix that knows p
    only by ratios of neighbours: off the diagonal -1/h^2, on it the sum of ``sqrt(p_neighbour / p) / h^2``.

    Args:
        log_density: unnormalised, at the grid points; not finite where the density is zero.
        axes: grid points per dimension.
        num_functions: how many, without the constant.

    Raises:
        ValueError: if the density is finite at fewer grid points than functions are asked for, or falls into parts
            that are as good as disconnected.
    """
    import scipy.ndimage
    import scipy.sparse
    import scipy.sparse.linalg

    level = np.where(np.isfinite(log_density), log_density, -np.inf)
    inside = level > level.max(initial=-np.inf) - _DEPTH
    count = int(inside.sum())
    if count < num_functions + 2:
        raise ValueError(
            f"The density is finite and not negligible at {count} points of the grid: expected more than the "
            f"{num_functions} eigenfunctions asked for. Choose the box to hold the target, or a finer grid."
        )
    index = np.full(level.shape, -1)
    index[inside] = np.arange(count)
    rows, columns, entries = [], [], []
    diagonal = np.zeros(count)
    for axis, points in enumerate(axes):
        width = points[1] - points[0]
        a, b = (np.moveaxis(index, axis, 0)[cut].ravel() for cut in (slice(None, -1), slice(1, None)))
        both = (a >= 0) & (b >= 0)
        a, b = a[both], b[both]
        half = 0.5 * (level[inside][b] - level[inside][a])
        np.add.at(diagonal, a, np.exp(half) / width**2)
        np.add.at(diagonal, b, np.exp(-half) / width**2)
        rows += [a, b]
        columns += [b, a]
        entries += [np.full(2 * len(a), -1.0 / width**2)]
    everyone = np.arange(count)
    matrix = scipy.sparse.csc_matrix(
        (
            np.concatenate([*entries, diagonal]),
            (np.concatenate([*rows, everyone]), np.concatenate([*columns, everyone])),
        )
    )
    ground = np.exp(0.5 * (level[inside] - level.max()))
    ground /= np.linalg.norm(ground)
    # Shift-invert next to zero, where the slowest functions are; the start makes the result reproducible.
    start = np.random.default_rng(0).standard_normal(count)
    values, vectors = scipy.sparse.linalg.eigsh(matrix, k=num_functions + 1, sigma=-1e-3, v0=start)
    order = np.argsort(values)[1:]
    if values[order[0]] < _RESOLVED * values[order[-1]]:
        raise ValueError(
            f"The slowest eigenvalue of the target is {values[order[0]]:.1e}, below what {values[order[-1]]:.1e}, the "
            "largest, leaves in double precision: the density falls into parts between which no mass can be moved. "
            "Expected a box that holds one of them, or a sampler for separate modes such as pf.SMC."
        )
    nearest = scipy.ndimage.distance_transform_edt(~inside, return_distances=False, return_indices=True)
    functions, slopes = [], []
    for k in order:
        function = np.zeros(level.shape)
        function[inside] = vectors[:, k] / ground
        function = function[tuple(nearest)]
        functions.append(function)
        slopes.append([np.gradient(function, points, axis=axis)[tuple(nearest)] for axis, points in enumerate(axes)])
    return Spectrum(values[order], np.stack(functions), np.moveaxis(np.asarray(slopes), 1, 0))


def _density_on(target: Target, layout: Layout, axes: list[np.ndarray]) -> np.ndarray:
    mesh = np.meshgrid(*axes, indexing="ij")
    points = jnp.asarray(np.stack([m.ravel() for m in mesh], axis=1), layout.dtype)
    return np.asarray(_densities(target, layout, points), float).reshape(mesh[0].shape)


@jax.jit
def _densities(target: Target, layout: Layout, points: Float[Array, "g d"]) -> Float[Array, " g"]:
    return jax.lax.map(lambda x: target.logdensity(layout.unravel(x)), points, batch_size=256)


def check_box(
    name: str, lower: Any, upper: Any, num_grid: int, num_functions: int
) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """The corners as tuples.

    Raises:
        ValueError: if they are no box in one or two dimensions, or the grid is too coarse.
    """
    low, high = (tuple(float(v) for v in np.ravel(x)) for x in (lower, upper))
    if len(low) != len(high) or not 1 <= len(low) <= 2 or any(not a < b for a, b in zip(low, high, strict=True)):
        raise ValueError(
            f"{name}(lower={lower}, upper={upper}): expected corners of a box in one or two dimensions, such as "
            "lower=(-4.0, -4.0), upper=(4.0, 4.0)."
        )
    if num_grid < 8 or num_functions < 1:
        raise ValueError(
            f"{name}(num_grid={num_grid}, num_functions={num_functions}): expected at least 8 grid points per "
            "dimension and one eigenfunction; 128 and 50 are usual."
        )
    return low, high
