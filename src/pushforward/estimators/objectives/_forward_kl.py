"""Forward Kullback-Leibler divergence, by wake-phase weights."""

from __future__ import annotations

from typing import ClassVar

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from ._base import AbstractObjective
from ._power import log_power_mean


class ForwardKL(AbstractObjective):
    """KL(posterior || q), by self-normalised weights of draws of q: the wake phase of reweighted wake-sleep.

    The guide ascends sum_k v_k log q(z_k) with v = softmax(l) and the draws held fixed; no reparameterisation is
    needed, so discrete latents work. Learnable model parameters follow the IWELBO of the same draws. `Path` gives the
    doubly reparameterised form of the same gradient.

    Bias: self-normalisation, O(1/K); with one draw the weight is always one and the gradient pure noise. References:
    Bornschein and Bengio, Reweighted wake-sleep, arXiv:1406.2751, eq. 8; Tucker et al., arXiv:1810.04152, eq. 10.
    """

    fixed_draws: ClassVar[bool] = True

    def __call__(self, log_weights: Float[Array, " k"]) -> Float[Array, ""]:
        """Log of the mean weight: a lower bound on log p(data)."""
        return log_power_mean(log_weights, 1.0)

    def guide_gain(self, log_weights: Float[Array, " k"]) -> Float[Array, ""]:
        """Minus the log of the mean weight: at fixed draws its gradient in q is sum_k v_k d log q(z_k)."""
        return -log_power_mean(log_weights, 1.0)

    @property
    def guide_power(self) -> tuple[float, float] | None:
        """See `AbstractObjective.guide_power`."""
        return -1.0, 1.0

    def model_gain(self, log_weights: Float[Array, " k"]) -> Float[Array, ""]:
        """Log of the mean weight."""
        return self(log_weights)

    def check(self, num_particles: int) -> None:
        """See `AbstractObjective.check`."""
        if num_particles < 2:
            raise ValueError(
                f"ForwardKL with num_particles={num_particles}: the self-normalised weight of a single draw is always "
                "one, so the guide would not move towards the posterior. Expected at least 2, better 32 or more."
            )

    def guide_loss(self, log_weights: Float[Array, " k"]) -> Float[Array, ""]:
        """Self-normalised estimate of KL(posterior || q), in nats. At fixed draws it is not what the gain measures."""
        return jnp.vdot(jax.nn.softmax(log_weights), log_weights) - self(log_weights)
