"""Run a Pyro model once with every site bound. Imports torch and pyro: load only from inside a function."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import random
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
import pyro
import pyro.distributions as dist
import torch
from pyro.poutine.messenger import Messenger
from pyro.poutine.subsample_messenger import SubsampleMessenger, _Subsample
from torch.distributions import Transform
from torch.utils._pytree import tree_leaves

from ._trace import Recorder, is_traced


@dataclasses.dataclass
class Binding:
    """What the sites of one run are bound to. Everything is in the user's space."""

    latents: Mapping[str, torch.Tensor] = dataclasses.field(default_factory=dict)
    params: Mapping[str, torch.Tensor] = dataclasses.field(default_factory=dict)
    observed: Mapping[str, torch.Tensor] = dataclasses.field(default_factory=dict)
    """Data at full size, put in place of the program's own."""
    indices: Mapping[str, torch.Tensor] | None = None
    """Indices per subsampled plate; None runs every plate at full size."""
    enumerated: Mapping[str, int] = dataclasses.field(default_factory=dict)
    resample: bool = False
    """Draw observed sites anew."""
    start_improper: bool = False
    """Give sites that cannot be sampled a value inside their support."""


@dataclasses.dataclass
class Record:
    """What one run showed, in program order."""

    samples: dict[str, dict[str, Any]] = dataclasses.field(default_factory=dict)
    params: dict[str, dict[str, Any]] = dataclasses.field(default_factory=dict)
    declared: dict[str, int] = dataclasses.field(default_factory=dict)
    """Minibatch size by plate."""
    computed: set[str] = dataclasses.field(default_factory=set)
    """Observed sites whose value depends on traced inputs."""
    last: str = "(before the first site)"


class Bind(Messenger):
    """Gives every site its value and records it.

    Enter it outside the model, so that it sees what handlers made of a site.

    Args:
        binding: values.
        record: filled as the model runs.
        recorder: told the site under way, for messages.
        visit: called with each sample message after it got its value, while the model's line is on the stack.
    """

    def __init__(
        self,
        binding: Binding,
        record: Record,
        recorder: Recorder | None = None,
        visit: Callable[[dict[str, Any]], None] | None = None,
    ) -> None:
        super().__init__()
        self.binding, self.record, self.recorder, self.visit = binding, record, recorder, visit
        self.floating = torch.get_default_dtype()

    def _enter_site(self, msg: Any) -> None:
        self.record.last = msg["name"]
        if self.recorder is not None:
            self.recorder.site = msg["name"]

    def _pyro_param(self, msg: Any) -> None:
        self._enter_site(msg)
        value = self.binding.params.get(msg["name"])
        if value is not None:
            if not hasattr(value, "_pyro_unconstrained_param"):
                # Pyro's plates leave a note for their optimisers here when they subsample a parameter.
                with contextlib.suppress(AttributeError):
                    value._pyro_unconstrained_param = value  # type: ignore[attr-defined]
            msg["value"] = value

    def _pyro_post_param(self, msg: Any) -> None:
        # A PyroModule leaves the constraint in the store instead of the statement.
        stated = msg["kwargs"].get("constraint", torch.distributions.constraints.real)
        constraint = pyro.get_param_store()._constraints.get(msg["name"], stated)
        self.record.params[msg["name"]] = {**msg, "constraint": constraint}

    def _pyro_sample(self, msg: Any) -> None:
        if isinstance(msg["fn"], _Subsample):
            return
        self._enter_site(msg)
        b, name = self.binding, msg["name"]
        if msg["infer"].get("_deterministic") or is_factor(msg["fn"]):
            return
        if msg["is_observed"]:
            if b.resample:
                msg["is_observed"], msg["value"] = False, None
            elif b.indices is None and isinstance(msg["value"], torch.Tensor) and is_traced(msg["value"]):
                # Traced although no index is: the data is a function of latent sites or parameters.
                self.record.computed.add(name)
            elif name in b.observed:
                msg["value"] = self._select(b.observed[name], msg)
        elif name in b.latents:
            msg["value"] = b.latents[name]
        elif name in b.enumerated:
            msg["value"] = enumerate_support(msg["fn"], b.enumerated[name])
        elif b.start_improper and _is_improper(msg["fn"]):
            msg["value"] = _inside(msg["fn"], self.floating)

    def _select(self, full: torch.Tensor, msg: Any) -> torch.Tensor:
        """Pick the minibatch out of data given at full size."""
        if self.binding.indices is None:
            return full
        for frame in msg["cond_indep_stack"]:
            indices = self.binding.indices.get(frame.name)
            axis = None if frame.dim is None else frame.dim - msg["fn"].event_dim
            if indices is not None and axis is not None and full.dim() >= -axis and full.shape[axis] == frame.full_size:
                full = full.index_select(axis, indices)
        return full

    def _pyro_post_sample(self, msg: Any) -> None:
        if isinstance(msg["fn"], _Subsample):
            return
        self.record.samples[msg["name"]] = dict(msg)
        if self.visit is not None:
            self.visit(msg)


def is_factor(fn: Any) -> bool:
    """Whether a site is a ``pyro.factor``."""
    return isinstance(_root(fn), dist.Unit)


