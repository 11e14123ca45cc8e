"""Thermodynamic variational objective."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from .._numbers import as_float
from ._base import AbstractObjective


class TVO(AbstractObjective):
    """Left Riemann sum of thermodynamic integration: sum_j (b_(j+1) - b_j) E_(pi_b_j)[l] <= log p(data).

    pi_b is proportional to q^(1-b) p^b; its expectations are self-normalised importance averages of the same K draws.
    One interval (0, 1) is the ELBO; finer partitions approach the IWELBO from below: ELBO <= TVO <= IWELBO for any K
    log-weights, because the tempered mean increases with b.

    Args:
        partition: inverse temperatures from 0 to 1, increasing, or the number of intervals: one from 0 to 0.025 and the
            others logarithmically spaced above, the spacing that the paper found robust.

    Bias: self-normalisation, O(1/K), towards the ELBO. Reference: Masrani et al., The thermodynamic variational
    objective, arXiv:1907.00031, eqs. 9 and 14.
    """

    partition: tuple[float, ...] = eqx.field(static=True)

    def __init__(self, partition: int | Sequence[float] = 5) -> None:
        if isinstance(partition, int | np.integer) and not isinstance(partition, bool):
            if partition < 1:
                raise ValueError(f"TVO(partition={partition}): expected at least one interval.")
            inner = np.geomspace(0.025, 1.0, partition) if partition > 1 else [1.0]
            points = [0.0, *(float(x) for x in inner)]
        else:
            listed: Any = partition if isinstance(partition, Sequence) or getattr(partition, "ndim", 0) == 1 else ()
            points = [as_float(x) for x in listed]
        if len(points) < 2 or points[0] != 0.0 or points[-1] != 1.0 or not bool(np.all(np.diff(points) > 0)):
            raise ValueError(
                f"TVO(partition={partition!r}): expected increasing inverse temperatures that start at 0 and end at 1, "
                "e.g. (0, 0.1, 1), or a number of intervals."
            )
        self.partition = tuple(points)

    def __call__(self, log_weights: Float[Array, " k"]) -> Float[Array, ""]:
        """Riemann sum over self-normalised averages of the log-weights."""
        points = jnp.asarray(self.partition, log_weights.dtype)
        tempered = jax.nn.softmax(points[:-1, None] * log_weights[None, :], axis=1)
        return jnp.diff(points) @ (tempered @ log_weights)
