"""Annealed attraction."""

from __future__ import annotations

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Float, Int


class Annealing(eqx.Module):
    """Factor gamma(t) of the attraction: rises from 0 to 1 in each of some cycles, then stays at 1.

    ``gamma = ((t mod c) / c)^power`` with c = num_steps / num_cycles. While it is small, particles only repel each
    other and spread; each cycle then lets them settle. The repulsion is never scaled, so that from step ``num_steps``
    on the flow is the plain one and has its fixed points.

    Args:
        num_steps: steps in all cycles together.
        num_cycles: how often the factor rises.
        power: sharpness of the rise.

    Reference: D'Angelo and Fortuin, Annealed Stein variational gradient descent, arXiv:2101.09815, eq. 7.
    """

    num_steps: int = eqx.field(static=True)
    num_cycles: int = eqx.field(static=True)
    power: float = eqx.field(static=True)

    def __init__(self, num_steps: int, *, num_cycles: int = 5, power: float = 5.0) -> None:
        if num_steps < 1 or not 1 <= num_cycles <= num_steps or not power > 0:
            raise ValueError(
                f"Annealing(num_steps={num_steps}, num_cycles={num_cycles}, power={power}): expected at least one step "
                "per cycle and a positive power, such as Annealing(500, num_cycles=5, power=5.0)."
            )
        self.num_steps, self.num_cycles, self.power = num_steps, num_cycles, float(power)

    def __call__(self, step: Int[Array, ""]) -> Float[Array, ""]:
        """The factor at a step."""
        cycle = self.num_steps / self.num_cycles
        phase = jnp.mod(step.astype(jnp.result_type(float)), cycle) / cycle
        return jnp.where(step < self.num_steps, phase**self.power, 1.0)
