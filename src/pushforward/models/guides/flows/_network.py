"""Conditioner networks: small perceptrons that start at zero output."""

from __future__ import annotations

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from ..._types import Key


class Network(eqx.Module):
    """A perceptron with tanh activations: bounded and smooth, so that forces exist and far inputs do no harm."""

    weights: tuple[Float[Array, "out in"], ...]
    biases: tuple[Float[Array, " out"], ...]

    @classmethod
    def of(cls, key: Key, sizes: tuple[int, ...], dtype: jnp.dtype) -> Network:
        """Layers of these sizes, input to output, with weights of variance 1 / inputs; the last layer is zero."""
        shapes = list(zip(sizes[1:], sizes[:-1], strict=True))
        *hidden, last = shapes
        # One draw for all: random numbers take longer to compile than the rest of the start.
        numbers = jax.random.normal(key, (sum(rows * (columns + 1) for rows, columns in hidden),), dtype)
        weights, biases = [], []
        for rows, columns in hidden:
            block, numbers = numbers[: rows * columns], numbers[rows * columns :]
            weights.append(max(columns, 1) ** -0.5 * block.reshape(rows, columns))
            # Biases spread the bends of the first layer over the bulk of the inputs.
            biases.append(0.5 * numbers[:rows])
            numbers = numbers[rows:]
        weights.append(jnp.zeros(last, dtype))
        biases.append(jnp.zeros(last[:1], dtype))
        return cls(tuple(weights), tuple(biases))

    def __call__(self, x: Float[Array, " in"]) -> Float[Array, " out"]:
        """The output."""
        for weight, bias in zip(self.weights[:-1], self.biases[:-1], strict=True):
            x = jnp.tanh(weight @ x + bias)
        return self.weights[-1] @ x + self.biases[-1]


class MaskedNetwork(eqx.Module):
    """A perceptron whose i-th outputs depend on the inputs before i only.

    Reference: Germain et al., MADE, arXiv:1502.03509, eqs. 8 and 9.
    """

    network: Network
    dim: int = eqx.field(static=True)
    outputs: int = eqx.field(static=True)
    """Numbers per coordinate."""

    @classmethod
    def of(cls, key: Key, dim: int, hidden: int, depth: int, outputs: int, dtype: jnp.dtype) -> MaskedNetwork:
        """``depth`` hidden layers of ``hidden`` units."""
        return cls(Network.of(key, (dim, *(hidden,) * depth, outputs * dim), dtype), dim, outputs)

    def __call__(self, x: Float[Array, " dim"]) -> Float[Array, "outputs dim"]:
        """The outputs, one row per kind."""
        weights = tuple(
            w * jnp.asarray(mask, w.dtype) for w, mask in zip(self.network.weights, self._masks(), strict=True)
        )
        return Network(weights, self.network.biases)(x).reshape(self.outputs, self.dim)

    def _masks(self) -> list[np.ndarray]:
        degrees = [np.arange(self.dim)]
        for weight in self.network.weights[:-1]:
            degrees.append(np.arange(weight.shape[0]) % max(self.dim - 1, 1))
        masks = [after[:, None] >= before[None, :] for before, after in zip(degrees[:-1], degrees[1:], strict=True)]
        masks.append(np.tile(np.arange(self.dim), self.outputs)[:, None] > degrees[-1][None, :])
        return masks


def bounded(raw: Array, bound: float | Array) -> Array:
    """A number between -bound and bound, with slope one at zero."""
    return bound * jnp.tanh(raw / bound)
