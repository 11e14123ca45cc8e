"""Continuous relaxations of discrete sites."""

from __future__ import annotations

import math
import warnings
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from ...models._types import Key
from .._numbers import as_float
from ._base import AbstractSiteStrategy, Outcome
from ._family import base_of, is_family
from ._relaxed_laws import BERNOULLI, CATEGORICAL, ONE_HOT, Relaxed, relaxed

METHODS = ("rebar", "relax", "gumbel-softmax")
_DECAY = 0.05
"""Weight of the newest value in running means."""
_HIDDEN = 8
_LEAP = 0.5
"""Largest step of a learned number."""


class Control(eqx.Module):
    """The learned control variate c(y) of a relaxed value y."""

    log_temperature: Float[Array, ""]
    scale: Float[Array, ""]
    """Multiple of the outcome at the relaxed value."""
    inward: Float[Array, "hidden 3"]
    """First layer of a network of one entry of y and its position; its outputs are added over entries."""
    outward: Float[Array, " hidden"]
    size: Float[Array, ""]
    """Running mean square of the outcome: the network's unit."""
    power: Float[Array, ""]
    """Running mean square of the gradient, times `seen`: the unit of its own gradient."""
    seen: Float[Array, ""]
    """Total weight of the past in it."""

    def network(self, y: Float[Array, "... n"]) -> Float[Array, "..."]:
        """Sum over entries of a function of entry and position, in units of the outcome."""
        position = (jnp.arange(y.shape[-1], dtype=y.dtype) + 0.5) / y.shape[-1]
        features = jnp.stack([y, jnp.broadcast_to(position, y.shape), jnp.ones_like(y)], -1)
        hidden = jnp.tanh(features @ self.inward.astype(y.dtype).T)
        unit = jnp.sqrt(jax.lax.stop_gradient(self.size)).astype(y.dtype)
        return unit * jnp.sum(hidden @ self.outward.astype(y.dtype), -1)


