"""Minibatch gradients with a control variate at a fixed point."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float

from ...models._types import Batch
from ._density import LogDensity
from ._gradients import AbstractGradientEstimate

_TOLERANCE = 1e-6
"""The search ends where a step of Newton's size would gain this many nats, about."""


class ControlVariate(AbstractGradientEstimate):
    """``g_B(x) - g_B(c) + g(c)``: the minibatch's error at a centre c, where the full gradient is known, is taken off.

    Args:
        around: the centre: a fitted or sampled posterior (the mean of its draws on unconstrained space), a position of
            the target, or None to climb to a mode when the sampler is bound.
        num_steps: at most this many steps of that climb (L-BFGS on all data, from the origin).

    Bias: none, whatever the centre. Variance: of order ``|x - c|^2`` where the log-density is smooth, so near the mode
    of a large data set far below that of `Minibatch`, far from it above. Cost: two minibatch gradients per step, and
    the climb, once.

    Reference: Baker, Fearnhead, Fox and Nemeth, Control variates for stochastic gradient MCMC, arXiv:1706.05439,
    section 2.2.
    """

    around: Any
    centre: Array | None
    full: Array | None
    num_steps: Array

    def __init__(self, around: Any = None, *, num_steps: int = 1000) -> None:
        positions = getattr(around, "positions", None)
        if positions is not None:
            around = jax.tree.map(lambda x: np.mean(np.asarray(x), axis=(0, 1)), positions)
        if isinstance(num_steps, bool) or not isinstance(num_steps, int) or num_steps < 1:
            raise ValueError(f"ControlVariate(num_steps={num_steps!r}): expected a whole number of at least 1.")
        self.around = around
        self.centre, self.full = None, None
        self.num_steps = jnp.asarray(num_steps, jnp.int32)

    def bind(self, density: LogDensity) -> ControlVariate:
        """Find the centre and the full gradient there.

        Raises:
            ValueError: if ``around`` is no position of the target, or density or gradient are not finite there or where
                the climb would start.
        """
        layout = density.layout
        if self.around is None:
            origin = layout.ravel(density.target.example)
            centre, full = _climb(density, origin, self.num_steps)
            where = "the origin of unconstrained space, from where the climb to a mode starts"
        else:
            structure = jax.tree.structure(density.target.example)
            shapes = [np.shape(x) for x in jax.tree.leaves(self.around)]
            if jax.tree.structure(self.around) != structure or shapes != list(layout.shapes):  # type: ignore[operator]
                raise ValueError(
                    f"ControlVariate(around=...) has structure {jax.tree.map(np.shape, self.around)}: expected a "
                    f"position of the target, with sites {layout.names} of shapes {layout.shapes}, or a posterior of "
                    "it. Values in the user's space become a position by target.unconstrain(values)."
                )
            centre = layout.ravel(jax.tree.map(jnp.asarray, self.around))
            full = _full_gradient(density, centre)
            where = "around"
        if not bool(jnp.all(jnp.isfinite(full)) & jnp.all(jnp.isfinite(centre))):
            raise ValueError(
                f"The density or its gradient is not finite at {where}. Expected ControlVariate(around=...) with a "
                "position of finite density, such as the result of pf.fit(target, pf.Delta(), ...)."
            )
        return _with(self, around=None, centre=centre, full=full)

    def init(self, density: LogDensity, x: Float[Array, " d"]) -> tuple[()]:
        """Nothing to remember."""
        return ()

    def __call__(
        self, density: LogDensity, x: Float[Array, " d"], batch: Batch | None, memory: tuple[()]
    ) -> Float[Array, " d"]:
        """See `AbstractGradientEstimate`."""
        if batch is None:
            return density.gradient(x)
        assert self.centre is not None
        assert self.full is not None
        return density.gradient(x, batch) + (self.full - density.gradient(self.centre, batch))


class _Climb(NamedTuple):
    x: Array
    gradient: Array
    memory: Any
    step: Array
    settled: Array


@jax.jit
def _full_gradient(density: LogDensity, x: Array) -> Array:
    return density.gradient(x)


@jax.jit
def _climb(density: LogDensity, x: Array, num_steps: Array) -> tuple[Array, Array]:
    """L-BFGS with a line search; stops where the last step changed the density by no more than rounding."""
    optimizer = optax.lbfgs()

    def loss(x: Array) -> Array:
        return -density(x)

    value_and_grad = optax.value_and_grad_from_state(loss)

    def advance(climb: _Climb) -> _Climb:
        value, gradient = value_and_grad(climb.x, state=climb.memory)
        updates, memory = optimizer.update(gradient, climb.memory, climb.x, value=value, grad=gradient, value_fn=loss)
        gain = -jnp.sum(updates * gradient)
        return _Climb(climb.x + updates, gradient, memory, climb.step + 1, ~(gain > _TOLERANCE))

    start = _Climb(x, jnp.zeros_like(x), optimizer.init(x), jnp.zeros((), jnp.int32), jnp.asarray(False))
    end = jax.lax.while_loop(lambda c: (c.step < num_steps) & ~c.settled, advance, start)
    return end.x, density.gradient(end.x)


def _with(estimate: ControlVariate, **fields: Any) -> ControlVariate:
    # A copy: fields that hold None have no leaf that `eqx.tree_at` could replace.
    new = object.__new__(type(estimate))
    for name in estimate.__dataclass_fields__:
        object.__setattr__(new, name, fields.get(name, getattr(estimate, name)))
    return new
