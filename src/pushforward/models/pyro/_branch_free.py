"""Distributions of Pyro whose log-density branches on values, without the branch. Imports torch and pyro.

Load only from inside a function. The stable density interpolates where its integral is singular (alpha near 1, z near
0) and does so only if some element needs it: here both forms are computed for every element and one is selected, which
is the same function. The sine bivariate von Mises density sums a series of Bessel functions whose length follows the
concentrations above a minimum: here it has the minimum length, which is exact to rounding up to concentrations of 500.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator

import pyro.distributions.sine_bivariate_von_mises as sine
import pyro.distributions.stable as stable
import pyro.distributions.stable_log_prob as reference
import torch
from pyro.ops.special import log_I1

_BESSEL_TERMS = 501
_STABLE_POINTS = 501


@contextlib.contextmanager
def branch_free() -> Iterator[None]:
    """Use the branch-free forms inside the block."""
    if reference.integrate.__qualname__ == "integrate":
        # The quadrature is made at its first use; made while tracing, its nodes would belong to the trace.
        reference.set_integrator(num_points=_STABLE_POINTS)
    before = stable._stable_log_prob, sine.log_I1
    stable._stable_log_prob, sine.log_I1 = _log_prob, _log_bessel
    try:
        yield
    finally:
        stable._stable_log_prob, sine.log_I1 = before


def _log_bessel(orders: int, value: torch.Tensor, terms: torch.Tensor) -> torch.Tensor:
    return log_I1(orders, value, _BESSEL_TERMS)


def _log_prob(alpha: torch.Tensor, beta: torch.Tensor, value: torch.Tensor, coords: str) -> torch.Tensor:
    """Log-density in Nolan's parametrisation ``coords``."""
    alpha, beta, value = torch.broadcast_tensors(alpha, beta, value)
    if coords == "S":
        value = torch.where(alpha == 1, value, value - beta * (math.pi / 2 * alpha).tan())
    width = reference.alpha_near_one_tolerance
    near = (alpha - 1).abs() < width
    above = _away_from_one(torch.where(near, torch.full_like(alpha, 1 + width), alpha), beta, value)
    below = _away_from_one(torch.full_like(alpha, 1 - width), beta, value)
    return _interpolated(near, (alpha - 1) / (2 * width) + 0.5, above, below)


def _away_from_one(alpha: torch.Tensor, beta: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
    """Log-density in parametrisation S0 for alpha away from 1."""
    z = value + beta * (math.pi / 2 * alpha).tan()
    at_zero = reference._unsafe_alpha_stable_log_prob_at_zero(alpha, 0).exp().reciprocal()
    width = (reference.value_near_zero_tolerance_alpha * alpha / (1 - alpha).abs()).clamp(
        max=reference.value_near_zero_tolerance_density * at_zero
    )
    near = z.abs() < width
    right = reference._unsafe_stable_log_prob(alpha, beta, torch.where(near, width, z))
    left = reference._unsafe_stable_log_prob(alpha, beta, -width)
    return _interpolated(near, z / (2 * width) + 0.5, right, left)


def _interpolated(near: torch.Tensor, weight: torch.Tensor, upper: torch.Tensor, lower: torch.Tensor) -> torch.Tensor:
    """``upper``, and where ``near`` the density interpolated linearly between both."""
    inside = torch.where(near, weight, torch.full_like(weight, 0.5))
    mixed = torch.logsumexp(torch.stack([upper + inside.log(), lower + (1 - inside).log()]), 0)
    return torch.where(near, mixed, upper)
