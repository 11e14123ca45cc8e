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

from ._branch_free import branch_free
from ._rewrites import Rewrites


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
        with Rewrites(), branch_free():
            yield
    finally:
        Distribution.__init__ = init  # type: ignore[method-assign]
        Distribution._validate_sample = check  # type: ignore[method-assign]
        torch.autograd.Function.apply = apply  # type: ignore[method-assign]
        torch.backends.mha.set_fastpath_enabled(fast_path)
        torch._C._set_mkldnn_enabled(onednn)


class _Context:
    """Stands in for the context of a custom autograd function: JAX differentiates the forward operations instead."""

    def __init__(self, num_inputs: int) -> None:
        self.needs_input_grad = (True,) * num_inputs

    def __getattr__(self, name: str) -> Callable[..., None]:
        return lambda *args, **kwargs: None
