"""Forward Kullback-Leibler divergence: wake and sleep phases of wake-sleep, or from draws of the posterior."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from ...models._types import Position
from ._base import AbstractObjective
from ._power import log_power_mean

_PHASES = ("wake", "sleep", "wake-sleep")


class ForwardKL(AbstractObjective):
    """KL(posterior || q), by weighted draws of q (wake phase), by simulation (sleep phase) or by given draws.

    ``phase="wake"`` (reweighted wake-sleep): the guide ascends sum_k v_k log q(z_k) with v = softmax(l) and the draws
    held fixed; no reparameterisation is needed, so discrete latents work. Learnable model parameters follow the IWELBO
    of the same draws. `Path` gives the doubly reparameterised form of the same gradient.

    ``phase="sleep"``: latents and data are drawn from the model's own joint distribution and an amortised program guide
    (one that takes the data as argument) ascends log q(z | x) at them: KL of the joint, averaged over simulated data,
    without weights. Learnable model parameters do not move. ``num_particles`` joint draws per step; in subsampled
    plates a minibatch is simulated and put at its places in the data. The value is the mean log-weight at them, the
    mean log p(x) of simulated data plus the divergence.

    ``phase="wake-sleep"``: the guide as in the sleep phase, the model by the IWELBO of draws of the guide at the
    observed data (per plate element where there is one), which is also the value. With one particle it is wake-sleep
    as first published.

    With ``draws`` of the posterior (from a long chain, or exact) nothing is drawn from the guide: every step takes
    ``num_particles`` of them at random. `Reparam` and `Score` are then maximum likelihood, and `Path` is the path
    gradient of the same divergence, which uses the gradient of log p at the draws as well and is zero where q is the
    posterior. The value is then the mean log-weight, an upper bound on log p(data).

    Args:
        draws: positions with a leading axis, or None.
        phase: ``"wake"``, ``"sleep"`` or ``"wake-sleep"``.
        data: ``{observed site: argument of the model}`` that carries its data, for simulated data to take its place
            (``"name.key"`` inside nested arguments). None finds the argument whose value the site observes.

    Bias: wake, self-normalisation, O(1/K); with one draw the weight is always one and the gradient pure noise. Sleep,
    none. None with exact ``draws``, beyond their finite number. References: Hinton et al., The wake-sleep algorithm,
    Science 268, 1995; Bornschein and Bengio, Reweighted wake-sleep, arXiv:1406.2751, eq. 8; Tucker et al.,
    arXiv:1810.04152, eq. 10; Vaitl et al., arXiv:2403.15881, section 4.
    """

    fixed_draws: ClassVar[bool] = True
    draws: Position | None  # type: ignore[misc]
    phase: str = eqx.field(static=True)
    data: tuple[tuple[str, str], ...] = eqx.field(static=True)

    def __init__(
        self, draws: Position | None = None, *, phase: str = "wake", data: Mapping[str, str] | None = None
    ) -> None:
        if phase not in _PHASES:
            raise ValueError(f"ForwardKL(phase={phase!r}): expected one of {list(_PHASES)}.")
        if draws is not None and phase != "wake":
            raise ValueError(
                f"ForwardKL(draws=..., phase={phase!r}): the {phase} phase simulates its own draws. Expected draws of "
                "the posterior, or a phase that simulates, not both."
            )
        if data is not None and phase == "wake":
            raise ValueError(
                "ForwardKL(data=...) says where simulated data goes, and phase='wake' simulates none: expected "
                "phase='sleep' or 'wake-sleep', or no data."
            )
        if data is not None and not (isinstance(data, Mapping) and all(isinstance(v, str) for v in data.values())):
            raise ValueError(f"ForwardKL(data={data!r}): expected {{observed site: name of the model's argument}}.")
        self.draws, self.phase = draws, phase
        self.data = tuple(sorted((str(site), argument) for site, argument in (data or {}).items()))

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

    @property
    def sleeps(self) -> bool:
        """See `AbstractObjective.sleeps`."""
        return self.phase != "wake"

    def model_gain(self, log_weights: Float[Array, " k"]) -> Float[Array, ""]:
        """Log of the mean weight."""
        return self(log_weights)

    @property
    def default_particles(self) -> int:
        """More than for a bound in the wake phase: the bias of self-normalised weights is O(1/K)."""
        return 8 if self.sleeps else 64

    def check(self, num_particles: int) -> None:
        """See `AbstractObjective.check`."""
        if num_particles < 2 and self.draws is None and not self.sleeps:
            raise ValueError(
                f"ForwardKL with num_particles={num_particles}: the self-normalised weight of a single draw is always "
                "one, so the guide would not move towards the posterior. Expected at least 2, better 32 or more."
            )

    def guide_loss(self, log_weights: Float[Array, " k"]) -> Float[Array, ""]:
        """Self-normalised estimate of KL(posterior || q), in nats. At fixed draws it is not what the gain measures."""
        return jnp.vdot(jax.nn.softmax(log_weights), log_weights) - self(log_weights)
