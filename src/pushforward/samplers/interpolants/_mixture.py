"""Gaussian mixtures: the laws whose interpolants are known in closed form."""

from __future__ import annotations

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from ...models._types import Key
from .._checks import check_count, check_floats, check_key


class GaussianMixture(eqx.Module):
    """``sum_k w_k N(m_k, C_k)``.

    Args:
        log_weights: shape (k,), normalised by the constructor.
        means: shape (k, d).
        covariances: positive definite, shape (k, d, d).

    Raises:
        ValueError: for shapes that do not match, numbers that are not finite, or covariances that are not positive
            definite.
    """

    log_weights: Float[Array, " k"]
    means: Float[Array, "k d"]
    covariances: Float[Array, "k d d"]

    def __init__(self, log_weights: Any, means: Any, covariances: Any) -> None:
        self.means = check_floats("means", means, "k, d")
        (num, dim), dtype = self.means.shape, self.means.dtype
        log_weights = check_floats("log_weights", log_weights, "k").astype(dtype)
        self.covariances = check_floats("covariances", covariances, "k, d, d").astype(dtype)
        if log_weights.shape != (num,) or self.covariances.shape != (num, dim, dim):
            raise ValueError(
                f"log_weights has shape {log_weights.shape}, means {self.means.shape}, covariances "
                f"{self.covariances.shape}: expected (k,), (k, d) and (k, d, d)."
            )
        definite = jnp.isfinite(jnp.linalg.cholesky(self.covariances)).all()
        if not isinstance(definite, jax.core.Tracer) and not bool(definite):
            raise ValueError("covariances has a matrix that is not positive definite: expected only such.")
        self.log_weights = jax.nn.log_softmax(log_weights)

    @property
    def dim(self) -> int:
        """Dimension of the points."""
        return self.means.shape[1]

    def log_prob(self, x: Float[Array, " d"]) -> Float[Array, ""]:
        """Log-density at one point."""
        return jax.nn.logsumexp(self._log_parts(x)[0])

    def score(self, x: Float[Array, " d"]) -> Float[Array, " d"]:
        """Gradient of the log-density at one point."""
        logits, solved = self._log_parts(x)
        return -jax.nn.softmax(logits) @ solved

    def responsibilities(self, x: Float[Array, " d"]) -> tuple[Float[Array, " k"], Float[Array, "k d"]]:
        """Posterior probabilities of the components at one point, and ``C_k^-1 (x - m_k)``."""
        logits, solved = self._log_parts(x)
        return jax.nn.softmax(logits), solved

    def sample(self, key: Key, num: int) -> Float[Array, "num d"]:
        """Independent draws."""
        which, normal = jax.random.split(check_key(key))
        num = check_count("num", num, 0)
        component = jax.random.categorical(which, self.log_weights, shape=(num,))
        noise = jax.random.normal(normal, (num, self.dim), self.means.dtype)
        roots = jnp.linalg.cholesky(self.covariances)
        shifts = jax.vmap(lambda root: noise @ root.T)(roots)
        return self.means[component] + shifts[component, jnp.arange(num)]

    def _log_parts(self, x: Array) -> tuple[Array, Array]:
        if x.shape != (self.dim,):
            raise ValueError(f"A point has shape {x.shape}: expected ({self.dim},), one point of this mixture.")
        factors = jnp.linalg.cholesky(self.covariances)
        # Inverse roots do not depend on the point: over many points all that is left are products.
        eyes = jnp.broadcast_to(jnp.eye(self.dim, dtype=factors.dtype), factors.shape)
        roots = jax.scipy.linalg.solve_triangular(factors, eyes, lower=True)
        white = jnp.einsum("kij,kj->ki", roots, x[None] - self.means, precision="highest")
        solved = jnp.einsum("kij,ki->kj", roots, white, precision="highest")
        log_roots = jnp.sum(jnp.log(jnp.diagonal(factors, axis1=1, axis2=2)), axis=1)
        logs = -0.5 * jnp.sum(white**2, axis=1) - log_roots
        return self.log_weights + logs - 0.5 * self.dim * jnp.log(2.0 * jnp.pi).astype(x.dtype), solved
