"""How a run is carried out: what it shows, what it saves, where it goes on. Nothing here changes a result."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import time
from collections.abc import Iterator
from typing import Any

from jax.sharding import Mesh
from jaxtyping import PyTree

from ..samplers.engine import Progress, checkpoint_writer


@dataclasses.dataclass(frozen=True)
class Execution:
    """Settings that `fit`, `sample` and `resume` share."""

    progress: bool
    checkpoint: str | os.PathLike[str] | None
    checkpoint_every: float
    provenance: dict[str, Any]
    began: float
    """`time.perf_counter` at the user's call."""
    start: int = 0
    """Steps already taken."""
    records: PyTree | None = None
    """Records of those steps."""
    mesh: Mesh | None = None
    """Devices that share the run; None for JAX's default device."""

    @contextlib.contextmanager
    def opened(self, kind: str, source: str, label: str, job: Any, state: Any) -> Iterator[dict[str, Any]]:
        """Arguments for `samplers.engine.run`, with the progress line closed on the way out, whatever happens.

        Args:
            kind: "fit" or "sample".
            source: name of the model.
            label: what the progress line says is running.
            job: what `resume` needs besides the state.
            state: a state of the run, for its structure.
        """
        save = None
        if self.checkpoint is not None:
            header = {"kind": kind, "source": source, "provenance": self.provenance}
            save = checkpoint_writer(self.checkpoint, job, header, state)
        with Progress(label) if self.progress else contextlib.nullcontext() as meter:
            yield {"progress": meter, "save": save, "save_every": self.checkpoint_every}

    def finished(self) -> dict[str, Any]:
        """Provenance of a run that ends now, with its wall time in seconds."""
        return {**self.provenance, "wall_time": time.perf_counter() - self.began}
