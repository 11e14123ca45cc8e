"""Run a model in a form that can be traced. Imports torch and pyro: load only from inside a function.

Argument checks read tensor values, fused kernels hide in-place writes and random states, custom autograd functions hide
their operations, and a few distributions branch on values: while a model is traced, each is replaced by a plain
equivalent.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch.distributions import Distribution
from torch.overrides import TorchFunctionMode

from ._branch_free import branch_free


@contextlib.contextmanager
def plain_python() -> Iterator[None]:
    """Switch off what reads tensor values (argument checks) or hides operations (fused kernels, custom backwards)."""
    init, check = Distribution.__init__, Distribution._validate_sample
    apply = torch.autograd.Function.__dict__["apply"]
    fast_path = torch.backends.mha.get_fastpath_enabled()

    def unchecked(
        self: Any, batch_shape: Any = torch.Size(), event_shape: Any = torch.Size(), validate_args: Any = None
    ) -> None:  # noqa: B008
        init(self, batch_shape, event_shape, validate_args=False)

    def forward_only(cls: Any, *args: Any, **kwargs: Any) -> Any:
        if cls.setup_context is not torch.autograd.Function.setup_context:
            return cls.forward(*args, **kwargs)
        return cls.forward(_Context(len(args)), *args, **kwargs)

    Distribution.__init__ = unchecked  # type: ignore[method-assign]
    Distribution._validate_sample = lambda self, value: None  # type: ignore[method-assign]
    torch.autograd.Function.apply = classmethod(forward_only)  # type: ignore[assignment,method-assign]
    torch.backends.mha.set_fastpath_enabled(False)
    onednn = torch._C._get_mkldnn_enabled()
    torch._C._set_mkldnn_enabled(False)
    try:
        with _Rewrites(), branch_free():
            yield
    finally:
        Distribution.__init__ = init  # type: ignore[method-assign]
        Distribution._validate_sample = check  # type: ignore[method-assign]
        torch.autograd.Function.apply = apply  # type: ignore[method-assign]
        torch.backends.mha.set_fastpath_enabled(fast_path)
        torch._C._set_mkldnn_enabled(onednn)


_IN_PLACE = {
    torch.Tensor.__iand__: torch.Tensor.bitwise_and_,
    torch.Tensor.__ior__: torch.Tensor.bitwise_or_,
    torch.Tensor.__ixor__: torch.Tensor.bitwise_xor_,
    torch.Tensor.__ilshift__: torch.Tensor.bitwise_left_shift_,
    torch.Tensor.__irshift__: torch.Tensor.bitwise_right_shift_,
}


class _Rewrites(TorchFunctionMode):
    """Replaces functions that write in place below the level where that can be undone."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        func = _IN_PLACE.get(func, func)
        if func in (torch.nn.functional.pad, torch._C._nn.pad) and "circular" in (*args[2:3], kwargs.get("mode")):
            return _pad_circular(args[0], args[1] if len(args) > 1 else kwargs["pad"])
        if func is torch.Tensor.tolist:
            return _tolist(args[0])
        return func(*args, **kwargs)


def _tolist(x: torch.Tensor) -> Any:
    """Entry by entry, so that reading a traced value is noticed."""
    return x.item() if x.dim() == 0 else [_tolist(part) for part in x.unbind()]


def _pad_circular(x: torch.Tensor, pad: Any) -> torch.Tensor:
    for i in range(len(pad) // 2):
        dim, (before, after) = x.dim() - 1 - i, (int(pad[2 * i]), int(pad[2 * i + 1]))
        size = x.shape[dim]
        x = torch.cat([x.narrow(dim, size - before, before), x, x.narrow(dim, 0, after)], dim)
    return x


class _Context:
    """Stands in for the context of a custom autograd function: JAX differentiates the forward operations instead."""

    def __init__(self, num_inputs: int) -> None:
        self.needs_input_grad = (True,) * num_inputs

    def __getattr__(self, name: str) -> Callable[..., None]:
        return lambda *args, **kwargs: None
