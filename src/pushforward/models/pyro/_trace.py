"""Trace a torch function to a plain `Graph`. Imports torch: load only from inside a function.

The function runs under ``make_fx`` with real tensors, functionalised, so that in-place operations become pure ones. An
inner dispatch mode adds what a log density needs: operations that see no traced input are computed at once instead of
recorded (data may steer Python control flow and is never recomputed), randomness and value-dependent branches are
refused with their place in the model, and gradient-free regions are kept gradient-free.
"""

from __future__ import annotations

import functools
import os
import sys
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch.func import functionalize
from torch.fx.experimental.proxy_tensor import disable_proxy_modes_tracing, get_proxy_mode, get_proxy_slot, make_fx
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode

from ._convert import convert
from ._graph import Graph, Origin
from ._plain import plain_python
from .lowerings import find_lowering

_DECOMPOSITIONS = "torch._decomp.decompositions"

_LIBRARIES = tuple(
    os.path.dirname(sys.modules[name].__file__ or "") + os.sep for name in ("torch", "pyro") if name in sys.modules
) + (os.path.dirname(__file__) + os.sep,)


class CompilationError(Exception):
    """Why a model cannot be compiled; turned into a `ValueError` by the front end."""


class BranchError(CompilationError):
    """The model reads the value of a traced tensor in Python."""


def trace(
    function: Callable[[dict[str, Any]], dict[str, Any]], inputs: Mapping[str, torch.Tensor], recorder: Recorder
) -> tuple[Graph, dict[str, Any]]:
    """Trace ``function`` at ``inputs``.

    Args:
        function: from tensors by input name to tensors or Python numbers by output name; pure but for in-place
            operations on tensors it made or was given.
        inputs: example tensors. Tensors that the function reaches by closure are the same value as the input if they
            are the same object, else constants.
        recorder: the dispatch mode; the function tells it which site it is at.

    Returns:
        The graph and its lifted constants (NumPy arrays by name).

    Raises:
        CompilationError: for an operation without lowering, a value-dependent branch or randomness.
    """
    names = list(inputs)
    shape: dict[str, Any] = {}

    def flat(*tensors: torch.Tensor) -> tuple[torch.Tensor, ...]:
        with recorder:
            outputs = function(dict(zip(names, tensors, strict=True)))
            shape.update({k: (v if isinstance(v, (bool, int, float)) else None) for k, v in outputs.items()})
            return tuple(torch.as_tensor(outputs[k]) for k in shape if shape[k] is None)

    with plain_python(), torch.enable_grad():
        tensors = [t if isinstance(t, torch.nn.Parameter) else t.detach() for t in inputs.values()]
        module = make_fx(functionalize(flat, remove="mutations"))(*tensors)
    return convert(module, names, shape, recorder.origins)


class Recorder(TorchDispatchMode):
    """Folds constants, refuses what is not a pure function, and remembers where each operation comes from."""

    def __init__(self) -> None:
        super().__init__()
        self.site = "(before the first site)"
        self.origins: dict[Any, Origin] = {}
        self.error: CompilationError | None = None

    def fail(self, error: CompilationError) -> CompilationError:
        """Remember the first error: libraries on the way may wrap or swallow it."""
        self.error = self.error or error
        return error

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        mode = get_proxy_mode()
        if mode is None:
            return func(*args, **kwargs)
        if torch.Tag.nondeterministic_seeded in func.tags and not _is_quiet(func, args, kwargs):
            raise self.fail(
                CompilationError(
                    f"Randomness inside the log density: {func} at site '{self.site}' ({model_line()}) draws random "
                    "numbers while the density is evaluated. Expected a deterministic density; make the draw a "
                    "pyro.sample site, or put the module in evaluation mode (module.eval()) if this is dropout."
                )
            )
        tensors = [a for a in pytree.tree_leaves((args, kwargs)) if isinstance(a, torch.Tensor)]
        if not any(is_traced(t) for t in tensors):
            with disable_proxy_modes_tracing():
                return func(*args, **kwargs)
        if func in _MASKED:
            args = (args[0], _index_by_position(args[1]), *args[2:])
        if self._reads_value(func, args):
            if _is_argument_check():
                with disable_proxy_modes_tracing():
                    return func(*args, **kwargs)
            raise self.fail(
                BranchError(
                    f"The model reads the value of a tensor that depends on latent sites or parameters ({func}) near "
                    f"site '{self.site}' ({model_line()}): a branch, a shape or a Python number that changes with the "
                    "value cannot be compiled. Expected torch.where or masking instead of if, tensors instead of "
                    ".item()/float(); or pass "
                    'backend="callback", which runs the model in torch at every evaluation (slow).'
                )
            )
        smaller = _decomposition(func)
        if smaller is not None:
            with self:
                return smaller(*args, **kwargs)
        if func._schema.is_mutable and not _owns_storage(args[0]):
            raise self.fail(
                CompilationError(
                    f"The in-place operation {func} at site '{self.site}' ({model_line()}) sits inside a fused torch "
                    "function and could not be made pure. Expected the function written with out-of-place operations; "
                    'or pass backend="callback" (slow).'
                )
            )
        tracer = mode.tracer
        before = tracer.graph._root._prev
        out = func(*args, **kwargs)
        node = tracer.graph._root._prev
        line: str | None = None
        while node is not before and node.op != "root":
            if node not in self.origins:
                line = model_line() if line is None else line
                self.origins[node] = Origin(self.site, line)
            node = node._prev
        if not torch.is_grad_enabled():
            out = pytree.tree_map_only(torch.Tensor, lambda t: t.detach() if t.is_floating_point() else t, out)
        return out

    @staticmethod
    def _reads_value(func: Any, args: Any) -> bool:
        if torch.Tag.data_dependent_output in func.tags or torch.Tag.dynamic_output_shape in func.tags:
            if func in _MASKED:
                return any(isinstance(i, torch.Tensor) and i.dtype == torch.bool for i in args[1])
            return True
        if func in (torch.ops.aten.index_put.default, torch.ops.aten._unsafe_index_put.default):
            masks = [i for i in args[1] if isinstance(i, torch.Tensor) and i.dtype == torch.bool]
            return bool(masks) and not (len(args[1]) == 1 and args[2].numel() == 1)
        return False


