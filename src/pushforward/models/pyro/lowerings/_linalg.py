"""Products, factorisations and solves. Matrices are the last two axes; leading axes are batched."""

from __future__ import annotations

import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
import jax.scipy.linalg as jsl
from jaxtyping import Array

from ._promotion import absolute, cast, same_rank
from ._registry import table

TABLE, _lowers = table()


def _matmul(a: Array, b: Array) -> Array:
    return jnp.matmul(a, b, precision=jax.lax.Precision.HIGHEST)


for _name in ("mm", "bmm", "mv", "dot", "vdot", "matmul"):
    TABLE[f"aten.{_name}"] = _matmul


def _weigh(x: Array, factor: Any) -> Array:
    return x if factor == 1 else x * cast(factor, x.dtype)


@_lowers("aten.addmm", "aten.addmv", "aten.baddbmm")
def _addmm(x: Array, a: Array, b: Array, *, beta: Any = 1, alpha: Any = 1) -> Array:
    product = _weigh(_matmul(a, b), alpha)
    if beta == 0:
        return product
    left, right = same_rank(_weigh(x, beta), product)
    return left + right


@_lowers("aten.addbmm")
def _addbmm(x: Array, a: Array, b: Array, *, beta: Any = 1, alpha: Any = 1) -> Array:
    return _weigh(x, beta) + _weigh(jnp.sum(_matmul(a, b), 0), alpha)


@_lowers("aten.addr")
def _addr(x: Array, a: Array, b: Array, *, beta: Any = 1, alpha: Any = 1) -> Array:
    left, right = same_rank(_weigh(x, beta), _weigh(a[:, None] * b[None, :], alpha))
    return left + right


def _cholesky(a: Array, upper: bool = False) -> Array:
    lower = jnp.linalg.cholesky(a)
    return jnp.swapaxes(lower, -1, -2) if upper else lower


TABLE["aten.cholesky"] = _cholesky


@_lowers("aten.linalg_cholesky_ex")
def _cholesky_ex(a: Array, *, upper: bool = False, check_errors: bool = False) -> tuple[Array, Array]:
    return _cholesky(a, upper), jnp.zeros(a.shape[:-2], jnp.int32)


def _batched(a: Array, b: Array) -> tuple[Array, Array]:
    """Broadcast the batch axes of two matrices."""
    lead = jnp.broadcast_shapes(a.shape[:-2], b.shape[:-2])
    return jnp.broadcast_to(a, lead + a.shape[-2:]), jnp.broadcast_to(b, lead + b.shape[-2:])


@_lowers("aten.linalg_solve_triangular")
def _solve_triangular(a: Array, b: Array, *, upper: bool, left: bool = True, unitriangular: bool = False) -> Array:
    a, b = _batched(a, b)
    return jax.lax.linalg.triangular_solve(a, b, left_side=left, lower=not upper, unit_diagonal=unitriangular)


@_lowers("aten.triangular_solve")
def _triangular_solve(
    b: Array, a: Array, upper: bool = True, transpose: bool = False, unitriangular: bool = False
) -> tuple[Array, Array]:
    a, b = _batched(a, b)
    out = jax.lax.linalg.triangular_solve(
        a, b, left_side=True, lower=not upper, transpose_a=transpose, unit_diagonal=unitriangular
    )
    return out, a


def _two_solves(b: Array, factor: Array, upper: bool) -> Array:
    first = jax.lax.linalg.triangular_solve(factor, b, left_side=True, lower=not upper, transpose_a=upper)
    return jax.lax.linalg.triangular_solve(factor, first, left_side=True, lower=not upper, transpose_a=not upper)


@functools.partial(jax.custom_jvp, nondiff_argnums=(2,))
def _solve_by_factor(b: Array, factor: Array, upper: bool) -> Array:
    return _two_solves(b, factor, upper)


