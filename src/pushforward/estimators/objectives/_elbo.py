"""Evidence lower bound."""

from __future__ import annotations

import jax.numpy as jnp
from jaxtyping import Array, Float

from ._base import AbstractObjective


class ELBO(AbstractObjective):
    """The mean log-weight, E_q[log p(z, data) - log q(z)] <= log p(data).

    Minimising -ELBO minimises KL(q || posterior).

    Bias: none. Reference: Jordan et al., An introduction to variational methods for graphical models, 1999.
    """

    def __call__(self, log_weights: Float[Array, " k"]) -> Float[Array, ""]:
        """Mean of the log-weights."""
        return jnp.mean(log_weights)
