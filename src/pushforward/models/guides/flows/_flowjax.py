"""Flows of the flowjax library as guides."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
from jaxtyping import Array

from ..._arguments import Static, program_name
from ..._target import Target
from ..._types import Key
from .._base import bound, with_fields
from ._bijection import AbstractBijection, Scalar, Vector
from ._flow import AbstractFlow


class FlowjaxBijection(AbstractBijection):
    """A flowjax bijection. Its arrays are leaves; what flowjax marks as not trainable stays as it is."""

    arrays: tuple[Array, ...]
    rest: Static = eqx.field(static=True)
    """What is no array (activations, functions that flowjax makes), with the structure."""

    def forward(self, x: Vector) -> tuple[Vector, Scalar]:
        """See `AbstractBijection.forward`."""
        return self._unwrapped().transform_and_log_det(x)

    def inverse(self, y: Vector) -> tuple[Vector, Scalar]:
        """See `AbstractBijection.inverse`."""
        return self._unwrapped().inverse_and_log_det(y)

    def _unwrapped(self) -> Any:
        import paramax

        others, structure = self.rest.value
        return paramax.unwrap(eqx.combine(jax.tree.unflatten(structure, self.arrays), others))


class FlowjaxGuide(AbstractFlow):
    """A flow built by flowjax. Made by `flow_guide`."""

    build: Callable[[Key, int], Any] = eqx.field(static=True)
    made: Static = eqx.field(static=True)
    """By number of coordinates: what is no array in the first flow made, which later ones share."""

    def __init__(self, build: Callable[[Key, int], Any], target: Target | None = None) -> None:
        self.build = build
        self.made = Static({})
        self._place(target)

    def fresh(self, key: Key) -> FlowjaxGuide:
        """See `AbstractFlow.fresh`. Not compiled: flowjax keeps intermediate values of a flow's making."""
        layout = bound(self, self.layout)
        return with_fields(self, layers=self.make(key, layout.dim, layout.dtype))

    def make(self, key: Key, dim: int, dtype: Any) -> AbstractBijection:
        """See `AbstractFlow.make`."""
        from flowjax.distributions import AbstractTransformed, StandardNormal

        name = program_name(self.build)
        flow = self.build(key, dim)
        if not isinstance(flow, AbstractTransformed) or flow.shape != (dim,) or flow.cond_shape is not None:
            got = f"{type(flow).__name__} of shape {getattr(flow, 'shape', None)}"
            raise ValueError(
                f"'{name}' returned a {got}: expected an unconditional flowjax flow (a transformed distribution) of "
                f"shape ({dim},), e.g. flowjax.flows.coupling_flow(key, base_dist=Normal(jnp.zeros(dim)), "
                "transformer=Affine())."
            )
        flow = flow.merge_transforms()
        if not isinstance(flow.base_dist, StandardNormal):
            raise ValueError(
                f"The flow of '{name}' has base {type(flow.base_dist).__name__}: expected flowjax's Normal, because "
                "draws push standard normal (or quasi-random) noise."
            )
        arrays, others = eqx.partition(flow.bijection, eqx.is_array)
        leaves, structure = jax.tree.flatten(arrays)
        cast = tuple(x.astype(dtype) if eqx.is_inexact_array(x) else x for x in leaves)
        # Functions made anew are never equal: restarts can be stacked only if they share them.
        shapes = tuple(x.shape for x in cast)
        rest = self.made.value.setdefault((dim, shapes), Static((others, structure)))
        return FlowjaxBijection(cast, rest)


def flow_guide(build: Callable[[Key, int], Any]) -> FlowjaxGuide:
    """Use a flowjax flow as a guide. Needs the extra ``pushforward[flows]``.

    `Path` carries the force along where the flow's inverse is explicit as cheaply as for our own flows; flows whose
    inverse is a numerical search pay for it in every step (build them with ``invert=True`` for draws in one pass).

    Args:
        build: function of a key and the number of coordinates that returns a flowjax flow over a vector of that length,
            its base a ``Normal``.

    Returns:
        An unbound guide; `pf.fit` binds it and draws its weights anew for every restart.

    Raises:
        ValueError: if ``build`` is not callable.

    Example:
        >>> def build(key, dim):
        ...     from flowjax.distributions import Normal
        ...     from flowjax.flows import coupling_flow
        ...     return coupling_flow(key, base_dist=Normal(jnp.zeros(dim)))
        >>> guide = flow_guide(build)
    """
    if not callable(build) or isinstance(build, eqx.Module):
        raise ValueError(
            f"flow_guide({build!r}): expected a function (key, dim) -> flowjax flow, so that every restart draws its "
            "own weights; wrap a finished flow in lambda key, dim: flow."
        )
    return FlowjaxGuide(build)
