"""How far a power of the weights may go: bisection on the effective sample size."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int


def effective_sample_size(logits: Float[Array, " n"]) -> Float[Array, ""]:
    """``(sum w)^2 / sum w^2`` of weights exp(logits); zero where none is finite."""
    highest = jnp.max(logits)
    weights = jnp.exp(logits - jnp.where(jnp.isfinite(highest), highest, 0.0))
    squares = jnp.sum(weights**2)
    return jnp.sum(weights) ** 2 / jnp.where(squares > 0, squares, 1.0)


def largest_power(
    logits: Float[Array, " n"], fraction: float | Float[Array, ""], limit: float | Float[Array, ""]
) -> Float[Array, ""]:
    """The largest power in [0, limit] at which weights exp(power logits) keep an effective fraction of the particles.

    The fraction is of the particles whose logits are finite: those of weight zero are lost at any power.
    """
    dtype = logits.dtype
    finite = jnp.isfinite(logits)
    # Centred, so that a small power of large numbers is exact.
    centred = jnp.where(finite, logits - jnp.max(jnp.where(finite, logits, -jnp.inf)), -jnp.inf)
    wanted = jnp.asarray(fraction, dtype) * jnp.sum(finite).astype(dtype)

    def enough(power: Float[Array, ""]) -> Array:
        return effective_sample_size(jnp.where(finite, power * jnp.where(finite, centred, 0.0), -jnp.inf)) >= wanted

    def halve(_: Int[Array, ""], bounds: tuple[Array, Array]) -> tuple[Array, Array]:
        low, high = bounds
        middle = 0.5 * (low + high)
        good = enough(middle)
        return jnp.where(good, middle, low), jnp.where(good, high, middle)

    high = jnp.asarray(limit, dtype)
    # Powers may span many orders of magnitude: as many halvings as there are below one in half the exponent range.
    low, _ = jax.lax.fori_loop(0, 2 * jnp.finfo(dtype).nmant, halve, (jnp.zeros((), dtype), high))
    return jnp.where(enough(high), high, low)
