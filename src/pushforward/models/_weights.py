"""Checks of the weights that sites are given from outside."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np

from ._program import Site


def check_weights(weights: Any, sites: Sequence[Site]) -> None:
    """Refuse weights that no log-probability can be multiplied by.

    Raises:
        ValueError: naming the site, if it does not exist or its weight is negative, not finite or of the wrong shape.
    """
    known = {site.name: site for site in sites if site.kind != "deterministic"}
    if not isinstance(weights, Mapping):
        raise ValueError(
            f"scaled({weights!r}): expected a dictionary {{site: weight}} with names among {sorted(known)}, e.g. "
            f"{{'{min(known, default='y')}': 0.5}}."
        )
    unknown = sorted(set(weights) - set(known), key=str)
    if unknown:
        raise ValueError(f"Unknown site(s) {unknown} in weights: expected names among {sorted(known)}.")
    for name, weight in weights.items():
        _check_weight(known[name], weight)


def _check_weight(site: Site, weight: Any) -> None:
    batch_shape = site.shape[: len(site.shape) - site.event_dim]
    minibatch = any(plate.subsample_size is not None for plate in site.plates)
    allowed = "a number" if minibatch or not batch_shape else f"a number, or an array of shape {batch_shape}"
    shown = f"an array of shape {weight.shape}" if getattr(weight, "ndim", 0) else repr(weight)
    wrong = ValueError(
        f"The weight of site '{site.name}' is {shown}: expected {allowed}, finite and not negative. 1 leaves the "
        "site as it is, 0.5 tempers it, 0 takes it out."
    )
    if isinstance(weight, jax.core.Tracer):
        shape = weight.shape
    else:
        try:
            value = np.asarray(weight, float)
        except (TypeError, ValueError):
            raise wrong from None
        shape = value.shape
        if isinstance(weight, str | bytes) or not bool(np.all(np.isfinite(value) & (value >= 0))):
            raise wrong
    # A minibatch evaluates a part of the plate only, and an array would have to follow its indices.
    if shape != () and (minibatch or shape != batch_shape):
        raise wrong
