"""Torch functions that write in place inside a fused kernel, as pure equivalents. Imports torch.

Functionalisation happens above these kernels, so their writes would be lost; the table below catches them before. Load
only from inside a function.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812
from torch._decomp import decompositions as parts
from torch.overrides import TorchFunctionMode
from torch.utils import _pytree as pytree


class Rewrites(TorchFunctionMode):
    """Replaces the functions of the table while it is entered, and keeps writes off tensors made outside the trace.

    A tensor that the model closes over, or makes from one, is not functional: the first write to it puts a functional
    stand-in in its place, which every later use gets: the model reads what it wrote, and the original stays as it was.
    """

    def __init__(self) -> None:
        super().__init__()
        self._stand_ins: dict[int, tuple[torch.Tensor, torch.Tensor]] = {}

    def _redirect(self, x: Any, *, write: bool = False) -> Any:
        if not isinstance(x, torch.Tensor) or is_functional(x):
            return x
        if id(x) not in self._stand_ins:
            if not write:
                return x
            level = torch._C._functorch.current_level()
            # The original is held as well, so that its id stays taken.
            self._stand_ins[id(x)] = (x, torch._C._functorch._wrap_functional_tensor(x.detach().clone(), level))
        return self._stand_ins[id(x)][1]

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if _writes(func) and args and torch._C._functorch.maybe_current_level() is not None:
            args = (self._redirect(args[0], write=True), *args[1:])
        if self._stand_ins:
            args, kwargs = pytree.tree_map(self._redirect, (args, kwargs))
        if func in (F.pad, torch._C._nn.pad):
            if "circular" in (*args[2:3], kwargs.get("mode")):
                return _pad_circular(args[0], args[1] if len(args) > 1 else kwargs["pad"])
            return func(*args, **kwargs)
        if func in _RECURRENT and isinstance(args[2], (list, tuple)):
            # Packed sequences have another signature: their weights come one later.
            return _RECURRENT[func](*args, **kwargs)
        return _TABLE.get(func, func)(*args, **kwargs)


def is_functional(x: torch.Tensor) -> bool:
    """Whether writes to a tensor are recorded as values."""
    return bool(torch._C._functorch.is_functionaltensor(x))


def _writes(func: Any) -> bool:
    name = getattr(func, "__name__", "")
    in_place = name.endswith("_") and not name.endswith("__") and name != "requires_grad_"
    return in_place or name in _WRITING_OPERATORS


_WRITING_OPERATORS = frozenset(
    f"__{name}__"
    for name in ("setitem", "iadd", "isub", "imul", "itruediv", "ifloordiv", "imod", "ipow", "iand", "ior", "ixor")
)


def _pad_circular(x: torch.Tensor, pad: Any) -> torch.Tensor:
    for i in range(len(pad) // 2):
        dim, (before, after) = x.dim() - 1 - i, (int(pad[2 * i]), int(pad[2 * i + 1]))
        size = x.shape[dim]
        x = torch.cat([x.narrow(dim, size - before, before), x, x.narrow(dim, 0, after)], dim)
    return x


def _tolist(x: torch.Tensor) -> Any:
    """Entry by entry, so that reading a traced value is noticed."""
    return x.item() if x.dim() == 0 else [_tolist(part) for part in x.unbind()]


def _cross_entropy_with_logits(
    x: torch.Tensor,
    target: torch.Tensor,
    weight: torch.Tensor | None = None,
    size_average: bool | None = None,
    reduce: bool | None = None,
    reduction: str = "mean",
    pos_weight: torch.Tensor | None = None,
) -> torch.Tensor:
    if size_average is not None or reduce is not None:
        # The two deprecated flags say the same as ``reduction``, with "mean" as their default.
        reduction = "none" if reduce is False else "sum" if size_average is False else "mean"
    log_sigmoid = F.logsigmoid(x)
    if pos_weight is not None:
        log_sigmoid = ((pos_weight - 1) * target + 1) * log_sigmoid
    loss = (1 - target) * x - log_sigmoid
    loss = loss if weight is None else loss * weight
    return loss if reduction == "none" else loss.mean() if reduction == "mean" else loss.sum()


def _one_hot(index: torch.Tensor, num_classes: int = -1) -> torch.Tensor:
    if num_classes < 0:
        return F.one_hot(index, num_classes)
    # Without the range check, which reads the values.
    return (index.unsqueeze(-1) == torch.arange(num_classes)).long()


def _lstm_cell(
    x: torch.Tensor, state: Any, w_ih: torch.Tensor, w_hh: torch.Tensor, b_ih: Any = None, b_hh: Any = None
) -> tuple[torch.Tensor, torch.Tensor]:
    hidden, cell = state
    i, f, g, o = (F.linear(x, w_ih, b_ih) + F.linear(hidden, w_hh, b_hh)).chunk(4, -1)
    cell = f.sigmoid() * cell + i.sigmoid() * g.tanh()
    return o.sigmoid() * cell.tanh(), cell


def _gru_cell(
    x: torch.Tensor, hidden: torch.Tensor, w_ih: torch.Tensor, w_hh: torch.Tensor, b_ih: Any = None, b_hh: Any = None
) -> torch.Tensor:
    ri, zi, ni = F.linear(x, w_ih, b_ih).chunk(3, -1)
    rh, zh, nh = F.linear(hidden, w_hh, b_hh).chunk(3, -1)
    update = (zi + zh).sigmoid()
    new = (ni + (ri + rh).sigmoid() * nh).tanh()
    return new + update * (hidden - new)


def _rnn_cell(activation: Callable[[torch.Tensor], torch.Tensor]) -> Callable[..., torch.Tensor]:
    def cell(
        x: torch.Tensor,
        hidden: torch.Tensor,
        w_ih: torch.Tensor,
        w_hh: torch.Tensor,
        b_ih: Any = None,
        b_hh: Any = None,
    ) -> torch.Tensor:
        return activation(F.linear(x, w_ih, b_ih) + F.linear(hidden, w_hh, b_hh))

    return cell


_RECURRENT: dict[Any, Callable[..., Any]] = {
    torch.lstm: parts.lstm_impl,
    torch.gru: parts.gru_impl,
    torch.rnn_tanh: parts.rnn_tanh_input,
    torch.rnn_relu: parts.rnn_relu_input,
}
_TABLE: dict[Any, Callable[..., Any]] = {
    F.binary_cross_entropy_with_logits: _cross_entropy_with_logits,
    F.one_hot: _one_hot,
    torch.lstm_cell: _lstm_cell,
    torch.gru_cell: _gru_cell,
    torch.rnn_tanh_cell: _rnn_cell(torch.tanh),
    torch.rnn_relu_cell: _rnn_cell(torch.relu),
    torch.Tensor.tolist: _tolist,
    torch.Tensor.__iand__: torch.Tensor.bitwise_and_,
    torch.Tensor.__ior__: torch.Tensor.bitwise_or_,
    torch.Tensor.__ixor__: torch.Tensor.bitwise_xor_,
    torch.Tensor.__ilshift__: torch.Tensor.bitwise_left_shift_,
    torch.Tensor.__irshift__: torch.Tensor.bitwise_right_shift_,
}
