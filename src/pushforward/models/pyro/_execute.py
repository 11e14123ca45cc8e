"""Run a `Graph` in JAX, on demand: asking for an output computes what it needs and nothing else."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array

from ._graph import Graph, Literal, Ref, refs
from .lowerings import find_lowering
from .lowerings._promotion import canonical


class Execution:
    """One evaluation of a graph. Inputs may arrive late, in the order in which the program meets its sites.

    Args:
        graph: the function to run.
        inputs: values by input name; more can be given with `give`.
        constants: lifted constants by name.
    """

    def __init__(self, graph: Graph, inputs: Mapping[str, Any], constants: Mapping[str, Any]) -> None:
        self._graph = graph
        self._values: dict[int, Any] = {index: constants[name] for index, name in graph.constants.items()}
        self._by_index = {node.index: node for node in graph.nodes}
        self._missing = {index: name for name, index in graph.inputs.items()}
        for name, value in inputs.items():
            self.give(name, value)

    def give(self, name: str, value: Any) -> None:
        """Set an input; names that the graph does not use are ignored."""
        if name in self._graph.inputs:
            index = self._graph.inputs[name]
            self._values[index] = jax.lax.convert_element_type(jnp.asarray(value), canonical(self._graph.dtypes[name]))
            self._missing.pop(index, None)

    def names(self, prefix: str) -> list[str]:
        """Outputs under a prefix, in program order, without the prefix."""
        return [k[len(prefix) :] for k in self._graph.outputs if k.startswith(prefix)]

    def output(self, name: str) -> Any:
        """Value of an output: an array, or a Python number where the program used one."""
        target = self._graph.outputs[name]
        return self._value(target.index) if isinstance(target, Ref) else target

    def _value(self, index: int) -> Any:
        if index not in self._values:
            for needed in self._needed(index):
                self._values[needed] = self._compute(needed)
        return self._values[index]

    def _needed(self, index: int) -> list[int]:
        pending, found = [index], set()
        while pending:
            i = pending.pop()
            if i in found or i in self._values:
                continue
            found.add(i)
            node = self._by_index.get(i)
            if node is not None:
                pending.extend(refs(node.args))
                pending.extend(refs([v for _, v in node.kwargs]))
            elif i in self._missing:
                raise ValueError(f"The input '{self._missing[i]}' of the traced program is needed but has no value.")
        return sorted(found)

    def _compute(self, index: int) -> Any:
        literal = self._graph.literals.get(index)
        if literal is not None:
            return _materialise(literal)
        node = self._by_index[index]
        lowering = self._graph.custom.get(node.op) or find_lowering(node.op)
        if lowering is None:
            raise ValueError(
                f"The operation {node.op} (site '{node.origin.site}', {node.origin.line or 'line unknown'}) has no JAX "
                "lowering in this process: expected the lowering that was registered when the program was compiled. "
                "Call pf.register_lowering again."
            )
        args = tuple(self._resolve(a) for a in node.args)
        kwargs = {k: self._resolve(v) for k, v in node.kwargs}
        out = lowering(*args, **kwargs)
        if node.shape is None:
            return tuple(out)
        assert node.dtype is not None
        result: Array = jax.lax.convert_element_type(jnp.asarray(out), canonical(node.dtype))
        if result.shape != node.shape:
            raise ValueError(
                f"The JAX lowering of {node.op} (site '{node.origin.site}', {node.origin.line or 'line unknown'}) "
                f"returned shape {result.shape}: expected {node.shape}, the shape that torch computes. Correct the "
                "lowering."
            )
        return result

    def _resolve(self, item: Any) -> Any:
        if isinstance(item, Ref):
            return self._values[item.index]
        if isinstance(item, tuple):
            return tuple(self._resolve(part) for part in item)
        return item


def _materialise(literal: Literal) -> Array:
    array = jnp.asarray(literal.value, dtype=canonical(str(literal.value.dtype)))
    return array if array.shape == literal.shape else jnp.broadcast_to(array, literal.shape)
