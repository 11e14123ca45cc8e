"""Kernel Stein discrepancy: how far samples are from a target, by its gradient alone."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from ..models import Target
from ..models._layout import Layout
from ..models._types import Key
from ..samplers.engine import reduce_pairs
from ..samplers.pairs import AbstractRadialKernel
from ..samplers.pairs._distance import product, squared_distances
from ..samplers.stein._ksd_descent import check_smooth
from ._arguments import check_count, check_key, check_target
from ._sample_sets import DEFAULT_POINTS, Discrepancy, points_of


def ksd(
    samples: Any,
    target: Target,
    *,
    key: Key | None = None,
    kernel: AbstractRadialKernel | None = None,
    num_bootstrap: int = 1000,
    max_points: int | None = DEFAULT_POINTS,
) -> Discrepancy:
    """Kernel Stein discrepancy between samples and a target, whose normaliser is not needed.

    ``KSD^2 = mean_ij [s_i . s_j k + s_i . grad_j k + s_j . grad_i k + tr grad_i grad_j k]`` with s the gradient of the
    log-density. The p-value is that of the hypothesis that the samples are independent draws of the target, by the
    wild bootstrap: every term is multiplied by random signs of its two points.

    Blind to the weights of modes that are far apart: the gradient knows nothing of them. For interacting particles,
    which repel each other, the value is meaningful, and the p-value is not (it is too large).

    Args:
        samples: a `Posterior`, an array of unconstrained positions (n, d), or a pytree of them with a leading axis.
        target: a target of that structure.
        key: for the p-value; None leaves it out.
        kernel: radial and smooth, so not `Laplace`; by default `IMQ`, whose bandwidth is the median distance; with it
            the discrepancy sees tails.
        num_bootstrap: random sign vectors.
        max_points: samples are thinned to at most so many.

    Returns:
        A `Discrepancy`; ``value`` is the KSD of the samples, ``float(...)`` of it too.

    Raises:
        ValueError: for samples of the wrong shape or dtype, or a kernel that has no Stein kernel.

    Cost: n gradients and n^2 (d + num_bootstrap) multiplications; memory linear in n.

    Reference: Liu, Lee and Jordan, arXiv:1602.03253, theorem 3.6; Chwialkowski, Strathmann and Gretton,
    arXiv:1602.02964, section 4; Gorham and Mackey, arXiv:1703.01717 (choice of the kernel).
    """
    target, kernel = check_target(target), check_smooth("ksd", kernel)
    points = jnp.asarray(points_of(samples, target, max_points=max_points))
    check_count("num_bootstrap", num_bootstrap, 1)
    if key is None:
        signs = jnp.zeros((points.shape[0], 0), points.dtype)
    else:
        check_key(key)
        signs = jax.random.rademacher(key, (points.shape[0], num_bootstrap), points.dtype)
    found = _statistics(target, kernel, points, signs)
    value, unbiased, larger = (np.asarray(x) for x in found)
    p_value = None if key is None else float((1 + larger) / (1 + num_bootstrap))
    return Discrepancy(max(float(value), 0.0) ** 0.5, float(unbiased), p_value, (points.shape[0],))


@jax.jit
def _statistics(
    target: Target, kernel: AbstractRadialKernel, points: Float[Array, "n d"], signs: Float[Array, "n b"]
) -> tuple[Array, Array, Array]:
    layout = Layout.of(target.example)
    score = jax.grad(lambda x: target.logdensity(layout.unravel(x)))
    scores = jax.lax.map(score, points, batch_size=256)
    return stein_statistics(kernel, points, scores, signs)


def stein_statistics(
    kernel: AbstractRadialKernel, points: Float[Array, "n d"], scores: Float[Array, "n d"], signs: Float[Array, "n b"]
) -> tuple[Float[Array, ""], Float[Array, ""], Float[Array, ""]]:
    """Squared discrepancy, its unbiased estimate, and how many sign vectors give at least as much."""
    count, dim = points.shape
    alive = jnp.ones((count,), bool)
    squared_bandwidth = kernel.bandwidth(points, alive)
    centred = points - jnp.mean(points, axis=0)
    vectors = jnp.concatenate([jnp.ones((count, 1), points.dtype), signs], axis=1)
    sums = reduce_pairs(_stein_term, (kernel, squared_bandwidth), (centred, scores), (centred, scores, vectors))
    here = kernel.profile(jnp.zeros((1, 1), points.dtype), squared_bandwidth)
    diagonal = jnp.sum(here.value[0, 0] * jnp.sum(scores**2, axis=1) - 2.0 * dim * here.first[0, 0])
    # Signs square to one, so every form has the same diagonal.
    forms = jnp.sum(vectors * sums, axis=0)
    off = forms - diagonal
    n = jnp.asarray(count, points.dtype)
    return forms[0] / n**2, off[0] / (n * (n - 1.0)), jnp.sum(off[1:] >= off[0])


def _stein_term(parameters: Any, row: Any, column: Any, weight: Array) -> Array:
    """Products of the Stein kernel's block with several vectors."""
    kernel, squared_bandwidth = parameters
    (x, s), (y, t, vectors) = row, column
    squared = squared_distances(x, y)
    profile = kernel.profile(squared, squared_bandwidth)
    # s . (x - y) and t . (x - y) for all pairs.
    along_row = jnp.sum(s * x, axis=1)[:, None] - product(s, y.T)
    along_column = product(x, t.T) - jnp.sum(t * y, axis=1)[None, :]
    stein = (
        profile.value * product(s, t.T)
        + 2.0 * profile.first * (along_column - along_row - x.shape[1])
        - 4.0 * profile.second * squared
    )
    return product(stein, weight[:, None] * vectors)