@_solve_by_factor.defjvp
def _solve_by_factor_jvp(
    upper: bool, primals: tuple[Array, Array], tangents: tuple[Array, Array]
) -> tuple[Array, Array]:
    # Torch differentiates with respect to every entry of the factor, not only those of its triangle.
    (b, factor), (db, df) = primals, tangents
    x = _solve_by_factor(b, factor, upper)
    half = _matmul(jnp.swapaxes(df, -1, -2), factor) if upper else _matmul(df, jnp.swapaxes(factor, -1, -2))
    change = _matmul(half + jnp.swapaxes(half, -1, -2), x)
    return x, _solve_by_factor(db - change, factor, upper)


@_lowers("aten.cholesky_solve", "aten._cholesky_solve_helper")
def _cholesky_solve(b: Array, factor: Array, upper: bool = False) -> Array:
    factor, b = _batched(factor, b)
    return _solve_by_factor(b, factor, upper)


@_lowers("aten.cholesky_inverse")
def _cholesky_inverse(factor: Array, upper: bool = False) -> Array:
    identity = jnp.broadcast_to(jnp.eye(factor.shape[-1], dtype=factor.dtype), factor.shape)
    return _solve_by_factor(identity, factor, upper)


def _solve(a: Array, b: Array, left: bool = True) -> Array:
    if not left:
        return jnp.swapaxes(_solve(jnp.swapaxes(a, -1, -2), jnp.swapaxes(b, -1, -2)), -1, -2)
    a, b = _batched(a, b)
    return jnp.linalg.solve(a, b)


@_lowers("aten._linalg_solve_ex")
def _solve_ex(a: Array, b: Array, *, left: bool = True, check_errors: bool = False) -> tuple[Any, ...]:
    # A right-hand side with one axis less is a stack of vectors.
    vector = b.ndim == 1 or (b.ndim == a.ndim - 1 and b.shape == a.shape[:-1])
    out = _solve(a, b[..., None], left)[..., 0] if vector else _solve(a, b, left)
    factor, pivots, _ = jax.lax.linalg.lu(a)
    return out, factor, pivots + 1, jnp.zeros(a.shape[:-2], jnp.int32)


@_lowers("aten.linalg_inv_ex")
def _inv_ex(a: Array, *, check_errors: bool = False) -> tuple[Array, Array]:
    return jnp.linalg.inv(a), jnp.zeros(a.shape[:-2], jnp.int32)


TABLE["aten.inverse"] = jnp.linalg.inv


@_lowers("aten._linalg_det")
def _det(a: Array) -> tuple[Any, ...]:
    factor, pivots, _ = jax.lax.linalg.lu(a)
    return jnp.linalg.det(a), factor, pivots + 1


@_lowers("aten._linalg_slogdet")
def _slogdet(a: Array) -> tuple[Any, ...]:
    factor, pivots, _ = jax.lax.linalg.lu(a)
    sign, value = jnp.linalg.slogdet(a)
    return sign, value, factor, pivots + 1


@_lowers("aten.linalg_lu_factor_ex")
def _lu_factor_ex(a: Array, *, pivot: bool = True, check_errors: bool = False) -> tuple[Array, Array, Array]:
    factor, pivots, _ = jax.lax.linalg.lu(a)
    return factor, pivots + 1, jnp.zeros(a.shape[:-2], jnp.int32)


@_lowers("aten.linalg_lu_solve")
def _lu_solve(factor: Array, pivots: Array, b: Array, *, left: bool = True, adjoint: bool = False) -> Array:
    permutation = jax.lax.linalg.lu_pivots_to_permutation(pivots - 1, factor.shape[-2])
    factor, b = _batched(factor, b)
    permutation = jnp.broadcast_to(permutation, factor.shape[:-1])
    if not left:
        return jnp.swapaxes(_lu_apply(factor, permutation, jnp.swapaxes(b, -1, -2), not adjoint), -1, -2)
    return _lu_apply(factor, permutation, b, adjoint)


