"""The log density of a Pyro program as one torch function. Imports torch and pyro: load only from inside a function."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from pyro.distributions.util import scale_and_mask

from ._describe import distribution_support
from ._discover import Structure
from ._run import Bind, Binding, Record, run, untouched
from ._trace import Recorder


class Density:
    """``{input: tensor} -> {output: tensor or number}``; traced, or run as it is for reference and fallback.

    Inputs: ``latent/NAME`` and ``param/NAME`` (values in the user's space), ``observed/NAME`` (full-size data),
    ``index/PLATE``, ``buffer/I``. Outputs: ``term/NAME``, ``scale/NAME``, ``support/NAME/K`` (bounds of a latent site),
    ``value/NAME`` (deterministic sites).
    """

    def __init__(
        self,
        model: Callable[..., Any],
        args: tuple[Any, ...],
        kwargs: Mapping[str, Any],
        data: Mapping[str, Any],
        structure: Structure,
    ) -> None:
        self.model, self.args, self.kwargs, self.data, self.structure = model, args, dict(kwargs), dict(data), structure
        self.computed: set[str] = set()
        # Integer buffers (permutations, counters) steer Python code and stay constants.
        self.buffers = [
            (m, k) for m in structure.modules for k, b in m._buffers.items() if b is not None and b.is_floating_point()
        ]

    def inputs(
        self, draw: int, *, lift: set[str], indices: Mapping[str, torch.Tensor] | None = None
    ) -> dict[str, torch.Tensor]:
        """Example inputs: one of the draws, the program's data and parameters."""
        s = self.structure
        latents = self._selected(s.draws[draw], indices)
        out = {f"latent/{k}": v for k, v in latents.items()}
        out.update({f"param/{k}": p.value if p.raw is None else p.raw for k, p in s.params.items()})
        out.update({f"observed/{k}": v for k, v in s.observed.items() if k in lift})
        out.update({f"index/{k}": v for k, v in (indices or {}).items()})
        out.update({f"buffer/{i}": m._buffers[k].detach().clone() for i, (m, k) in enumerate(self.buffers)})  # type: ignore[union-attr]
        return out

    def _selected(
        self, values: Mapping[str, torch.Tensor], indices: Mapping[str, torch.Tensor] | None
    ) -> dict[str, torch.Tensor]:
        sites = {s.name: s for s in self.structure.sites}
        out: dict[str, torch.Tensor] = {}
        for name, value in values.items():
            for plate in sites[name].plates:
                axis = plate.dim - sites[name].event_dim
                if (
                    indices is not None
                    and plate.name in indices
                    and value.dim() >= -axis
                    and value.shape[axis] == plate.size
                ):
                    value = value.index_select(axis, indices[plate.name])
            out[name] = value
        return out

    def __call__(self, inputs: Mapping[str, torch.Tensor], recorder: Recorder | None = None) -> dict[str, Any]:
        """Run the program once."""
        groups: dict[str, dict[str, torch.Tensor]] = {k: {} for k in ("latent", "param", "observed", "index", "buffer")}
        for key, value in inputs.items():
            group, _, name = key.partition("/")
            groups[group][name] = value
        outputs: dict[str, Any] = {}
        kinds = {s.name: s.kind for s in self.structure.sites}
        binding = Binding(
            latents={**self.structure.predicted, **groups["latent"]},
            params=groups["param"],
            observed={**self.data, **groups["observed"]},
            indices=groups["index"] or None,
            enumerated={name: dim for name, dim, _ in self.structure.enumerated},
        )
        record = Record()
        bind = Bind(binding, record, recorder, lambda msg: _emit(msg, kinds, outputs, self.structure.predicted))
        with untouched(self.structure.modules), self._swapped(groups["buffer"]):
            run(self.model, self.args, self.kwargs, bind)
        self.computed = record.computed
        return outputs

    @contextlib.contextmanager
    def _swapped(self, buffers: Mapping[str, torch.Tensor]) -> Iterator[None]:
        for i, (module, key) in enumerate(self.buffers):
            if str(i) in buffers:
                module._buffers[key] = buffers[str(i)]
        yield


def _emit(msg: dict[str, Any], kinds: Mapping[str, str], outputs: dict[str, Any], predicted: Mapping[str, Any]) -> None:
    """Turn one site into outputs. Runs inside the model's frame, so that operations know their line."""
    name, fn, value = msg["name"], msg["fn"], msg["value"]
    kind = kinds.get(name)
    if kind is None:
        raise ValueError(
            f"Site '{name}' appeared in one run of the model and not in another: expected the same sites in every run. "
            "A site behind a random branch cannot be compiled."
        )
    if kind == "deterministic":
        outputs[f"value/{name}"] = torch.as_tensor(value)
    if msg["infer"].get("_deterministic") or name in predicted:
        return
    bounds: list[torch.Tensor] = []
    if kind == "latent":
        distribution_support(fn, bounds)
        for k, bound in enumerate(bounds):
            outputs[f"support/{name}/{k}"] = bound
    log_prob = fn.log_prob(value, *msg["args"], **msg["kwargs"])
    outputs[f"term/{name}"] = scale_and_mask(torch.as_tensor(log_prob), 1.0, msg["mask"])
    scale = msg["scale"]
    outputs[f"scale/{name}"] = scale if isinstance(scale, torch.Tensor) else float(scale)