_MASKED = (torch.ops.aten.index.Tensor, torch.ops.aten.index_put.default, torch.ops.aten._unsafe_index.Tensor)


def _index_by_position(indices: Any) -> list[Any]:
    """Replace constant boolean masks by the positions they select, whose number is then known."""
    out: list[Any] = []
    for i in indices:
        if isinstance(i, torch.Tensor) and i.dtype == torch.bool and not is_traced(i):
            with disable_proxy_modes_tracing():
                out.extend(i.nonzero(as_tuple=True))
        else:
            out.append(i)
    return out


def _is_quiet(func: Any, args: Any, kwargs: Any) -> bool:
    """Operations that are tagged random but draw nothing with these arguments."""
    name = func._schema.name
    if name in ("aten::native_dropout", "aten::dropout", "aten::alpha_dropout", "aten::feature_dropout"):
        training = args[2] if len(args) > 2 else kwargs.get("train", True)
        return not training or args[1] == 0
    if "scaled_dot_product" in name:
        return not any(isinstance(a, float) and a > 0 for a in args[3:5]) and not kwargs.get("dropout_p", 0.0)
    return name == "aten::rrelu_with_noise" and not (args[4] if len(args) > 4 else kwargs.get("training", False))


def is_traced(tensor: torch.Tensor) -> bool:
    """Whether a tensor is (a function of) an input of the trace under way."""
    mode = get_proxy_mode()
    if mode is None:
        return False
    inner = tensor
    while torch._C._functorch.is_functionaltensor(inner):
        inner = torch._C._functorch.get_unwrapped(inner)
    return get_proxy_slot(inner, mode.tracer, None) is not None


def _owns_storage(tensor: Any) -> bool:
    """Whether a tensor is all there is in its memory: then writing to it is the same as replacing it."""
    return (
        isinstance(tensor, torch.Tensor) and tensor.untyped_storage().nbytes() == tensor.numel() * tensor.element_size()
    )


def _is_argument_check() -> bool:
    """Whether a distribution's constructor is reading a value: it only decides between warning and not."""
    frame = sys._getframe(2)
    while frame is not None and frame.f_code.co_filename.startswith(_LIBRARIES):
        if f"{os.sep}distributions{os.sep}" in frame.f_code.co_filename:
            return frame.f_code.co_name == "__init__"
        frame = frame.f_back  # type: ignore[assignment]
    return False


def model_line() -> str:
    """``file:line`` of the innermost frame that belongs to the user's model."""
    frame = sys._getframe(1)
    while frame is not None:
        name = frame.f_code.co_filename
        if not name.startswith(_LIBRARIES) and not name.startswith("<") and "contextlib" not in name:
            return f"{os.path.basename(name)}:{frame.f_lineno}"
        frame = frame.f_back  # type: ignore[assignment]
    return "line unknown"


@functools.cache
def _all_decompositions() -> dict[Any, Callable[..., Any]]:
    """Torch's decompositions: the core set before the rest."""
    from torch._decomp import core_aten_decompositions, decomposition_table

    table: dict[Any, Callable[..., Any]] = {}
    for source in (decomposition_table, core_aten_decompositions()):
        # Those of torch._refs end in prims, another operation set, and write in place.
        table.update(
            {
                op: f
                for op, f in source.items()
                if isinstance(op, torch._ops.OpOverload) and f.__module__ == _DECOMPOSITIONS
            }
        )
    return table


def _decomposition(func: Any) -> Callable[..., Any] | None:
    """How to express an operation without lowering by others, if torch knows."""
    if not isinstance(func, torch._ops.OpOverload) or find_lowering(str(func)) is not None:
        return None
    found = _all_decompositions().get(func)
    if found is None and torch._C._dispatch_has_kernel_for_dispatch_key(func.name(), "CompositeImplicitAutograd"):
        return func.decompose
    return found
