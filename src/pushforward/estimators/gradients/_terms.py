"""Terms of a log-weight and the plates that they lie in."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array

from ...models import Target
from ...models._numpyro_run import site_term
from ...models._types import Batch, Values


class Frame(NamedTuple):
    """A plate as one run of a program meets it."""

    name: str
    dim: int


class PlatedTerm(eqx.Module):
    """One scaled term of log p or of -log q."""

    value: Array
    frames: tuple[Frame, ...] = eqx.field(static=True)
    """Plates whose axes the value has."""

    def over(self, frames: Iterable[Frame]) -> Array:
        """Summed over everything but the given plates; axes as in the distributions' batch shapes."""
        dims = sorted(frame.dim for frame in frames)
        rank, depth = self.value.ndim, -min(dims, default=0)
        axes = tuple(i for i in range(rank) if i - rank not in dims)
        total = jnp.sum(self.value, axis=axes, keepdims=True)
        return jnp.reshape(total, total.shape[rank - depth :])


def guide_terms(trace: Mapping[str, Any]) -> dict[str, PlatedTerm]:
    """Minus the terms of log q, by site."""
    out = {}
    for name, site in trace.items():
        if site["type"] == "sample":
            term = site_term(name, site, inside=not site["is_observed"])
            frames = tuple(Frame(f.name, f.dim) for f in site["cond_indep_stack"] if _has(term.log_prob, f.dim, f.size))
            out["q:" + name] = PlatedTerm(-term.log_prob * term.scale, frames)
    return out


def model_terms(target: Target, values: Values, batch: Batch | None) -> dict[str, PlatedTerm]:
    """The terms of log p, by site (sites that meet in the sum over an enumerated one are one term)."""
    plates = {site.name: site.plates for site in target.program.sites}
    out = {}
    for part in target.factors(values, batch):
        own = {p for m in part.members for p in plates.get(m, ()) if p.dim in part.plates}
        sizes = {p: len(batch[p.name]) if batch and p.name in batch else p.size for p in own}
        frames = tuple(sorted(Frame(p.name, p.dim) for p in own if _has(part.log_prob, p.dim, sizes[p])))
        out["p:" + "*".join(part.members)] = PlatedTerm(part.log_prob * part.scale, frames)
    return out


def common(terms: Iterable[PlatedTerm]) -> tuple[Frame, ...]:
    """The plates that all terms lie in."""
    sets = [set(term.frames) for term in terms]
    return tuple(sorted(set.intersection(*sets))) if sets else ()


def total(terms: Iterable[PlatedTerm], frames: tuple[Frame, ...]) -> Array:
    """Sum of terms, over everything but the given plates."""
    parts = [term.over(frames) for term in terms]
    out = parts[0]
    for part in parts[1:]:
        out = out + part
    return out


def _has(value: Array, dim: int, size: int) -> bool:
    return value.ndim >= -dim and value.shape[dim] == size