def _lu_apply(factor: Array, permutation: Array, b: Array, transpose: bool) -> Array:
    solve = jax.lax.linalg.triangular_solve
    if not transpose:
        y = jnp.take_along_axis(b, permutation[..., None], -2)
        y = solve(factor, y, left_side=True, lower=True, unit_diagonal=True)
        return solve(factor, y, left_side=True, lower=False)
    y = solve(factor, b, left_side=True, lower=False, transpose_a=True)
    y = solve(factor, y, left_side=True, lower=True, transpose_a=True, unit_diagonal=True)
    return jnp.take_along_axis(y, jnp.argsort(permutation, -1)[..., None], -2)


@_lowers("aten.linalg_qr")
def _qr(a: Array, mode: str = "reduced") -> tuple[Array, Array]:
    if mode == "r":
        return jnp.zeros((0,), a.dtype), jnp.linalg.qr(a, mode="r")
    q, r = jnp.linalg.qr(a, mode=mode)
    return q, r


@_lowers("aten._linalg_eigh")
def _eigh(a: Array, uplo: str = "L", compute_v: bool = True) -> tuple[Array, Array]:
    # Torch reads one triangle only, but spreads the derivative over both.
    half = jnp.tril(a) if uplo.upper() == "L" else jnp.swapaxes(jnp.triu(a), -1, -2)
    even = 0.5 * (a + jnp.swapaxes(a, -1, -2))
    full = even + jax.lax.stop_gradient(half + jnp.swapaxes(jnp.tril(half, -1), -1, -2) - even)
    values, vectors = jnp.linalg.eigh(full, symmetrize_input=False)
    return values, vectors


@_lowers("aten.linalg_pinv.atol_rtol_tensor", "aten.linalg_pinv.atol_rtol_float")
def _pinv(a: Array, *, atol: Any = None, rtol: Any = None, hermitian: bool = False) -> Array:
    if atol is not None:
        raise ValueError("torch.linalg.pinv with atol has no JAX lowering: expected rtol only.")
    return jnp.linalg.pinv(a, rtol=max(a.shape[-2:]) * jnp.finfo(a.dtype).eps if rtol is None else rtol)


@_lowers("aten._linalg_svd")
def _svd(
    a: Array, full_matrices: bool = False, compute_uv: bool = True, *, driver: str | None = None
) -> tuple[Array, Array, Array]:
    if not compute_uv:
        empty = jnp.zeros((0,), a.dtype)
        return empty, jnp.linalg.svd(a, compute_uv=False), empty
    u, s, vh = jnp.linalg.svd(a, full_matrices=full_matrices)
    return u, s, vh


@_lowers("aten.linalg_matrix_exp")
def _matrix_exp(a: Array) -> Array:
    if a.ndim == 2:
        return jsl.expm(a)
    flat = jnp.reshape(a, (math.prod(a.shape[:-2]),) + a.shape[-2:])
    return jnp.reshape(jax.vmap(jsl.expm)(flat), a.shape)


@_lowers("aten.linalg_cross")
def _cross(a: Array, b: Array, *, dim: int = -1) -> Array:
    a, b = jnp.broadcast_arrays(a, b)
    return jnp.cross(a, b, axis=dim)


@_lowers("aten._trilinear")
def _trilinear(
    a: Array, b: Array, c: Array, new_a: Any, new_b: Any, new_c: Any, summed: tuple[int, ...], unroll_dim: int = 1
) -> Array:
    def widen(x: Array, dims: tuple[int, ...]) -> Array:
        for d in dims:
            x = jnp.expand_dims(x, d)
        return x

    return jnp.sum(widen(a, new_a) * widen(b, new_b) * widen(c, new_c), summed)


@_lowers("aten.trace")
def _trace(a: Array) -> Array:
    return jnp.trace(a)


