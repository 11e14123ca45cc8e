"""Run a `Graph` in JAX, on demand: asking for an output computes what it needs and nothing else."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array

from ._graph import Graph, Node, Ref, refs
from .lowerings import ALONG_AXIS, ELEMENTWISE, find_lowering
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
        self._stretched: dict[int, tuple[int, ...]] = {}
        """Shape of values that are held with axes of length one in place of broadcast ones."""
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
        return self._whole(index)

    def _whole(self, index: int) -> Any:
        """A value with its broadcasts carried out."""
        if index in self._stretched:
            return jnp.broadcast_to(self._values[index], self._stretched[index])
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
            return self._keep_small(
                index, jnp.asarray(literal.value, canonical(str(literal.value.dtype))), literal.shape
            )
        node = self._by_index[index]
        lowering = self._graph.custom.get(node.op) or find_lowering(node.op)
        if lowering is None:
            raise ValueError(
                f"The operation {node.op} {_place(node)} has no JAX lowering in this process: expected the lowering "
                "that was registered when the program was compiled. Call pf.register_lowering again."
            )
        small = None if node.op in self._graph.custom else self._small(node)
        if small is not None:
            return small
        out = lowering(*[self._resolve(a) for a in node.args], **{k: self._resolve(v) for k, v in node.kwargs})
        if node.shape is None:
            return tuple(out)
        result = self._rounded(node, out)
        if result.shape != node.shape:
            raise ValueError(
                f"The JAX lowering of {node.op} {_place(node)} returned shape {result.shape}: expected {node.shape}, "
                "the shape that torch computes. Correct the lowering."
            )
        return result

    @staticmethod
    def _rounded(node: Node, out: Any) -> Array:
        assert node.dtype is not None
        return jax.lax.convert_element_type(jnp.asarray(out), canonical(node.dtype))

    def _small(self, node: Node) -> Array | None:
        """Compute on broadcast operands before they are broadcast, where the operation allows it; else None.

        Plates expand the parameters of a distribution to the size of the data; without this, the logarithm of a scalar
        scale would be taken once per datum.
        """
        name = node.op.rpartition(".")[0]
        operands = [i for i in refs((node.args, tuple(v for _, v in node.kwargs))) if i in self._stretched]
        if node.shape is None or (name != "aten.expand" and not operands):
            return None
        if name == "aten.expand":
            x = self._values[node.args[0].index]
            return self._keep_small(node.index, jnp.reshape(x, (1,) * (len(node.shape) - x.ndim) + x.shape), node.shape)
        if name not in ELEMENTWISE and not (name in ALONG_AXIS and self._whole_along(node)):
            return None
        lowering = find_lowering(node.op)
        assert lowering is not None
        args = [self._resolve(a, whole=False) for a in node.args]
        kwargs = {k: self._resolve(v, whole=False) for k, v in node.kwargs}
        return self._keep_small(node.index, self._rounded(node, lowering(*args, **kwargs)), node.shape)

    def _whole_along(self, node: Node) -> bool:
        """Whether the axes that an operation works along are whole in its first operand."""
        x = node.args[0].index
        if x not in self._stretched:
            return False
        dims = node.args[1] if len(node.args) > 1 else None
        axes = dims if isinstance(dims, tuple) else (dims,)
        full, have = self._stretched[x], self._values[x].shape
        return bool(axes) and all(isinstance(d, int) and have[d] == full[d] for d in axes)

    def _keep_small(self, index: int, array: Array, shape: tuple[int, ...]) -> Array:
        if array.shape != shape:
            array = jnp.reshape(array, (1,) * (len(shape) - array.ndim) + array.shape)
            self._stretched[index] = shape
        return array

    def _resolve(self, item: Any, *, whole: bool = True) -> Any:
        if isinstance(item, Ref):
            return self._whole(item.index) if whole else self._values[item.index]
        if isinstance(item, tuple):
            return tuple(self._resolve(part, whole=whole) for part in item)
        return item


def _place(node: Node) -> str:
    return f"(site '{node.origin.site}', {node.origin.line or 'line unknown'})"
