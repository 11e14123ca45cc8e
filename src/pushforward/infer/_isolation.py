"""Chains and particles that were put aside because they met a value that is not finite."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import numpy as np

from ..samplers import Chains
from ._verdict import Finding

_NAMED = 5


def isolated_chains(chains: Chains, state: Any) -> dict[tuple[int, ...], int]:
    """``{(chain,): step at which it was put aside}``."""
    return _isolated(np.asarray(state.failed_step)) if chains.sampler.isolates else {}


def isolated_particles(state: Any) -> dict[tuple[int, ...], int]:
    """``{(cloud, particle): step at which it was put aside}``, from the states of all clouds."""
    return _isolated(np.asarray(state.failed_step))


def isolation_attrs(what: str, isolated: Mapping[tuple[int, ...], int], total: int) -> dict[str, str]:
    """The attribute ``isolated`` of a result, empty where none was."""
    if not isolated:
        return {}
    entries = [[list(index), step] for index, step in isolated.items()]
    return {"isolated": json.dumps({"what": what, "total": total, "entries": entries})}


def check_isolated(attrs: Mapping[Any, Any]) -> list[Finding]:
    """Name what was put aside."""
    if "isolated" not in attrs:
        return []
    record = json.loads(attrs["isolated"])
    entries = record["entries"]
    several = any(index[0] for index, _ in entries)
    named = ", ".join(
        f"{record['what']} {_name(index, several=several)} at step {step}" for index, step in entries[:_NAMED]
    )
    more = f" and {len(entries) - _NAMED} more" if len(entries) > _NAMED else ""
    return [
        Finding(
            "doubtful",
            f"{len(entries)} of {record['total']} {record['what']}s met a value that is not finite and were put aside: "
            f"{named}{more}. They are not among the draws; the others went on without them. Lower the step size, "
            "start closer to the posterior, or use 64-bit floats.",
        )
    ]


def _isolated(failed_step: np.ndarray) -> dict[tuple[int, ...], int]:
    return {tuple(int(i) for i in index): int(failed_step[tuple(index)]) for index in np.argwhere(failed_step >= 0)}


def _name(index: list[int], *, several: bool) -> str:
    return f"{index[-1]} of cloud {index[0]}" if len(index) > 1 and several else str(index[-1])
