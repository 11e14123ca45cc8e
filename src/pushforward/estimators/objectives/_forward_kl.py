"""Forward Kullback-Leibler divergence, by wake-phase weights or from draws of the posterior."""

from __future__ import annotations

from typing import ClassVar

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from ...models._types import Position
from ._base import AbstractObjective
from ._power import log_power_mean


class ForwardKL(AbstractObjective):
    """KL(posterior || q), by self-normalised weights of draws of q: the wake phase of reweighted wake-sleep.

    The guide ascends sum_k v_k log q(z_k) with v = softmax(l) and the draws held fixed; no reparameterisation is
    needed, so discrete latents work. Learnable model parameters follow the IWELBO of the same draws. `Path` gives the
    doubly reparameterised form of the same gradient.

    With ``draws`` of the posterior (from a long chain, or exact) nothing is drawn from the guide: every step takes
    ``num_particles`` of them at random. `Reparam` and `Score` are then maximum likelihood, and `Path` is the path
    gradient of the same divergence, which uses the gradient of log p at the draws as well and is zero where q is the
    posterior. The value is then the mean log-weight, an upper bound on log p(data).

    Args:
        draws: positions with a leading axis, or None.

    Bias: self-normalisation, O(1/K); with one draw the weight is always one and the gradient pure noise. None with
    exact ``draws``, beyond their finite number. References: Bornschein and Bengio, Reweighted wake-sleep,
    arXiv:1406.2751, eq. 8; Tucker et al., arXiv:1810.04152, eq. 10; Vaitl et al., arXiv:2403.15881, section 4.
    """

    fixed_draws: ClassVar[bool] = True
    draws: Position | None = None  # type: ignore[misc]

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

    @property
    def default_particles(self) -> int:
        """More than for a bound: the bias of self-normalised weights is O(1/K)."""
        return 64

    def check(self, num_particles: int) -> None:
        """See `AbstractObjective.check`."""
        if num_particles < 2 and self.draws is None:
            raise ValueError(
                f"ForwardKL with num_particles={num_particles}: the self-normalised weight of a single draw is always "
                "one, so the guide would not move towards the posterior. Expected at least 2, better 32 or more."
            )

    def guide_loss(self, log_weights: Float[Array, " k"]) -> Float[Array, ""]:
        """Self-normalised estimate of KL(posterior || q), in nats. At fixed draws it is not what the gain measures."""
        return jnp.vdot(jax.nn.softmax(log_weights), log_weights) - self(log_weights)
