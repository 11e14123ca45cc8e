"""Transport between Gaussian distributions in closed form: also the truth that other solvers are tested against."""

from __future__ import annotations

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from .._checks import check_floats, check_positive
from ._matrices import identity, log_det_one_plus, matrix_root, product, symmetric, trace


class GaussianTransport(eqx.Module):
    """The optimal plan between two Gaussians: itself a Gaussian, of mean (mean1, mean2).

    Attributes:
        cost: ``E|x - y|^2 + epsilon KL(P | P1 x P2)``.
        linear_cost: ``E|x - y|^2``.
        kl: ``KL(P | P1 x P2)``, the mutual information of x and y; infinite for epsilon = 0.
        mean1: mean of x.
        mean2: mean of y.
        cross_covariance: ``Cov(x, y)``, rows of x.
        linear_map: symmetric S of ``E[y | x] = mean2 + S (x - mean1)``; for epsilon = 0 the optimal map.
        conditional_covariance: covariance of y given x, ``epsilon / 2 S``.
    """

    cost: Float[Array, ""]
    linear_cost: Float[Array, ""]
    kl: Float[Array, ""]
    mean1: Float[Array, " d"]
    mean2: Float[Array, " d"]
    cross_covariance: Float[Array, "d d"]
    linear_map: Float[Array, "d d"]
    conditional_covariance: Float[Array, "d d"]

    def barycentric(self, x: Float[Array, "n d"]) -> Float[Array, "n d"]:
        """``E[y | x]`` of each point.

        Raises:
            ValueError: for points of another dimension.
        """
        x = check_floats("x", x, "n, d")
        if x.shape[1] != self.mean1.shape[0]:
            raise ValueError(f"x has shape {x.shape}: expected points (n, {self.mean1.shape[0]}), as mean1 has.")
        return self.mean2 + product(x - self.mean1, self.linear_map)


def bures_wasserstein(mean1: Any, cov1: Any, mean2: Any, cov2: Any) -> Float[Array, ""]:
    """Squared 2-Wasserstein distance of two Gaussians, ``|m1 - m2|^2 + tr(A + B - 2 (A^1/2 B A^1/2)^1/2)``.

    Differentiable any number of times where the covariances are positive definite, equal ones included. Of singular
    ones the derivative leaves out directions that both lack. Rounding may make the distance of equal Gaussians
    slightly negative.

    Args:
        mean1: shape (d,).
        cov1: symmetric and positive semi-definite, shape (d, d).
        mean2: shape (d,).
        cov2: like ``cov1``.

    Raises:
        ValueError: for shapes that do not match, numbers that are not finite, or matrices that are not covariances.

    Cost: O(d^3). Reference: Dowson and Landau, The Frechet distance between multivariate normal distributions, 1982.

    Example:
        >>> import jax.numpy as jnp
        >>> float(bures_wasserstein(jnp.zeros(1), 4.0 * jnp.eye(1), jnp.ones(1), jnp.eye(1)))
        2.0
    """
    return _distance(*_checked(mean1, cov1, mean2, cov2))


@jax.jit
def _distance(mean1: Array, cov1: Array, mean2: Array, cov2: Array) -> Float[Array, ""]:
    root = matrix_root(cov1)
    cross = matrix_root(symmetric(product(product(root, cov2), root)))
    return jnp.sum((mean1 - mean2) ** 2) + trace(cov1) + trace(cov2) - 2.0 * trace(cross)


def gaussian_transport(mean1: Any, cov1: Any, mean2: Any, cov2: Any, epsilon: Any) -> GaussianTransport:
    """Entropic transport between two Gaussians, ``min_P E|x - y|^2 + epsilon KL(P | P1 x P2)``.

    The convention is that of `solve` with squared Euclidean cost. Differentiable as `bures_wasserstein` is, in epsilon
    too above zero.

    Args:
        mean1: shape (d,).
        cov1: symmetric and positive semi-definite, shape (d, d); for epsilon = 0 positive definite, as is ``cov2``.
        mean2: shape (d,).
        cov2: like ``cov1``.
        epsilon: at least zero, in squared units of x.

    Returns:
        A `GaussianTransport`.

    Raises:
        ValueError: for shapes that do not match, numbers that are not finite, matrices that are not covariances, or a
            negative epsilon.

    Cost: O(d^3).

    Reference: Janati et al., Entropic optimal transport between unbalanced Gaussian measures has a closed form,
    arXiv:2006.02572, theorem 1, with epsilon = 2 sigma^2.

    Example:
        >>> import jax.numpy as jnp
        >>> plan = gaussian_transport(jnp.zeros(1), jnp.eye(1), jnp.zeros(1), jnp.eye(1), 3.0)
        >>> float(plan.cross_covariance[0, 0])
        0.5
    """
    mean1, cov1, mean2, cov2 = _checked(mean1, cov1, mean2, cov2)
    return _plan(mean1, cov1, mean2, cov2, check_positive("epsilon", epsilon, cov1.dtype, zero=True))


