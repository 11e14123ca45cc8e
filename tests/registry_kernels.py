"""Every sampler, once: what the shared suite needs to know of it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
import optax
from registry_sgmcmc import SGMCMC
from registry_stein import STEIN

import pushforward as pf


class KernelCase(NamedTuple):
    """A sampler with settings that suit the Gaussian of `registry`."""

    build: Callable[[], Any]
    exact: bool = False
    """Markov chain whose stationary law is the target itself."""
    covariance: Callable[[np.ndarray], np.ndarray] | None = None
    """Stationary covariance of a Markov chain with a known bias, from the target's covariance."""
    cloud: tuple[float, float] | None = None
    """For flows of particles: the range of the ratios of final to true variances."""
    point: bool = False
    """For ensembles that look for the mode."""
    inverse: bool = False
    """Needs a forward map: the same Gaussian as the posterior of an inverse problem."""
    dim: int = 3
    """Coordinates of the Gaussian: methods on a grid take the first two."""
    slow: bool = False
    """Shares its mechanisms with other cases: checked in the slow tier only."""
    num_steps: int = 2000
    num_warmup: int = 500


def euler(step_size: float) -> Callable[[np.ndarray], np.ndarray]:
    """Stationary covariance of the Euler step: S = (I - eps P) S (I - eps P) + 2 eps I."""

    def stationary(covariance: np.ndarray) -> np.ndarray:
        precision = np.linalg.inv(covariance)
        return np.linalg.inv(precision - 0.5 * step_size * precision @ precision)

    return stationary


KERNELS = {
    "NUTS": KernelCase(lambda: pf.NUTS(dense_mass=True), exact=True),
    # A quarter of the period of a whitened Gaussian: near a full period HMC returns to its start and does not mix.
    "HMC": KernelCase(lambda: pf.HMC(trajectory_length=jnp.pi / 2, dense_mass=True), exact=True),
    "SGLD": KernelCase(lambda: pf.SGLD(0.2), covariance=euler(0.2), num_steps=20_000),
    "SVGD": KernelCase(lambda: pf.SVGD(50, optimizer=optax.adagrad(0.5)), cloud=(0.7, 1.05), num_steps=2000),
    "CoinSVGD": KernelCase(lambda: pf.CoinSVGD(50), cloud=(0.7, 1.05), num_steps=2000),
    "ALDI": KernelCase(lambda: pf.ALDI(20), cloud=(0.9, 1.1), num_steps=2000),
    "CBO": KernelCase(lambda: pf.CBO(100), point=True, num_steps=1000),
    "CBS": KernelCase(lambda: pf.CBS(200), cloud=(0.9, 1.1), num_steps=1000, slow=True),
    "EKS": KernelCase(lambda: pf.EKS(20), inverse=True, cloud=(0.9, 1.1), num_steps=2000, slow=True),
    "EKI": KernelCase(lambda: pf.EKI(1500), inverse=True, cloud=(0.8, 1.2), num_steps=100, slow=True),
    "SMC": KernelCase(lambda: pf.SMC(1500), cloud=(0.8, 1.2), num_steps=50),
    **{name: KernelCase(**case) for name, case in SGMCMC.items()},
    **{name: KernelCase(**case) for name, case in STEIN.items()},
}
