"""Conditional fields at one condition, wherever fields without one are expected."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PyTree

from ._fields import AbstractFields
from ._path import AbstractPath
from ._points import check_fields


class FixedCondition(AbstractFields):
    """Fields that were trained with a condition, at one value of it.

    For `posterior`, `dps` and `red_diff`, whose prior has one condition for all particles, and in place of repeating
    one condition for every point elsewhere: ``posterior(key, FixedCondition(fields, jnp.array([1.0])), ...)``. Cost:
    that of the fields.

    Args:
        fields: conditional fields.
        condition: array or tree of arrays as one point has it, without a leading axis of points.

    Raises:
        ValueError: for what are no fields, a condition of None, or where another condition is passed on later.
    """

    path: AbstractPath
    fields: AbstractFields
    condition: PyTree

    def __init__(self, fields: AbstractFields, condition: PyTree) -> None:
        check_fields(fields)
        if not jax.tree.leaves(condition):
            raise ValueError("condition is empty: expected an array, or a tree of arrays, as one point has it.")
        self.path, self.fields, self.condition = fields.path, fields, jax.tree.map(jnp.asarray, condition)

    def velocity(self, t: Float[Array, ""], x: Float[Array, " *event"], condition: PyTree = None) -> Array:
        """See `AbstractFields.velocity`."""
        return self._at("velocity", condition, t, x)

    def score(self, t: Float[Array, ""], x: Float[Array, " *event"], condition: PyTree = None) -> Array:
        """See `AbstractFields.score`."""
        return self._at("score", condition, t, x)

    def drift(
        self, t: Float[Array, ""], x: Float[Array, " *event"], condition: PyTree = None, *, level: Float[Array, ""]
    ) -> Array:
        """See `AbstractFields.drift`."""
        return self._at("drift", condition, t, x, level=level)

    def end_velocity(self, t: Float[Array, ""], x: Float[Array, " *event"], condition: PyTree = None) -> Array:
        """See `AbstractFields.end_velocity`."""
        return self._at("end_velocity", condition, t, x)

    def noise(self, t: Float[Array, ""], x: Float[Array, " *event"], condition: PyTree = None) -> Array:
        """See `AbstractFields.noise`."""
        return self._at("noise", condition, t, x)

    def ends(self, t: Float[Array, ""], x: Float[Array, " *event"], condition: PyTree = None) -> tuple[Array, ...]:
        """See `AbstractFields.ends`."""
        return self._at("ends", condition, t, x)

    def _at(self, name: str, condition: PyTree, *args: Array, **settings: Array) -> Any:
        if condition is not None:
            raise ValueError("These fields have a fixed condition: expected no condition beside it.")
        return getattr(self.fields, name)(*args, self.condition, **settings)
