"""DPM-Solver++: the linear part of a diffusion in closed form, the prediction of the data extrapolated."""

from __future__ import annotations

from typing import ClassVar

import equinox as eqx

from ._multistep import AbstractMultistep, check_order


class DPMSolver(AbstractMultistep):
    """Multistep DPM-Solver++ for paths from noise: ``flow(fields, x, rule=DPMSolver())``.

    With ``u = log(c / gamma)`` the solution over a step is ``gamma_1 x_0 / gamma_0 + c_1 int exp(u - u_1) D(u) du``,
    where D is the expectation of the data. D is a polynomial through its last values, and the integral is taken exactly
    (the published second-order weights differ from these by terms of third order). A step from where there is no data,
    or to where there is no noise, is endless in u: the first is exact in the limit, the second of order 1. Order 1 is
    the deterministic sampler DDIM.

    Args:
        order: 1 to 3.

    Reference: Lu et al., DPM-Solver++, arXiv:2211.01095, eq. 8 and algorithm 2.
    """

    order: int = eqx.field(static=True)
    kind: ClassVar[str | None] = "log-ratio"

    def __init__(self, order: int = 2) -> None:
        self.order = check_order(order, 3)
