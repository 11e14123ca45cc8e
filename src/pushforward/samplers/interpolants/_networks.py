"""A network for fields that works without tuning."""

from __future__ import annotations

import math
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PyTree

from ...models._types import Key
from .._checks import check_count, check_key


class FieldNetwork(eqx.Module):
    """Fully connected layers on the point, Fourier features of point and time, and the condition.

    The last layer starts at zero, so that preconditioned fields start as those of Gaussians. Random frequencies of the
    point let few layers follow sharp edges; they are learned on.

    Args:
        key: for the weights.
        event_shape: shape of a point.
        num_outputs: how many fields are predicted.
        condition_size: numbers in a condition; 0 for none.
        width: units of a hidden layer.
        depth: hidden layers.
        num_frequencies: random frequencies of the point; 0 for none.
        frequency: their standard deviation, in cycles over 2 pi standard deviations of the points.
        num_time_frequencies: sines and cosines of whole multiples of pi t.
        dtype: of the weights.
    """

    frequencies: Float[Array, "frequency d"]
    weights: list[Float[Array, "_ _"]]
    biases: list[Float[Array, " _"]]
    event_shape: tuple[int, ...] = eqx.field(static=True)
    num_outputs: int = eqx.field(static=True)
    num_time_frequencies: int = eqx.field(static=True)

    def __init__(
        self,
        key: Key,
        event_shape: tuple[int, ...],
        num_outputs: int = 1,
        *,
        condition_size: int = 0,
        width: int = 256,
        depth: int = 4,
        num_frequencies: int = 64,
        frequency: float = 2.0,
        num_time_frequencies: int = 4,
        dtype: Any = None,
    ) -> None:
        check_key(key)
        depth, width = check_count("depth", depth, 1), check_count("width", width, 1)
        self.event_shape, self.num_outputs = tuple(event_shape), check_count("num_outputs", num_outputs, 1)
        self.num_time_frequencies = check_count("num_time_frequencies", num_time_frequencies, 0)
        dtype = jnp.result_type(float) if dtype is None else dtype
        size = math.prod(self.event_shape)
        to_frequencies, *keys = jax.random.split(key, depth + 2)
        shape = (check_count("num_frequencies", num_frequencies, 0), size)
        # Sums over many coordinates keep the frequency of one.
        self.frequencies = jax.random.normal(to_frequencies, shape, dtype) * (frequency / size**0.5)
        inputs = size + 2 * num_frequencies + 1 + 2 * num_time_frequencies + condition_size
        sizes = [inputs, *[width] * depth]
        self.weights = [
            jax.random.normal(k, (n, m), dtype) * (2.0 / m) ** 0.5
            for k, m, n in zip(keys, sizes[:-1], sizes[1:], strict=False)
        ]
        self.weights.append(jnp.zeros((self.num_outputs * size, width), dtype))
        self.biases = [jnp.zeros((w.shape[0],), dtype) for w in self.weights]

    def __call__(
        self, t: Float[Array, ""], x: Float[Array, " *event"], condition: PyTree = None
    ) -> Float[Array, "quantity *event"]:
        """Predictions at one time and point."""
        dtype = self.frequencies.dtype
        point = jnp.ravel(x).astype(dtype)
        phases = self.frequencies @ point
        turns = jnp.pi * t.astype(dtype) * jnp.arange(1, self.num_time_frequencies + 1, dtype=dtype)
        features = [point, jnp.sin(phases), jnp.cos(phases)]
        features += [2.0 * t.astype(dtype)[None] - 1.0, jnp.sin(turns), jnp.cos(turns)]
        features += [jnp.ravel(leaf).astype(dtype) for leaf in jax.tree.leaves(condition)]
        hidden = jnp.concatenate(features)
        if hidden.shape[0] != self.weights[0].shape[1]:
            raise ValueError(
                f"A point of shape {x.shape} with its condition gives {hidden.shape[0]} features: expected "
                f"{self.weights[0].shape[1]}, from points of shape {self.event_shape} and conditions of the size the "
                "network was made for (condition_size)."
            )
        for weight, bias in zip(self.weights[:-1], self.biases[:-1], strict=True):
            hidden = jax.nn.silu(weight @ hidden + bias)
        output = self.weights[-1] @ hidden + self.biases[-1]
        return jnp.reshape(output, (self.num_outputs, *self.event_shape))
