"""Draw from a Pyro program in torch. Imports torch and pyro: load only from inside a function."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import torch

from ._discover import Structure, discover
from ._host import Host
from ._run import Bind, Binding, Record, is_factor, run, untouched


def structure_of(host: Host) -> Structure:
    """The structure of a host's model, discovered once per process."""

    def build() -> Structure:
        model, args, kwargs, data = host.content
        return discover(model, args, kwargs, as_torch(data), seed=0, latent=host.latent, num_draws=1)

    return host.cached("structure", build)


def as_torch(values: Mapping[str, Any]) -> dict[str, torch.Tensor]:
    """Arrays as tensors of their own dtype."""
    return {k: v if isinstance(v, torch.Tensor) else torch.from_numpy(np.array(v)) for k, v in values.items()}


def simulate(
    host: Host, seed: int, values: Mapping[str, Any], params: Mapping[str, Any]
) -> dict[str, np.ndarray[Any, Any]]:
    """One draw of every site at full size.

    Args:
        host: model and arguments.
        seed: of torch's generator.
        values: sites to hold fixed.
        params: learnable parameters in the user's space.

    Raises:
        ValueError: naming the site, if a site that must be drawn has no sampler.
    """
    model, args, kwargs, _ = host.content
    structure = structure_of(host)
    tensors = {k: v.to(structure.params[k].value.dtype) for k, v in as_torch(params).items()}
    example = structure.draws[0]
    held = {k: v.to(example[k].dtype) if k in example else v for k, v in as_torch(values).items()}
    bind = Bind(Binding(latents=held, params=tensors, resample=True), Record())
    with untouched(structure.modules), _module_values(structure, tensors), torch.no_grad():
        torch.manual_seed(seed)
        try:
            samples = run(model, args, kwargs, bind).samples
        except NotImplementedError as error:
            raise ValueError(
                f"The program cannot be simulated: site '{bind.record.last}' has no sampler (an improper prior). "
                "Expected proper distributions for every site that is drawn; hold this site fixed by passing its value."
            ) from error
    return {
        k: torch.as_tensor(m["value"]).detach().numpy().copy() for k, m in samples.items() if not is_factor(m["fn"])
    }


@contextlib.contextmanager
def _module_values(structure: Structure, values: Mapping[str, torch.Tensor]) -> Iterator[None]:
    """Let modules hold the given parameter values."""
    raws = [(p.raw, values[k]) for k, p in structure.params.items() if p.raw is not None and k in values]
    saved = [(raw, raw.data) for raw, _ in raws]
    try:
        for raw, value in raws:
            raw.data = value.to(raw.dtype).reshape(raw.shape)
        yield
    finally:
        for raw, content in saved:
            raw.data = content
