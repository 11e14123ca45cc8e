"""Matrix-valued kernels: a radial kernel in the metric of a positive-definite matrix."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import jax.scipy.linalg
from jaxtyping import Array, Bool, Float

from ._base import AbstractRadialKernel, AbstractSteinKernel
from ._distance import product


class MatrixValued(AbstractSteinKernel):
    """``K(x, y) = M^-1 k(|x - y|_M)`` with ``|v|_M^2 = v' M v``, k a radial kernel.

    With M a curvature of the target the flow is that of the scalar kernel on the whitened target: with ``M = L L'`` and
    ``z = L' x`` the scores are ``L^-1 s`` and the force maps back by ``L^-T``. Bandwidth rules see z.

    Args:
        metric: M, symmetric positive definite, of shape (d, d).
        kernel: k.

    Cost: that of k, one Cholesky factor and two products of n x d with d x d.

    Reference: Wang, Tang, Bajaj and Liu, Stein variational gradient descent with matrix-valued kernels,
    arXiv:1910.12794, section 3.2.
    """

    root: Float[Array, "d d"]
    kernel: AbstractRadialKernel

    def __init__(self, metric: Array, kernel: AbstractRadialKernel) -> None:
        metric = jnp.asarray(metric)
        if metric.ndim != 2 or metric.shape[0] != metric.shape[1] or not jnp.issubdtype(metric.dtype, jnp.floating):
            raise ValueError(
                f"MatrixValued(metric of shape {metric.shape} and dtype {metric.dtype}): expected a symmetric "
                "positive-definite matrix of floats of shape (d, d), d the dimension of the position."
            )
        if not isinstance(kernel, AbstractRadialKernel):
            raise ValueError(f"kernel={kernel!r}: expected a radial kernel such as RBF(), in whose metric M acts.")
        self.root = jnp.linalg.cholesky(metric)
        if not isinstance(self.root, jax.core.Tracer) and not bool(jnp.all(jnp.isfinite(self.root))):
            raise ValueError(
                f"MatrixValued(metric={metric}): expected a positive-definite matrix. Take the magnitudes of its "
                "eigenvalues, or AverageHessian() of pushforward.samplers.stein, which does."
            )
        self.kernel = kernel

    def fit(self, points: Float[Array, "n d"], alive: Bool[Array, " n"]) -> Any:
        """The squared bandwidth in whitened coordinates."""
        return self.kernel.fit(product(points, self.root.astype(points.dtype)), alive)

    def force(
        self,
        fitted: Any,
        points: Float[Array, "n d"],
        scores: Float[Array, "n d"],
        weight: Float[Array, " n"],
        *,
        repulsion: float | Array = 1.0,
    ) -> Float[Array, "n d"]:
        """See `AbstractSteinKernel.force`."""
        root = self.root.astype(points.dtype)
        whitened = jax.scipy.linalg.solve_triangular(root, scores.T, lower=True).T
        force = self.kernel.force(fitted, product(points, root), whitened, weight, repulsion=repulsion)
        return jax.scipy.linalg.solve_triangular(root, force.T, lower=True, trans=1).T

    def statistics(self, fitted: Any) -> dict[str, Array]:
        """Those of the radial kernel."""
        return self.kernel.statistics(fitted)
