"""Registration of lowerings: ours at import, the user's at run time."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

Lowering = Callable[..., Any]

_REGISTERED: dict[str, Lowering] = {}


def table() -> tuple[dict[str, Lowering], Callable[..., Callable[[Lowering], Lowering]]]:
    """A new table and the decorator that fills it: ``@lowers("aten.add", "aten.add.Scalar")``."""
    entries: dict[str, Lowering] = {}

    def lowers(*ops: str) -> Callable[[Lowering], Lowering]:
        def add(function: Lowering) -> Lowering:
            for op in ops:
                assert op not in entries, op
                entries[op] = function
            return function

        return add

    return entries, lowers


def find_in(entries: dict[str, Lowering], op: str) -> Lowering | None:
    """Look up by full name, then without the overload; an in-place operation is its pure form."""
    found = entries.get(op) or entries.get(op.rpartition(".")[0])
    if found is None and "_." in op:
        namespace, name, overload = op.split(".")
        pure = name.replace("__i", "__", 1) if name.startswith("__") else name[:-1]
        return entries.get(f"{namespace}.{pure}.{overload}") or entries.get(f"{namespace}.{pure}")
    return found


def find_registered(op: str) -> Lowering | None:
    """The user's own lowering of an operation."""
    return find_in(_REGISTERED, op)


def register_lowering(op: str, function: Lowering) -> None:
    """Teach `from_pyro` an operation, or replace a built-in lowering.

    Args:
        op: name of the torch operation, with overload (``"aten.add.Tensor"``) or for all overloads (``"aten.add"``,
            ``"mylib.myop"``).
        function: the operation in JAX, with torch's argument order; arrays are JAX arrays, dtypes are strings. It must
            be pure and differentiable by JAX. Every compiled program is checked against torch, derivative included.
            Programs compiled with it carry it along when they are pickled.

    Raises:
        ValueError: if the name is not of the form ``namespace.op`` or the function cannot be called.

    Example:
        >>> register_lowering("aten.hypot", lambda x, y: (x * x + y * y) ** 0.5)
    """
    if not isinstance(op, str) or not 2 <= len(op.split(".")) <= 3 or not all(op.split(".")):
        raise ValueError(
            f"register_lowering expected an operation named 'namespace.op' or 'namespace.op.overload', got {op!r}."
        )
    if not callable(function):
        raise ValueError(
            f"register_lowering('{op}', ...) expected a function of JAX arrays, got {type(function).__name__}."
        )
    _REGISTERED[op] = function


def unregister_lowering(op: str) -> None:
    """Forget the user's lowering of an operation, if there is one."""
    _REGISTERED.pop(op, None)