@_lowers("aten.linalg_vector_norm")
def _vector_norm(x: Array, ord: Any = 2, dim: Any = None, keepdim: bool = False, *, dtype: str | None = None) -> Array:  # noqa: A002
    axes = (
        tuple(range(x.ndim))
        if dim is None
        else tuple(d % x.ndim for d in (dim if isinstance(dim, tuple) else (dim,)) if x.ndim)
    )
    size = absolute(x)
    if ord == math.inf:
        return jnp.max(size, axes, keepdims=keepdim)
    if ord == -math.inf:
        return jnp.min(size, axes, keepdims=keepdim)
    if ord == 0:
        return jnp.sum((x != 0).astype(x.dtype), axes, keepdims=keepdim)
    if ord == 1:
        return jnp.sum(size, axes, keepdims=keepdim)
    total = jnp.sum(size * size if ord == 2 else size**ord, axes, keepdims=keepdim)
    # Torch's derivative of a norm at zero is zero.
    zero = total == 0
    safe = jnp.where(zero, jnp.ones_like(total), total)
    root = jnp.sqrt(safe) if ord == 2 else safe ** (1.0 / ord)
    return jnp.where(zero, jnp.zeros_like(total), root)


@_lowers("aten.norm")
def _norm(x: Array, p: Any = 2, dim: Any = None, keepdim: bool = False, *, dtype: str | None = None) -> Array:
    return _vector_norm(x, 2 if p is None else p, dim, keepdim)


@_lowers("aten.block_diag")
def _block_diag(blocks: tuple[Array, ...]) -> Array:
    return jsl.block_diag(*[jnp.atleast_2d(b) for b in blocks])


@_lowers("aten._cdist_forward", "aten._euclidean_dist")
def _cdist(x: Array, y: Array, p: float = 2.0, compute_mode: Any = None) -> Array:
    difference = x[..., :, None, :] - y[..., None, :, :]
    return _vector_norm(difference, p, -1)


@_lowers("aten._pdist_forward")
def _pdist(x: Array, p: float = 2.0) -> Array:
    i, j = jnp.triu_indices(x.shape[0], 1)
    return _vector_norm(x[i] - x[j], p, -1)


_FFT_NORM = {0: "backward", 1: "ortho", 2: "forward"}


def _fft_scale(x: Array, dims: tuple[int, ...], shape: tuple[int, ...], normalization: int) -> Array:
    count = math.prod(shape[d] for d in dims)
    return x / jnp.asarray({0: 1.0, 1: math.sqrt(count), 2: float(count)}[normalization], x.real.dtype).astype(x.dtype)


@_lowers("aten._fft_r2c")
def _fft_r2c(x: Array, dim: tuple[int, ...], normalization: int, onesided: bool) -> Array:
    out = jnp.fft.rfftn(x, axes=dim) if onesided else jnp.fft.fftn(x, axes=dim)
    return _fft_scale(out, dim, x.shape, normalization)


@_lowers("aten._fft_c2c")
def _fft_c2c(x: Array, dim: tuple[int, ...], normalization: int, forward: bool) -> Array:
    count = math.prod(x.shape[d] for d in dim)
    out = (
        jnp.fft.fftn(x, axes=dim)
        if forward
        else jnp.fft.ifftn(x, axes=dim) * jnp.asarray(count, x.real.dtype).astype(x.dtype)
    )
    return _fft_scale(out, dim, x.shape, normalization)


@_lowers("aten._fft_c2r")
def _fft_c2r(x: Array, dim: tuple[int, ...], normalization: int, last_dim_size: int) -> Array:
    shape = [x.shape[d] for d in dim[:-1]] + [last_dim_size]
    out = jnp.fft.irfftn(x, s=shape, axes=dim) * jnp.asarray(math.prod(shape), x.real.dtype)
    return out / jnp.asarray(
        {0: 1.0, 1: math.sqrt(math.prod(shape)), 2: float(math.prod(shape))}[normalization], out.dtype
    )