class Relax(AbstractSiteStrategy):
    """Gradients of Bernoulli, Categorical and one-hot (Multinomial of one trial) sites by a relaxed twin of the value.

    With z the logits plus logistic or Gumbel noise, b the value it stands for, z' a draw of z given b, and c a control
    variate: (F(b) - c(z')) d log p(b) + d c(z) - d c(z'), the last two through the noise.

    Args:
        method: ``"rebar"``: c is a multiple of F at the softened z, multiple and temperature learned; the program must
            accept relaxed values, which integer-valued Categorical sites do not. ``"relax"``: a small network on top,
            or the network alone at Categorical sites. ``"gumbel-softmax"``: the program runs with the relaxed value
            itself, which is biased and therefore has to be asked for by this name.
        temperature: positive; where learning starts, or the fixed one of ``"gumbel-softmax"``.
        learning_rate: of plain gradient steps of the control variate on the gradient's mean square, relative to it.

    Bias: none for ``"rebar"`` and ``"relax"``, whatever the control variate. Cost: two more outcomes with gradients,
    and second derivatives of the outcome for the steps.

    Reference: Tucker et al., REBAR, arXiv:1703.07370, eqs. 5 and 6; Grathwohl et al., Backpropagation through the void,
    arXiv:1711.00123, eq. 6; Jang et al., Categorical reparameterization with Gumbel-softmax, arXiv:1611.01144.
    """

    method: str = eqx.field(static=True)
    control: Control | None
    """None for ``"gumbel-softmax"``, which learns nothing."""
    temperature: float = eqx.field(static=True)
    learning_rate: float = eqx.field(static=True)

    def __init__(self, method: str = "rebar", *, temperature: float = 0.5, learning_rate: float = 0.01) -> None:
        if method not in METHODS:
            raise ValueError(f"Relax(method={method!r}): expected one of {list(METHODS)}.")
        if not (0 < as_float(temperature) < math.inf and 0 <= as_float(learning_rate) < math.inf):
            raise ValueError(
                f"Relax(temperature={temperature!r}, learning_rate={learning_rate!r}): expected a positive "
                "temperature, e.g. 0.5, and a learning rate of at least 0."
            )
        self.method, self.temperature, self.learning_rate = method, float(temperature), float(learning_rate)
        self.control = None if method == "gumbel-softmax" else _fresh(temperature)
        if self.bias:
            warnings.warn(self.bias, UserWarning, stacklevel=2)

    @property
    def pathwise(self) -> bool:  # type: ignore[override]
        """Only the biased method moves the value itself."""
        return self.method == "gumbel-softmax"

    @property
    def bias(self) -> str:  # type: ignore[override]
        """See `AbstractSiteStrategy.bias`."""
        if self.method != "gumbel-softmax":
            return ""
        return (
            "Relax('gumbel-softmax') replaces discrete values by relaxed ones: its gradient is that of another model, "
            "and biased. Relax('rebar') and Relax('relax') are not."
        )

    def draw(self, key: Key, fn: Any) -> Array:
        """See `AbstractSiteStrategy.draw`. A relaxed value for ``"gumbel-softmax"``, else one of the distribution."""
        law = relaxed(fn)
        z = law.noisy(key, law.logits)
        if self.control is None:
            return law.soften(z, jnp.asarray(self.temperature, z.dtype))
        return jax.lax.stop_gradient(law.harden(z))

    def surrogate(self, key: Key, fn: Any, value: Array, outcome: Outcome, current: Array) -> Array:
        """See `AbstractSiteStrategy.surrogate`."""
        if self.control is None:
            return jnp.zeros((), current.dtype)
        law = relaxed(fn)
        return self._whole(self.control, law.logits, law, key, value, outcome, current)

    def _whole(
        self, control: Control, logits: Array, law: Relaxed, key: Key, value: Array, outcome: Outcome, current: Array
    ) -> Array:
        """A scalar whose gradient in the logits is the estimate; that gradient is differentiable in the control."""
        current = jax.lax.stop_gradient(current)
        key_bound = jax.random.fold_in(key, 1)

        def twin(z: Array) -> Array:
            y = law.soften(z, jnp.exp(control.log_temperature).astype(z.dtype))
            out = jnp.zeros_like(current)
            if not is_family(law.fn, *CATEGORICAL):
                out = control.scale.astype(current.dtype) * outcome(y)
            if self.method == "relax":
                out = out + law.gather(control.network(law.entries(y)), current)
            return out

        weight = current - twin(law.conditional(key_bound, jax.lax.stop_gradient(logits), value))
        score = law.gather(law.log_prob(logits, value), current)
        free, bound = twin(law.noisy(key, logits)), twin(law.conditional(key_bound, logits, value))
        return jnp.sum(weight * score) + jnp.sum(free) - jnp.sum(bound)

    def steps(self, key: Key, fn: Any, value: Array, outcome: Outcome, current: Array) -> Relax | None:
        """See `AbstractSiteStrategy.steps`: down the mean square of the gradient in the logits."""
        if self.control is None:
            return None
        law = relaxed(fn)
        logits = jax.lax.stop_gradient(law.logits)

        def square(control: Control) -> Array:
            return jnp.sum(jax.grad(self._whole, argnums=1)(control, logits, law, key, value, outcome, current) ** 2)

        power, slope = jax.value_and_grad(square)(self.control)
        # Relative to the mean square of the past, so that no unit of the outcome sets the pace; one wild draw may not
        # undo many steps.
        past = self.control
        rate = self.learning_rate * past.seen / jnp.where(past.power > 0, past.power, 1.0)
        step = jax.tree.map(lambda s: jnp.clip(rate.astype(s.dtype) * s, -_LEAP, _LEAP), slope)
        size = jnp.mean(jax.lax.stop_gradient(current) ** 2).astype(past.size.dtype)
        means = (past.size - size, past.power - power.astype(past.power.dtype), past.seen - 1.0)
        step = eqx.tree_at(lambda c: (c.size, c.power, c.seen), step, tuple(_DECAY * m for m in means))
        return eqx.tree_at(lambda s: s.control, self, step)

    def differentiates(self, fn: Any) -> bool:
        """See `AbstractSiteStrategy.differentiates`. The network alone, at Categorical sites, does without."""
        return self.control is not None and not is_family(fn, *CATEGORICAL)

    def check(self, name: str, fn: Any) -> None:
        """See `AbstractSiteStrategy.check`."""
        family, base = type(base_of(fn)).__name__, base_of(fn)
        if not is_family(fn, *BERNOULLI, *ONE_HOT, *CATEGORICAL):
            raise ValueError(
                f"Relax({self.method!r}) at site '{name}': {family} has no relaxed twin. Expected Bernoulli, "
                "Categorical or Multinomial with one trial; use pf.MeasureValued(), pf.Enumerate() or pf.Score()."
            )
        if is_family(fn, *ONE_HOT) and not _is_one(base.total_count):
            raise ValueError(
                f"Relax({self.method!r}) at site '{name}': expected a Multinomial with total_count=1 (a one-hot "
                f"vector), got {base.total_count}. Use pf.Score()."
            )
        if is_family(fn, *CATEGORICAL) and self.method != "relax":
            raise ValueError(
                f"Relax({self.method!r}) at site '{name}': {family} has integer values, which cannot be softened. "
                "Expected pf.Relax('relax'), whose network needs no softened program, a one-hot "
                "Multinomial(total_count=1), or pf.Enumerate()."
            )


def _fresh(temperature: float) -> Control:
    """A control variate whose network starts at zero, with fixed distinct hidden units."""
    dtype = jnp.result_type(float)
    angles = np.linspace(0.0, 2.0 * np.pi, _HIDDEN, endpoint=False)
    inward = np.stack([2.0 * np.cos(angles), 4.0 * np.sin(angles), -np.cos(angles) - np.sin(3.0 * angles)], -1)
    return Control(
        jnp.asarray(np.log(temperature), dtype),
        jnp.ones((), dtype),
        jnp.asarray(inward, dtype),
        jnp.zeros((_HIDDEN,), dtype),
        jnp.ones((), dtype),
        jnp.zeros((), dtype),
        jnp.zeros((), dtype),
    )


def _is_one(count: Any) -> bool:
    return not isinstance(count, jax.core.Tracer) and bool(np.all(np.asarray(count) == 1))
