"""A traced log density as plain data: no torch object, picklable, hashable by content."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np


class Ref(NamedTuple):
    """A value of the graph: an input, a constant or the result of a node."""

    index: int  # type: ignore[assignment]  # hides tuple.index


class Origin(NamedTuple):
    """Where an operation comes from, for messages."""

    site: str
    line: str
    """``file:line`` of the model, empty if unknown."""


class Node(NamedTuple):
    """One operation. Its results are values ``index``; operations with several results return a tuple."""

    index: int  # type: ignore[assignment]  # hides tuple.index
    op: str
    """Full name with overload, e.g. ``"aten.add.Tensor"``."""
    args: tuple[Any, ...]
    kwargs: tuple[tuple[str, Any], ...]
    shape: tuple[int, ...] | None
    """Shape of a single result; None when the operation returns several."""
    dtype: str | None
    origin: Origin


class Literal(NamedTuple):
    """A small constant that belongs to the program text, or a large one whose entries are all equal."""

    value: np.ndarray[Any, Any]
    shape: tuple[int, ...]


class Graph:
    """A pure function from named inputs to named outputs, as a list of operations in topological order.

    Equal and hashed by content, so that it can be a static part of a pytree: two conversions of the same program share
    compiled code.

    Args:
        inputs: value number by input name.
        dtypes: dtype by input name.
        constants: name of each lifted constant (an array leaf of the program, not text) by value number.
        literals: small constants by value number.
        nodes: operations in topological order.
        outputs: by name, a `Ref` or a Python number.
        custom: lowerings that the user registered and this graph needs, by operation.
    """

    def __init__(
        self,
        inputs: Mapping[str, int],
        dtypes: Mapping[str, str],
        constants: Mapping[int, str],
        literals: Mapping[int, Literal],
        nodes: tuple[Node, ...],
        outputs: Mapping[str, Any],
        custom: Mapping[str, Callable[..., Any]],
    ) -> None:
        self.inputs = dict(inputs)
        self.dtypes = dict(dtypes)
        self.constants = dict(constants)
        self.literals = dict(literals)
        self.nodes = nodes
        self.outputs = dict(outputs)
        self.custom = dict(custom)
        self.digest = self._digest()

    def _digest(self) -> str:
        text = hashlib.sha256()
        for part in (self.inputs, self.dtypes, self.constants, self.outputs):
            text.update(repr(sorted(part.items(), key=lambda item: item[0])).encode())
        for index, literal in sorted(self.literals.items()):
            array = np.ascontiguousarray(literal.value)
            text.update(repr((index, literal.shape, array.dtype.str, array.shape)).encode() + array.tobytes())
        for node in self.nodes:
            text.update(repr((node.index, node.op, node.args, node.kwargs, node.shape, node.dtype)).encode())
        for name, function in sorted(self.custom.items()):
            text.update(
                f"{name}:{getattr(function, '__module__', '')}.{getattr(function, '__qualname__', '')}".encode()
            )
        return text.hexdigest()

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Graph) and self.digest == other.digest

    def __hash__(self) -> int:
        return hash(self.digest)

    def __repr__(self) -> str:
        return f"Graph({len(self.nodes)} operations, {len(self.inputs)} inputs, {self.digest[:8]})"

    def float64_use(self) -> str | None:
        """Describe the first double-precision value of the graph, or None if there is none."""
        for name, dtype in self.dtypes.items():
            if dtype in ("float64", "complex128"):
                return f"input '{name}'"
        for node in self.nodes:
            if node.dtype in ("float64", "complex128"):
                return f"operation {node.op} at site '{node.origin.site}'" + (
                    f" ({node.origin.line})" if node.origin.line else ""
                )
        return None


def _code(function: Callable[..., Any]) -> bytes:
    """Bytes that differ between functions of the same name."""
    import cloudpickle

    try:
        return bytes(cloudpickle.dumps(function))
    except Exception:  # a function that cannot be pickled is equal to itself only
        return str(id(function)).encode()


def refs(item: Any) -> Iterator[int]:
    """All value numbers inside a (nested) argument."""
    if isinstance(item, Ref):
        yield item.index
    elif isinstance(item, (tuple, list)):
        for part in item:
            yield from refs(part)