@jax.jit
def _plan(mean1: Array, cov1: Array, mean2: Array, cov2: Array, epsilon: Array) -> GaussianTransport:
    noise = 0.5 * epsilon
    half, inner, shifted = _parts(cov1, cov2, noise)
    # In the eigenvalues l of A B: sqrt(4 l + s^2) - s, in a form without cancellation.
    excess = symmetric(4.0 * jnp.linalg.solve(shifted, inner))
    safe = jnp.where(epsilon > 0, epsilon, 1.0)
    mutual = 0.5 * log_det_one_plus(excess / safe)
    linear_map = symmetric(2.0 * product(half, jnp.linalg.solve(shifted, half)))
    linear_cost = jnp.sum((mean1 - mean2) ** 2) + trace(cov1) + trace(cov2) - trace(excess)
    return GaussianTransport(
        cost=linear_cost + jnp.where(epsilon > 0, epsilon * mutual, 0.0),
        linear_cost=linear_cost,
        kl=jnp.where(epsilon > 0, mutual, jnp.inf),
        mean1=mean1,
        mean2=mean2,
        cross_covariance=product(cov1, linear_map),
        linear_map=linear_map,
        conditional_covariance=noise * linear_map,
    )


def entropic_map(
    cov1: Float[Array, "... d d"], cov2: Float[Array, "... d d"], noise: Float[Array, ""]
) -> Float[Array, "... d d"]:
    """The positive S of ``S cov1 S + noise S = cov2``: slope of the conditional mean; its covariance is noise S."""
    half, _, shifted = _parts(cov1, cov2, noise)
    return symmetric(2.0 * product(half, jnp.linalg.solve(shifted, half)))


def _parts(cov1: Array, cov2: Array, noise: Array) -> tuple[Array, Array, Array]:
    """B^1/2, N = B^1/2 A B^1/2, and (4 N + s^2)^1/2 + s."""
    half = matrix_root(cov2)
    inner = symmetric(product(product(half, cov1), half))
    root = matrix_root(4.0 * inner + noise**2 * identity(inner))
    return half, inner, root + noise * identity(inner)


def _checked(mean1: Any, cov1: Any, mean2: Any, cov2: Any) -> tuple[Array, Array, Array, Array]:
    given = {"mean1": mean1, "mean2": mean2}
    means = [check_floats(name, value, "d") for name, value in given.items()]
    covs = [_covariance(name, value, means[0].shape[0]) for name, value in {"cov1": cov1, "cov2": cov2}.items()]
    if means[0].shape != means[1].shape:
        raise ValueError(
            f"mean1 has shape {means[0].shape} and mean2 {means[1].shape}: expected two Gaussians of one dimension."
        )
    dtype = jnp.result_type(*means, *covs)
    return means[0].astype(dtype), covs[0].astype(dtype), means[1].astype(dtype), covs[1].astype(dtype)


def _covariance(name: str, value: Any, dim: int) -> Float[Array, "d d"]:
    found = check_floats(name, value, "d, d")
    if found.shape != (dim, dim):
        raise ValueError(f"{name} has shape {found.shape}: expected ({dim}, {dim}), as mean1 has {dim} entries.")
    if not isinstance(found, jax.core.Tracer):
        held = np.asarray(found, np.float64)
        slack = 64.0 * dim * float(jnp.finfo(found.dtype).eps) * np.abs(held).max()
        if np.abs(held - held.T).max() > slack or np.linalg.eigvalsh(0.5 * (held + held.T)).min() < -slack:
            raise ValueError(
                f"{name} is no covariance matrix: expected a symmetric matrix without negative eigenvalues, got "
                f"asymmetry {np.abs(held - held.T).max():.3g} and least eigenvalue "
                f"{np.linalg.eigvalsh(0.5 * (held + held.T)).min():.3g}."
            )
    return found
