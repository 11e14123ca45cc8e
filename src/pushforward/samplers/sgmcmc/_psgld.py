"""Stochastic gradient Langevin dynamics with a diagonal preconditioner from past gradients."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from ...models import Target
from ...models._layout import Layout
from ...models._types import Key
from ._base import AbstractStochasticGradientSampler, Score, check_positive, check_share, check_temperature
from ._gradients import AbstractGradientEstimate, as_gradient
from ._schedule import AbstractSchedule, as_schedule


class PSGLDMemory(NamedTuple):
    """Running means over past gradients."""

    square: Float[Array, " d"]
    """Of the squared gradient."""
    slope: Float[Array, " d"]
    """Of the derivative of the squared gradient in its own coordinate; zero unless it is asked for."""
    seen: Int[Array, ""]
    """Whether there was a gradient yet: 0 or 1."""


class PSGLD(AbstractStochasticGradientSampler):
    """Preconditioned SGLD: ``x += eps (M g + T Gamma) + sqrt(2 eps T M) xi``, ``M = 1 / (floor + sqrt(V))``.

    V is the running mean of squared gradients (full-data scale) before this step, so that M and this step's gradient
    noise are independent; ``Gamma_i = dM_i / dx_i``.

    Args:
        step_size: eps, positive, or a schedule. Where gradients are large the move is about ``eps`` times their sign.
        decay: weight of the past in the running means; their memory is ``1 / (1 - decay)`` steps.
        floor: added to the root mean square of the gradient.
        curvature: include Gamma. It needs ``d2 log p / dx_i2``, estimated by one Hessian-vector product per step with a
            random sign vector (unbiased).
        temperature: T; 1 draws from the posterior.
        gradient: how the gradient is estimated; by default on the minibatch alone.

    Bias: of order eps, and without ``curvature`` one that no step size removes: where the preconditioner follows the
    position (memory short against the chain's own correlation time) the chain draws from
    ``p(x) prod_i (floor + sqrt(V_i(x)))`` instead of p: too wide, since gradients are large in the tails. With a memory
    far longer than that time M is all but constant, and there is next to no bias either way. Gamma removes the bias in
    both limits, not in between. Cost: one minibatch gradient, about three with ``curvature``.

    Reference: Li, Chen, Carlson and Carin, Preconditioned stochastic gradient Langevin dynamics for deep neural
    networks, arXiv:1512.07666, eq. 5 to 9 (their eps is twice ours, and their V includes this step's gradient).
    """

    step_size: AbstractSchedule
    decay: Array
    floor: Array
    curvature: bool = eqx.field(static=True)
    temperature: Array
    gradient: AbstractGradientEstimate
    target: Target | None
    layout: Layout | None

    def __init__(
        self,
        step_size: float | Callable[[Array], Any] | AbstractSchedule,
        *,
        decay: float = 0.99,
        floor: float = 1e-5,
        curvature: bool = False,
        temperature: float = 1.0,
        gradient: AbstractGradientEstimate | None = None,
    ) -> None:
        self.step_size = as_schedule("PSGLD", step_size, "about a tenth of the smallest posterior standard deviation")
        self.decay = check_share("PSGLD", "decay", decay, advice="0.99 remembers about 100 gradients")
        self.floor = check_positive("PSGLD", "floor", floor, advice="1e-5 is usual")
        self.curvature = curvature
        self.temperature = check_temperature("PSGLD", temperature)
        self.gradient = as_gradient("PSGLD", gradient)
        self.target, self.layout = None, None

    def start(self, key: Key, x: Float[Array, " d"]) -> PSGLDMemory:
        """See `AbstractStochasticGradientSampler.start`."""
        return PSGLDMemory(jnp.zeros_like(x), jnp.zeros_like(x), jnp.zeros((), jnp.int32))

    def advance(
        self, key: Key, x: Float[Array, " d"], dynamics: PSGLDMemory, score: Score, step_size: Float[Array, ""]
    ) -> tuple[Float[Array, " d"], PSGLDMemory, Float[Array, " d"], dict[str, Array]]:
        """See `AbstractStochasticGradientSampler.advance`."""
        key_noise, key_probe = jax.random.split(key)
        temperature, keep, floor = (v.astype(x.dtype) for v in (self.temperature, self.decay, self.floor))
        if self.curvature:
            signs = jax.random.rademacher(key_probe, x.shape, x.dtype)
            gradient, turned = jax.jvp(score, (x,), (signs,))
            slope = 2.0 * gradient * signs * turned
        else:
            gradient = score(x)
            slope = jnp.zeros_like(x)
        # Nothing is remembered at the first step, which therefore takes its own gradient.
        first = dynamics.seen == 0
        square = jnp.where(first, gradient**2, dynamics.square)
        root = jnp.sqrt(square)
        scale = 1.0 / (floor + root)
        positive = root > 0
        gamma = jnp.where(positive, -(scale**2) * dynamics.slope / (2.0 * jnp.where(positive, root, 1.0)), 0.0)
        noise = jax.random.normal(key_noise, x.shape, x.dtype)
        drift = step_size * (scale * gradient + temperature * gamma)
        moved = x + drift + jnp.sqrt(2.0 * step_size * temperature * scale) * noise
        memory = PSGLDMemory(
            jnp.where(first, square, keep * square + (1.0 - keep) * gradient**2),
            jnp.where(first, slope, keep * dynamics.slope + (1.0 - keep) * slope),
            jnp.ones((), jnp.int32),
        )
        return moved, memory, gradient, {}