def is_delta(fn: Any) -> bool:
    """Whether a site is a point mass."""
    return isinstance(_root(fn), dist.Delta)


def _root(fn: Any) -> Any:
    while isinstance(fn, (dist.Independent, dist.ExpandedDistribution, dist.MaskedDistribution)):
        fn = fn.base_dist
    return fn


def _is_improper(fn: Any) -> bool:
    return isinstance(_root(fn), dist.ImproperUniform)


def _inside(fn: Any, dtype: torch.dtype) -> torch.Tensor:
    transform = torch.distributions.transform_to(fn.support)
    shape = transform.inverse_shape(fn.shape())
    return transform(torch.rand(shape, dtype=dtype) * 4 - 2)


def _widest(arguments: Any) -> torch.dtype:
    """The floating-point width of the arguments: an improper site has none of its own."""
    leaves = [x.dtype for x in tree_leaves(arguments) if isinstance(x, torch.Tensor) and x.is_floating_point()]
    return functools.reduce(torch.promote_types, leaves) if leaves else torch.get_default_dtype()


def enumerate_support(fn: Any, dim: int) -> torch.Tensor:
    """All values of a discrete site along its own dimension."""
    values = fn.enumerate_support(expand=False)
    event = values.shape[values.dim() - fn.event_dim :]
    out = values.reshape(values.shape[:1] + (1,) * (-dim - 1) + event)
    mark = getattr(values, "_pyro_categorical_support", None)
    if mark is not None:
        out._pyro_categorical_support = mark
    return out


def run(
    model: Callable[..., Any], args: tuple[Any, ...], kwargs: Mapping[str, Any], bind: Bind, *, validate: bool = False
) -> Record:
    """Run the model under a binding. Global state of torch, Pyro, NumPy and ``random`` is as before afterwards.

    Args:
        model: Pyro model.
        args: its arguments.
        kwargs: its keyword arguments.
        bind: values of sites; also receives what the run shows.
        validate: check arguments and values of distributions.
    """
    with contextlib.ExitStack() as stack:
        stack.enter_context(_own_store())
        stack.enter_context(pyro.validation_enabled(validate))
        stack.enter_context(_plates(bind))
        stack.enter_context(_uncached_transforms())
        stack.enter_context(bind)
        bind.floating = _widest((args, kwargs))
        model(*args, **kwargs)
    return bind.record


@contextlib.contextmanager
def _own_store() -> Iterator[None]:
    """Let the model see the parameter store as it is, and keep what it adds out of it."""
    store = pyro.get_param_store()
    # Taking the state strips the parameters of their back references, which optimisers follow.
    links = [(p, p.__dict__["unconstrained"]) for p in store._params.values() if "unconstrained" in p.__dict__]
    with store.scope(store.get_state()):
        yield
    for parameter, link in links:
        parameter.unconstrained = link


@contextlib.contextmanager
def _plates(bind: Bind) -> Iterator[None]:
    """Give subsampled plates their indices; without indices they run at full size."""
    original = SubsampleMessenger.__dict__["_subsample"]

    def subsample(
        name: str,
        size: int | None = None,
        subsample_size: int | None = None,
        subsample: torch.Tensor | None = None,
        use_cuda: bool | None = None,
        device: str | None = None,
    ) -> Any:
        if size is not None and subsample is None and subsample_size is not None and subsample_size < size:
            bind.record.declared[name] = int(subsample_size)
            chosen = bind.binding.indices
            subsample = torch.arange(size) if chosen is None else chosen[name]
            subsample_size = None
        return original.__func__(name, size, subsample_size, subsample, use_cuda, device)

    SubsampleMessenger._subsample = staticmethod(subsample)
    try:
        yield
    finally:
        SubsampleMessenger._subsample = original


@contextlib.contextmanager
def _uncached_transforms() -> Iterator[None]:
    """Invert transforms anew: a remembered pair of values would tie one run to the tensors of another."""
    call, inverse = Transform.__call__, Transform._inv_call
    Transform.__call__ = lambda self, x: self._call(x)  # type: ignore[method-assign]
    Transform._inv_call = lambda self, y: self._inverse(y)  # type: ignore[method-assign]
    try:
        yield
    finally:
        Transform.__call__ = call  # type: ignore[method-assign]
        Transform._inv_call = inverse  # type: ignore[method-assign]


@contextlib.contextmanager
def untouched(modules: list[torch.nn.Module]) -> Iterator[None]:
    """Keep random states and the tensors of modules as they are, whatever runs inside."""
    numpy_state, python_state = np.random.get_state(), random.getstate()
    saved = [(m, dict(m._parameters), dict(m._buffers), m.training) for m in modules]
    contents = [(b, b.detach().clone()) for _, _, buffers, _ in saved for b in buffers.values() if b is not None]
    with torch.random.fork_rng(devices=[]):
        try:
            yield
        finally:
            for module, parameters, buffers, training in saved:
                module._parameters.clear()
                module._parameters.update(parameters)
                module._buffers.clear()
                module._buffers.update(buffers)
                module.training = training
            with torch.no_grad():
                for buffer, content in contents:
                    buffer.copy_(content)
            np.random.set_state(numpy_state)
            random.setstate(python_state)
