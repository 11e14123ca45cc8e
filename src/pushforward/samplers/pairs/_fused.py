"""The Stein force as one GPU kernel: distances, kernel values and both products never leave the chip."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

if TYPE_CHECKING:
    from ._base import AbstractRadialKernel

_ROWS, _COLUMNS = 64, 64
_LEAST_DIM = 16
"""Matrix units take no narrower products."""


def fused_force(
    kernel: AbstractRadialKernel,
    squared_bandwidth: Float[Array, ""],
    rows: Float[Array, "m d"],
    points: Float[Array, "n d"],
    scores: Float[Array, "n d"],
    weight: Float[Array, " n"],
    repulsion: Float[Array, ""],
    *,
    interpret: bool = False,
) -> Float[Array, "m d"]:
    """``sum_j w_j [k(x_i, x_j) s_j + repulsion grad_j k(x_i, x_j)]`` for centred points, in one pass over the columns.

    Dimensions are filled up with zeros to a power of two, which changes no distance. Cost: as the blocked form, but the
    only traffic is the points themselves. Not differentiable.

    Args:
        kernel: radial kernel; its profile is part of the compiled kernel.
        squared_bandwidth: its h^2.
        rows: where the force is wanted.
        points: particles.
        scores: gradients of the log-density at the particles.
        weight: weight of each particle.
        repulsion: factor of the second term.
        interpret: run the kernel as ordinary operations, on any device (for tests).
    """
    # Imported here because few need it and it takes long. Without Triton's parameters a kernel is compiled by Mosaic,
    # which wants other tiles.
    from jax.experimental import pallas as pl
    from jax.experimental.pallas import triton

    count, dim = rows.shape
    width = max(_LEAST_DIM, 1 << (dim - 1).bit_length())
    x = _padded(rows, _ROWS, width)
    y, s = (_padded(v, _COLUMNS, width) for v in (points, scores))
    w = jnp.pad(weight, (0, y.shape[0] - weight.shape[0]))
    scalars = [jnp.reshape(v, (1,)).astype(x.dtype) for v in (squared_bandwidth, repulsion)]
    whole = [pl.BlockSpec(v.shape, functools.partial(_origin, v.ndim)) for v in (y, s, w, *scalars)]
    tile = pl.BlockSpec((_ROWS, width), lambda i: (i, 0))
    out = pl.pallas_call(
        functools.partial(_body, kernel),
        grid=(x.shape[0] // _ROWS,),
        in_specs=[tile, *whole],
        out_specs=tile,
        out_shape=jax.ShapeDtypeStruct(x.shape, x.dtype),
        interpret=interpret,
        compiler_params=triton.CompilerParams(num_warps=4, num_stages=2),
    )(x, y, s, w, *scalars)
    return out[:count, :dim]


def _body(
    kernel: AbstractRadialKernel, x_ref: Any, y_ref: Any, s_ref: Any, w_ref: Any, h_ref: Any, r_ref: Any, out_ref: Any
) -> None:
    from jax.experimental import pallas as pl

    x, squared_bandwidth, repulsion = x_ref[...], h_ref[0], r_ref[0]
    norms = jnp.sum(x * x, axis=1)

    def visit(j: Array, carry: tuple[Array, Array]) -> tuple[Array, Array]:
        total, slope = carry
        block = pl.ds(j * _COLUMNS, _COLUMNS)
        y, s, w = y_ref[block, :], s_ref[block, :], w_ref[block]
        both = norms[:, None] + jnp.sum(y * y, axis=1)[None, :]
        squared = both - 2.0 * _product(x, y.T)
        # What is left of a point's distance to itself is rounding.
        squared = jnp.where(squared > 8.0 * jnp.finfo(x.dtype).eps * both, squared, 0.0)
        profile = kernel.profile(squared, squared_bandwidth)
        pull = 2.0 * repulsion * profile.first * w[None, :]
        total = total + _product(profile.value * w[None, :], s) + _product(pull, y)
        return total, slope + jnp.sum(pull, axis=1)

    start = jnp.zeros_like(x), jnp.zeros_like(norms)
    total, slope = jax.lax.fori_loop(0, y_ref.shape[0] // _COLUMNS, visit, start)
    out_ref[...] = total - slope[:, None] * x


def _product(left: Array, right: Array) -> Array:
    return jnp.dot(left, right, precision=jax.lax.Precision.HIGHEST)


def _padded(x: Array, size: int, width: int) -> Array:
    return jnp.pad(x, ((0, -x.shape[0] % size), (0, width - x.shape[1])))


def _origin(ndim: int, _: Array) -> tuple[int, ...]:
    return (0,) * ndim
