"""Type aliases shared by every layer."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeAlias

from jaxtyping import Array, PRNGKeyArray, PyTree

Key: TypeAlias = PRNGKeyArray
Position: TypeAlias = PyTree[Any]
"""A point of unconstrained space: any pytree of floating-point arrays."""

Batch: TypeAlias = Mapping[str, Array]
"""Indices drawn for the plates that declare a ``subsample_size``: ``{plate: int array}``."""

Values: TypeAlias = dict[str, Array]
"""Values in the user's own space, by site name."""
