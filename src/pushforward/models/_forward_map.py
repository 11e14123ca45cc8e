"""Inverse problems: data seen through a forward map, with Gaussian noise and a Gaussian prior."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from ._logdensity import from_logdensity
from ._target import Target


@dataclasses.dataclass(frozen=True, eq=False)
class InverseProblem:
    """``data = forward(x) + noise``, x Gaussian a priori. As a function, the log joint density of x and the data.

    Compared and hashed by identity, as functions are: it is one to the program that holds it. Arrays of the host.
    """

    forward: Callable[[Array], Array]
    data: np.ndarray
    noise_root: np.ndarray
    """Lower-triangular root of the noise covariance, of shape (m, m)."""
    prior_mean: np.ndarray
    prior_root: np.ndarray
    """Lower-triangular root of the prior covariance, of shape (d, d)."""

    @property
    def __name__(self) -> str:
        return getattr(self.forward, "__name__", type(self.forward).__name__)

    def __call__(self, x: Float[Array, " d"]) -> Float[Array, ""]:
        """Log-density of x and the data together, normalised in both."""
        misfit = _gaussian(self.noise_root, jnp.asarray(self.data) - self.forward(x))
        return misfit + _gaussian(self.prior_root, x - self.prior_mean)

    def from_noise(self, eps: Float[Array, " d"]) -> Float[Array, " d"]:
        """The draw of the prior that standard normal noise is pushed to."""
        return jnp.asarray(self.prior_mean) + jnp.asarray(self.prior_root) @ eps


def from_forward_map(
    forward: Callable[[Array], Array],
    data: Any,
    *,
    noise_covariance: Any,
    prior_mean: Any,
    prior_covariance: Any,
) -> Target:
    """Make a target of an inverse problem ``data = forward(x) + noise``.

    The problem belongs to the target, not to a kernel: Kalman ensembles (`EKS`, `EKI`) find the forward map and never
    differentiate it, and every other sampler sees the same posterior as a density.

    Args:
        forward: maps a vector x (d,) to predicted data (m,); traceable, and differentiable if a gradient-based sampler
            is to be used.
        data: vector (m,).
        noise_covariance: of the Gaussian noise: a number or a vector of variances, or a matrix (m, m).
        prior_mean: vector (d,).
        prior_covariance: number, vector or matrix (d, d).

    Returns:
        A `Target` with one site ``x``, whose ``logdensity`` is that of x and the data, normalised: the evidence that
        `SMC` estimates is that of the data.

    Raises:
        ValueError: if shapes do not fit, or a covariance is not positive definite.

    Example:
        >>> from_forward_map(lambda x: x[:1] ** 2, [1.0], noise_covariance=0.1, prior_mean=[0.0, 0.0],
        ...                  prior_covariance=1.0).dim
        2
    """
    mean, seen = _vector("prior_mean", prior_mean), _vector("data", data)
    dtype = jnp.result_type(mean, seen)
    mean, seen = mean.astype(dtype), seen.astype(dtype)
    predicted = jax.eval_shape(forward, mean)
    if getattr(predicted, "shape", None) != seen.shape:
        raise ValueError(
            f"forward maps a vector of shape {mean.shape} to {predicted}: expected one of shape {seen.shape}, like "
            "data."
        )
    noise_root = _root("noise_covariance", noise_covariance, seen)
    prior_root = _root("prior_covariance", prior_covariance, mean)
    parts = [np.asarray(x) for x in (seen, noise_root, mean, prior_root)]
    return from_logdensity(InverseProblem(forward, *parts), mean)


def inverse_problem(target: Target) -> InverseProblem | None:
    """The inverse problem that a target was made of, or None."""
    function = getattr(target.program, "function", None)
    return function if isinstance(function, InverseProblem) else None


def _gaussian(root: np.ndarray, residual: Float[Array, " k"]) -> Float[Array, ""]:
    whitened = jax.scipy.linalg.solve_triangular(jnp.asarray(root), residual, lower=True)
    constant = np.sum(np.log(np.diagonal(root))) + 0.5 * residual.shape[0] * np.log(2 * np.pi)
    return -0.5 * jnp.sum(whitened**2) - float(constant)


def _vector(name: str, value: Any) -> Float[Array, " k"]:
    array = jnp.asarray(value)
    if array.ndim != 1 or array.shape[0] == 0 or not jnp.issubdtype(array.dtype, jnp.floating):
        raise ValueError(f"{name} has shape {array.shape} and dtype {array.dtype}: expected a floating-point vector.")
    return array


def _root(name: str, covariance: Any, like: Float[Array, " k"]) -> Float[Array, "k k"]:
    array, count = jnp.asarray(covariance, like.dtype), like.shape[0]
    if array.ndim < 2 and array.shape in ((), (count,)):
        array = jnp.diag(jnp.broadcast_to(array, (count,)))
    if array.shape != (count, count):
        raise ValueError(
            f"{name} has shape {array.shape}: expected a number, ({count},) variances or a ({count}, {count}) matrix."
        )
    root = jnp.linalg.cholesky(array)
    if not bool(jnp.all(jnp.isfinite(root))) or not bool(jnp.allclose(array, array.T)):
        raise ValueError(f"{name} is not positive definite: expected a symmetric matrix with positive eigenvalues.")
    return root
