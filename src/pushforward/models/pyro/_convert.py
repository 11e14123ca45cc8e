"""From an FX graph of ATen operations to a plain `Graph`. Imports torch: load only from inside a function."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch.fx import GraphModule
from torch.fx import Node as FxNode

from ._graph import Graph, Literal, Node, Origin, Ref, refs
from .lowerings import find_lowering
from .lowerings._registry import find_registered

_SMALL = 16
"""Constants of at most this many entries are program text; larger ones are array leaves."""

_UNKNOWN = Origin("(unknown)", "")


class UnknownOperation(Exception):
    """Operations without a lowering: names and origins."""

    def __init__(self, found: list[tuple[str, Origin]]) -> None:
        super().__init__(str(found))
        self.found = found


def convert(
    module: GraphModule, names: list[str], outputs: Mapping[str, Any], origins: Mapping[FxNode, Origin]
) -> tuple[Graph, dict[str, np.ndarray[Any, Any]]]:
    """Strip an FX graph of everything that belongs to torch.

    Args:
        module: result of ``make_fx``.
        names: input names, in the order of the placeholders.
        outputs: Python number by output name, None where the value is the next tensor output.
        origins: place in the model of each FX node.

    Returns:
        The graph and its lifted constants by name.

    Raises:
        UnknownOperation: if an operation that an output depends on has no lowering.
    """
    index: dict[FxNode, int] = {}
    nodes: list[Node] = []
    inputs: dict[str, int] = {}
    dtypes: dict[str, str] = {}
    attributes: dict[int, torch.Tensor] = {}
    shared: dict[Any, int] = {}
    results: tuple[Any, ...] = ()
    remaining = iter(names)
    for fx in module.graph.nodes:
        i = index[fx] = len(index)
        if fx.op == "placeholder":
            name = next(remaining)
            inputs[name], dtypes[name] = i, dtype_name(fx.meta["tensor_meta"].dtype)
        elif fx.op == "get_attr":
            tensor = _attribute(module, str(fx.target))
            key = (tensor.data_ptr(), tuple(tensor.shape), tensor.stride(), tensor.dtype)
            index[fx] = shared.setdefault(key, i) if tensor.numel() else i
            attributes[index[fx]] = tensor
        elif fx.op == "call_function":
            meta = fx.meta.get("tensor_meta")
            single = hasattr(meta, "dtype")
            target = fx.target
            op = str(target) if isinstance(target, torch._ops.OpOverload) else f"{target.__module__}.{target.__name__}"
            nodes.append(
                Node(
                    i,
                    op,
                    tuple(_plain(a, index) for a in fx.args),
                    tuple((k, _plain(v, index)) for k, v in fx.kwargs.items() if k not in _IGNORED),
                    tuple(meta.shape) if single else None,
                    dtype_name(meta.dtype) if single else None,
                    origins.get(fx, _UNKNOWN),
                )
            )
        elif fx.op == "output":
            results = tuple(Ref(index[r]) for r in fx.args[0])
    tensors = iter(results)
    named = {k: v if v is not None else next(tensors) for k, v in outputs.items()}
    live = _live(nodes, {r.index for r in named.values() if isinstance(r, Ref)})
    kept = tuple(n for n in nodes if n.index in live)
    _check_known(kept)
    literals: dict[int, Literal] = {}
    lifted: dict[int, str] = {}
    arrays: dict[str, np.ndarray[Any, Any]] = {}
    for i, tensor in attributes.items():
        if i not in live:
            continue
        array, text = _constant(tensor)
        if text is not None:
            literals[i] = text
        else:
            # Named by content: variants of one program share their arrays.
            name = (
                "constant_"
                + hashlib.sha256(repr((array.shape, array.dtype)).encode() + array.tobytes()).hexdigest()[:16]
            )
            lifted[i] = name
            arrays[name] = array
    custom = {n.op: f for n in kept if (f := find_registered(n.op)) is not None}
    return Graph(inputs, dtypes, lifted, literals, kept, named, custom), arrays


_IGNORED = ("device", "layout", "pin_memory", "memory_format", "non_blocking", "copy", "generator")


def _attribute(module: GraphModule, target: str) -> torch.Tensor:
    value: Any = module
    for part in target.split("."):
        value = getattr(value, part)
    assert isinstance(value, torch.Tensor)
    return value.detach()


def dtype_name(dtype: torch.dtype) -> str:
    """``torch.float64`` as ``"float64"``, in NumPy's spelling."""
    name = str(dtype).rpartition(".")[2]
    return name


def _plain(item: Any, index: Mapping[FxNode, int]) -> Any:
    if isinstance(item, FxNode):
        return Ref(index[item])
    if isinstance(item, (list, tuple)):
        return tuple(_plain(part, index) for part in item)
    if isinstance(item, torch.dtype):
        return dtype_name(item)
    if isinstance(item, (torch.device, torch.layout, torch.memory_format)):
        return None
    if isinstance(item, (bool, int, float, complex, str)) or item is None:
        return item
    raise TypeError(f"Unexpected argument of type {type(item).__name__} in a traced graph.")


def _live(nodes: list[Node], wanted: set[int]) -> set[int]:
    live = set(wanted)
    for node in reversed(nodes):
        if node.index in live:
            live.update(refs(node.args))
            live.update(refs([v for _, v in node.kwargs]))
    return live


def _constant(tensor: torch.Tensor) -> tuple[np.ndarray[Any, Any], Literal | None]:
    shape = tuple(tensor.shape)
    resolved = tensor.resolve_conj().resolve_neg()
    array = resolved.float().numpy() if tensor.dtype == torch.bfloat16 else resolved.numpy()
    if array.size <= _SMALL:
        return array, Literal(np.array(array), shape)
    first = array.reshape(-1)[:1]
    if np.array_equal(array, np.broadcast_to(first[0], shape)):
        return array, Literal(first.reshape(()).copy(), shape)
    return np.array(array), None


def _check_known(nodes: tuple[Node, ...]) -> None:
    unknown: dict[str, Origin] = {}
    for node in nodes:
        if find_lowering(node.op) is None:
            unknown.setdefault(node.op, node.origin)
    if unknown:
        raise UnknownOperation(list(unknown.items()))
