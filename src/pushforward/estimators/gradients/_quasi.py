"""Quasi-random noise, randomised anew in every step."""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from ...models import Target
from ...models._types import Key
from ...models.guides import AbstractGuide
from ..objectives import AbstractObjective
from ._base import particle_keys, power_of

DRAWS = ("random", "sobol")
_MOST_DIMENSIONS = 21_201
"""Of the table of direction numbers (Joe and Kuo, 2008)."""


def particle_noise(draws: str, key: Key, guide: AbstractGuide, num_particles: int) -> Key:
    """What the particles consume: keys or independent noise as given, or scrambled Sobol points as normal noise.

    Points are scrambled by random digits that are taken from the noise of the first two particles, so that the step's
    randomness is where it always is: in the key, or in noise that was drawn ahead. Each point is uniform by itself,
    hence the mean over points of any function is unbiased; together they fill the cube evenly.
    """
    keys = particle_keys(key, num_particles)
    if draws == "random" or num_particles == 1:
        return keys
    first, second = jax.vmap(guide.noise)(keys[:2])
    points = jnp.asarray(_sobol(num_particles, first.size)).reshape(num_particles, *first.shape)
    shift, seed = _digits(first), _digits(second)
    # The last step makes every point exactly uniform, whatever the quality of the first.
    return _to_normal(_scramble(points, seed) ^ shift, first.dtype)


def check_draws(name: str, draws: str, objective: AbstractObjective, target: Target, guide: AbstractGuide) -> None:
    """Refuse quasi-random draws where they would be biased or have no noise to replace."""
    if draws == "random":
        return
    if not is_mean(objective):
        raise ValueError(
            f"{name}(draws={draws!r}) makes draws that depend on each other: expected pf.ELBO(), a mean over draws, "
            f"got {objective.label}(), whose value and gradient assume independent ones. Use draws='random'."
        )
    noise: Any = jax.eval_shape(guide.noise, jax.random.key(0))
    if not jnp.issubdtype(noise.dtype, jnp.floating) or not 1 <= noise.size <= _MOST_DIMENSIONS:
        raise ValueError(
            f"{name}(draws={draws!r}) replaces the normal noise of a guide, at most {_MOST_DIMENSIONS} numbers: "
            f"{type(guide).__name__} has no such noise. Expected a Gaussian guide or a flow, or draws='random'."
        )


def is_mean(objective: AbstractObjective) -> bool:
    """Whether the guide follows the mean of the log-weights, so that draws do not meet in the objective."""
    known = power_of(objective.guide_gain)
    return known is not None and known[1] == 0.0 and not objective.fixed_draws


def resolve_draws(name: str, draws: object) -> str:
    """A known kind of draws, or an error."""
    if draws not in DRAWS:
        raise ValueError(f"{name}(draws={draws!r}): expected one of {list(DRAWS)}.")
    return str(draws)


@functools.lru_cache(maxsize=16)
def _sobol(count: int, dim: int) -> np.ndarray:
    """The first points of the Sobol sequence, as 32-bit integers (count, dim)."""
    from scipy.stats import qmc

    size = 1 << max(count - 1, 1).bit_length()
    points = qmc.Sobol(dim, scramble=False, bits=32).random(size)[:count]
    return np.round(points * 2.0**32).astype(np.uint32)


def _digits(noise: Float[Array, "..."]) -> Array:
    """Uniform 32-bit integers from standard normal numbers (24 leading bits in single precision)."""
    uniform = jnp.clip(jax.scipy.special.ndtr(noise), 0.0, 1.0 - 2.0**-24)
    return (uniform * jnp.asarray(2.0**32, noise.dtype)).astype(jnp.uint32)


def _to_normal(digits: Array, dtype: Any) -> Float[Array, "..."]:
    bits = 32 if jnp.finfo(dtype).nmant > 32 else 23
    kept = (digits >> np.uint32(32 - bits)).astype(dtype)
    return jax.scipy.special.ndtri((kept + jnp.asarray(0.5, dtype)) * jnp.asarray(2.0**-bits, dtype))


def _scramble(points: Array, seed: Array) -> Array:
    """Nested scrambling: a bijection of each coordinate in which every digit is changed by the digits before it only.

    In reversed bit order that is what sums, odd products and products with even numbers added bit by bit do, so that a
    few of them with random constants stand in for a random tree of digit swaps.

    Reference: Owen, Randomly permuted (t, m, s)-nets, 1995.
    """
    constants = [_mix(seed + np.uint32(0x9E3779B9 * i % 2**32)) for i in range(1, 6)]
    odd, even = np.uint32(1), np.uint32(0xFFFFFFFE)
    x = _reverse(points)
    x = x * (constants[0] | odd) + constants[1]
    x = x ^ (x * (constants[2] & even))
    x = x * (constants[3] | odd)
    x = x ^ (x * (constants[4] & even))
    return _reverse(x)


def _mix(x: Array) -> Array:
    """A 32-bit integer whose digits all depend on all digits of another."""
    for multiplier in (0x7FEB352D, 0x846CA68B):
        x = (x ^ (x >> np.uint32(16))) * np.uint32(multiplier)
    return x ^ (x >> np.uint32(15))


def _reverse(x: Array) -> Array:
    """The binary digits in reverse order."""
    for width, mask in ((1, 0x55555555), (2, 0x33333333), (4, 0x0F0F0F0F), (8, 0x00FF00FF)):
        low, by = np.uint32(mask), np.uint32(width)
        x = ((x >> by) & low) | ((x & low) << by)
    return (x >> np.uint32(16)) | (x << np.uint32(16))
