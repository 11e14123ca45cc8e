"""Langevin dynamics on an energy in which blocks see each other through their past."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from ...models import Target
from ...models._layout import Layout
from ...models._types import Key
from ._base import (
    AbstractStochasticGradientSampler,
    Score,
    StochasticGradientInfo,
    StochasticGradientState,
    check_share,
    check_temperature,
)
from ._gradients import AbstractGradientEstimate, as_gradient
from ._schedule import AbstractSchedule, as_schedule


class StructuredMemory(NamedTuple):
    """Past iterates."""

    reservoir: Float[Array, "r d"]
    age: Int[Array, ""]
    """Steps since an iterate was put into it."""


class StructuredSGLD(AbstractStochasticGradientSampler):
    """Structured SG-MCMC: SGLD on ``U_S(x) = sum_b E[U(x_b, x'_(other blocks))]``, x' from the chain's own past.

    Each step draws, for every block and independently, an earlier iterate x'; block b moves with the gradient at
    (x_b, x'_(others)). Dependence between blocks is averaged out: what is drawn is the product of blocks closest to the
    posterior in KL(q, p), with no family assumed within a block.

    Args:
        step_size: eps, positive, or a schedule; in squared units of the position.
        blocks: None for one block per site; ``"coordinates"`` for one per number; groups of site names such as
            ``[["a", "b"], ["c"]]``, the sites that are not named forming one more; or an integer array that labels the
            flat coordinates.
        dropout: None, or the probability with which a block keeps its current value. Then one gradient per step, at a
            position in which the dropped blocks are replaced by an earlier iterate's; kept blocks move with the
            gradient divided by that probability, dropped ones by noise alone. Blocks see each other's current values
            with this probability, their past otherwise.
        memory: earlier iterates that are kept (each of the size of a position).
        stride: steps between iterates put into the memory, each in the place of a random one: what is drawn from it is
            on average ``memory * stride`` steps old, which should be long against the chain's correlation time.
        temperature: T.
        gradient: how the gradient is estimated; by default on the minibatch alone.

    Bias: blocks are independent by design. For a Gaussian posterior of precision P the covariance is, as eps goes to 0,
    block-diagonal with blocks ``inv(P_bb)``; with dropout it is the inverse of P with its off-diagonal blocks
    multiplied by the keeping probability. The draws x' act as gradient noise (order eps), and their mean wanders as
    that of the iterates in memory does: a relative error of about the chain's correlation time over
    ``memory * stride``. Cost: one minibatch gradient per block and step, one altogether with ``dropout``.

    Reference: Alexos, Boyd and Mandt, Structured stochastic gradient MCMC, ICML 2022, eq. 5 to 9 and algorithm 1.
    """

    step_size: AbstractSchedule
    blocks: Any
    """As given; labels of the flat coordinates once bound."""
    num_blocks: int = eqx.field(static=True)
    dropout: Array | None
    memory: int = eqx.field(static=True)
    stride: Array
    temperature: Array
    gradient: AbstractGradientEstimate
    target: Target | None
    layout: Layout | None

    def __init__(
        self,
        step_size: float | Callable[[Array], Any] | AbstractSchedule,
        *,
        blocks: Any = None,
        dropout: float | None = None,
        memory: int = 100,
        stride: int = 10,
        temperature: float = 1.0,
        gradient: AbstractGradientEstimate | None = None,
    ) -> None:
        self.step_size = as_schedule("StructuredSGLD", step_size)
        self.blocks, self.num_blocks = blocks, 0
        self.dropout = None
        if dropout is not None:
            advice = "the probability that a block keeps its current value; None for one gradient per block"
            self.dropout = check_share("StructuredSGLD", "dropout", dropout, advice=advice)
        for name, value in (("memory", memory), ("stride", stride)):
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise ValueError(f"StructuredSGLD({name}={value!r}): expected a whole number of at least 1.")
        self.memory, self.stride = memory, jnp.asarray(stride, jnp.int32)
        self.temperature = check_temperature("StructuredSGLD", temperature)
        self.gradient = as_gradient("StructuredSGLD", gradient)
        self.target, self.layout = None, None

    def bind(self, target: Target, num_warmup: int) -> StructuredSGLD:
        """The sampler for a target, its blocks resolved.

        Raises:
            ValueError: for blocks that do not fit the target's sites.
        """
        labels = block_labels(Layout.of(target.example), self.blocks)
        sampler = super().bind(target, num_warmup)
        new = object.__new__(type(self))
        for name in self.__dataclass_fields__:
            object.__setattr__(new, name, getattr(sampler, name))
        object.__setattr__(new, "blocks", jnp.asarray(labels, jnp.int32))
        object.__setattr__(new, "num_blocks", int(labels.max()) + 1)
        return new

    def health(self, state: StochasticGradientState, info: StochasticGradientInfo) -> Array:
        """The position: what is in the memory was one."""
        return state.position

    def start(self, key: Key, x: Float[Array, " d"]) -> StructuredMemory:
        """A memory of nothing but the start."""
        return StructuredMemory(jnp.broadcast_to(x, (self.memory, *x.shape)), jnp.zeros((), jnp.int32))

    def advance(
        self, key: Key, x: Float[Array, " d"], dynamics: StructuredMemory, score: Score, step_size: Float[Array, ""]
    ) -> tuple[Float[Array, " d"], StructuredMemory, Float[Array, " d"], dict[str, Array]]:
        """See `AbstractStochasticGradientSampler.advance`."""
        key_past, key_mask, key_noise, key_slot = jax.random.split(key, 4)
        reservoir = dynamics.reservoir
        if self.dropout is None:
            drawn = reservoir[jax.random.randint(key_past, (self.num_blocks,), 0, self.memory)]
            own = self.blocks[None, :] == jnp.arange(self.num_blocks)[:, None]
            by_block = jax.vmap(score)(jnp.where(own, x, drawn))
            gradient = jnp.sum(jnp.where(own, by_block, 0.0), axis=0)
            # Coordinates of other blocks are masked out above, but what is not finite must not be.
            gradient = jnp.where(jnp.all(jnp.isfinite(by_block)), gradient, jnp.nan)
        else:
            probability = self.dropout.astype(x.dtype)
            kept = jax.random.bernoulli(key_mask, probability, (self.num_blocks,))[self.blocks]
            drawn = reservoir[jax.random.randint(key_past, (), 0, self.memory)]
            mixed = score(jnp.where(kept, x, drawn))
            gradient = jnp.where(jnp.all(jnp.isfinite(mixed)), jnp.where(kept, mixed / probability, 0.0), jnp.nan)
        spread = jnp.sqrt(2.0 * step_size * self.temperature.astype(x.dtype))
        moved = x + step_size * gradient + spread * jax.random.normal(key_noise, x.shape, x.dtype)
        due = dynamics.age + 1 >= self.stride
        # Written in any case, into its own place when none is due: no copy of the reservoir.
        slot = jax.random.randint(key_slot, (), 0, self.memory)
        entry = jnp.where(due, moved, reservoir[slot])
        memory = StructuredMemory(reservoir.at[slot].set(entry), jnp.where(due, 0, dynamics.age + 1))
        return moved, memory, gradient, {}


def block_labels(layout: Layout, blocks: Any) -> np.ndarray:
    """The block of every flat coordinate, counted from 0.

    Raises:
        ValueError: if the blocks do not fit the layout.
    """
    if isinstance(blocks, str) and blocks == "coordinates":
        return np.arange(layout.dim)
    sizes = [int(np.prod(shape, dtype=int)) for shape in layout.shapes]
    if blocks is None:
        return np.repeat(np.arange(len(sizes)), sizes)
    if isinstance(blocks, np.ndarray | jax.Array):
        labels = np.asarray(blocks)
        if labels.shape != (layout.dim,) or not np.issubdtype(labels.dtype, np.integer):
            raise ValueError(
                f"StructuredSGLD(blocks=...) has shape {labels.shape} and dtype {labels.dtype}: expected one integer "
                f"for each of the {layout.dim} unconstrained coordinates."
            )
        return np.unique(labels, return_inverse=True)[1].reshape(-1)
    groups = [list(group) for group in blocks] if isinstance(blocks, Sequence) and not isinstance(blocks, str) else None
    named = [name for group in groups or [] for name in group]
    if not named or len(set(named)) < len(named) or not set(named) <= set(layout.names):
        raise ValueError(
            f"StructuredSGLD(blocks={blocks!r}): expected None, 'coordinates', an integer array, or groups of the "
            f"sites {list(layout.names)}, each in one group at most."
        )
    assert groups is not None
    of_site = {name: i for i, group in enumerate(groups) for name in group}
    labels = np.repeat([of_site.get(name, len(groups)) for name in layout.names], sizes)
    return np.unique(labels, return_inverse=True)[1].reshape(-1)
