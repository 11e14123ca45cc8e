"""Floating-point width, on the user's request."""

from __future__ import annotations

from types import TracebackType

import jax


class enable_x64:  # noqa: N801  (used like a function)
    """Switch JAX to 64-bit floats, for the whole process or for a ``with`` block.

    Call it before arrays and targets are made: those that exist keep their width. The library itself never changes it.

    Args:
        use: True for 64-bit, False for 32-bit.

    Example:
        >>> with enable_x64():
        ...     jax.numpy.zeros(1).dtype
        dtype('float64')
    """

    def __init__(self, use: bool = True) -> None:  # noqa: FBT001, FBT002
        self._before = bool(jax.config.read("jax_enable_x64"))
        jax.config.update("jax_enable_x64", use)

    def __repr__(self) -> str:
        return f"{64 if jax.config.read('jax_enable_x64') else 32}-bit floats"

    def __enter__(self) -> enable_x64:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        jax.config.update("jax_enable_x64", self._before)
