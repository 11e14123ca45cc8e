"""Where draws of the ends of a path come from: arrays, functions, or nowhere."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeAlias

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PyTree

from ...models._types import Key
from ._pairings import AbstractCoupling
from ._path import AbstractPath
from ._preconditioning import Preconditioner

Source: TypeAlias = Float[Array, "n *event"] | Callable[[Key, int], Any]
"""Draws, or a function ``(key, num) -> draws``; a target's may return ``(draws, condition)``."""


class Ends(eqx.Module):
    """Draws of all ends of a path, with their conditions.

    Args:
        base: draws of the base or a function; None on paths with one end, whose base is the noise.
        target: draws of the target or a function.
        condition: arrays with one entry per draw of the target.
    """

    base: Any
    target: Any
    condition: PyTree

    def draw(self, key: Key, num: int, coupling: AbstractCoupling) -> tuple[tuple[Array, ...], PyTree]:
        """A batch of paired ends, base first, and the conditions of the target's."""
        to_base, to_target, to_pairs = jax.random.split(key, 3)
        target, condition = _drawn(self.target, to_target, num, self.condition)
        if self.base is None:
            return (target,), condition
        base = _drawn(self.base, to_target if coupling.rowwise else to_base, num, None)[0].astype(target.dtype)
        rows, columns = coupling.pairs(to_pairs, base, target, condition)
        return (base[rows], target[columns]), jax.tree.map(lambda c: c[columns], condition)

    def shapes(self, key: Key, coupling: AbstractCoupling) -> tuple[tuple[Any, ...], PyTree]:
        """Shapes and dtypes of two draws of the ends and of their conditions; draws nothing."""
        found: tuple[tuple[Any, ...], PyTree] = jax.eval_shape(lambda k: self.draw(k, 2, coupling), key)
        return found

    @eqx.filter_jit
    def preconditioner(self, key: Key, num: int) -> Preconditioner:
        """From all draws that are given, and from ``num`` draws of a function."""
        sources = [source for source in (self.base, self.target) if source is not None]
        keys = jax.random.split(key, len(sources))
        draws = [
            _drawn(source, k, num, None)[0] if callable(source) else source
            for k, source in zip(keys, sources, strict=True)
        ]
        return Preconditioner.from_draws([each.astype(draws[-1].dtype) for each in draws])


def make_ends(
    key: Key, path: AbstractPath, base: Any, target: Any, condition: PyTree, coupling: AbstractCoupling
) -> Ends:
    """Ends checked against the path, and against one another.

    Raises:
        ValueError: for what is neither draws nor a function, a base where none is wanted or none where one is, shapes
            or numbers of rows that do not match.
    """
    if (base is None) != (path.num_ends == 1):
        raise ValueError(
            f"base is {'None' if base is None else 'given'} on {type(path).__name__}, a path with {path.num_ends} "
            "end(s): expected draws of a base for two, and base=None for one, whose base is noise."
        )
    target = _check_source("target", target)
    base = None if base is None else _check_source("base", base)
    if callable(target):
        if condition is not None:
            raise ValueError(
                "condition is given and target is a function: expected a function that returns (draws, condition)."
            )
    elif condition is not None:
        condition = jax.tree.map(jnp.asarray, condition)
        for leaf in jax.tree.leaves(condition):
            if leaf.shape[:1] != target.shape[:1]:
                raise ValueError(
                    f"condition has an array of shape {leaf.shape} and target {target.shape}: expected one entry of "
                    "the condition per draw of the target."
                )
    if coupling.rowwise and (base is None or callable(base) or callable(target) or len(base) != len(target)):
        raise ValueError("coupling=Paired(): expected two arrays, base and target, with as many rows.")
    ends = Ends(base, target, condition)
    for name, source in (("base", base), ("target", target)):
        _check_count(key, name, source)
    shapes = ends.shapes(key, coupling)[0]
    if any(s.shape != shapes[-1].shape or not jnp.issubdtype(s.dtype, jnp.floating) for s in shapes):
        raise ValueError(
            f"Two draws of the ends have shapes {[s.shape for s in shapes]} and dtypes "
            f"{[str(s.dtype) for s in shapes]}: expected floating-point points of one shape."
        )
    return ends


def _check_source(name: str, value: Any) -> Any:
    if callable(value):
        return value
    try:
        found = jnp.asarray(value)
    except (TypeError, ValueError) as error:
        raise ValueError(
            f"{name} is {type(value).__name__}: expected an array of draws (n, *event), or a function (key, num) -> "
            "draws."
        ) from error
    if found.ndim < 2 or found.shape[0] < 2 or not jnp.issubdtype(found.dtype, jnp.floating):
        raise ValueError(
            f"{name} has shape {found.shape} and dtype {found.dtype}: expected at least two floating-point draws, "
            "(n, *event); points with one coordinate have shape (n, 1)."
        )
    if not np.isfinite(np.asarray(found)).all():
        raise ValueError(f"{name} has entries that are not finite: remove or repair those draws.")
    return found


def _check_count(key: Key, name: str, source: Any) -> None:
    """That a function gives as many draws as it is asked for: rows that do not exist would be taken from the last."""
    if not callable(source):
        return
    for leaf in jax.tree.leaves(jax.eval_shape(lambda k: _drawn(source, k, 2, None), key)):
        if leaf.shape[:1] != (2,):
            raise ValueError(
                f"{name}(key, 2) returned an array of shape {leaf.shape}: expected two draws, as many as it was asked "
                "for, and a condition for each."
            )


def _drawn(source: Any, key: Key, num: int, condition: PyTree) -> tuple[Array, PyTree]:
    if callable(source):
        found = source(key, num)
        draws, condition = found if isinstance(found, tuple) else (found, None)
        return jnp.asarray(draws), condition
    rows = jax.random.randint(key, (num,), 0, source.shape[0])
    return source[rows], jax.tree.map(lambda c: c[rows], condition)
