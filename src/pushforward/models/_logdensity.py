"""Plain functions as targets."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array
from numpyro.distributions import biject_to
from numpyro.distributions import constraints as nc

from ._arguments import Static, program_name
from ._program import AbstractProgram, Evaluation, Plate, Site, Term
from ._target import Target
from ._types import Batch, Key, Position, Values

_FACTOR = "logdensity"


class FunctionProgram(AbstractProgram):
    """A log-density function of a pytree. Built by `from_logdensity`."""

    params: dict[str, Any]
    example: Position
    function: Callable[..., Array] = eqx.field(static=True)
    constraints: Static = eqx.field(static=True)
    """Constraint per site name."""
    sites: tuple[Site, ...] = eqx.field(static=True)
    plates: tuple[Plate, ...] = eqx.field(static=True)
    enumerated: tuple[tuple[str, int, int], ...] = eqx.field(static=True)
    source: str = eqx.field(static=True)
    traceable_simulation: ClassVar[bool] = True

    def evaluate(self, position: Position, batch: Batch | None = None) -> Evaluation:
        """See `AbstractProgram.evaluate`."""
        leaves, treedef = jax.tree.flatten(position)
        values: list[Array] = []
        log_dets: dict[str, Array] = {}
        for name, u in zip(self._names(), leaves, strict=True):
            constraint = self.constraints.value.get(name, nc.real)
            if constraint is nc.real:
                values.append(u)
                continue
            transform = biject_to(constraint)
            value = transform(u)
            log_det = transform.log_abs_det_jacobian(u, value)
            log_dets[name] = jnp.sum(log_det)
            values.append(value)
        log_prob = self.function(jax.tree.unflatten(treedef, values))
        return Evaluation(
            dict(zip(self._names(), values, strict=True)), {}, {_FACTOR: Term(jnp.asarray(log_prob))}, log_dets
        )

    def evaluate_values(self, values: Values, batch: Batch | None = None) -> Evaluation:
        """See `AbstractProgram.evaluate_values`: without bijections."""
        leaves = [values[name] for name in self._names()]
        log_prob = self.function(jax.tree.unflatten(jax.tree.structure(self.example), leaves))
        return Evaluation(dict(values), {}, {_FACTOR: Term(jnp.asarray(log_prob))}, {})

    def check_position(self, position: Position, batch: Batch | None = None) -> None:
        """See `AbstractProgram.check_position`."""
        got, expected = (jax.tree.map(jnp.shape, x) for x in (position, self.example))
        if got != expected:
            raise ValueError(
                f"The position has shapes {got}: expected {expected}, those of the (unconstrained) example that "
                f"{self.source} was built with. Positions come from target.initial(key) or target.unconstrain(values)."
            )

    def unconstrain(self, values: Mapping[str, Any]) -> Position:
        """See `AbstractProgram.unconstrain`. Also takes the user's own pytree."""
        treedef = jax.tree.structure(self.example)
        named = (
            values
            if set(values) == set(self._names())
            else dict(zip(self._names(), treedef.flatten_up_to(values), strict=True))  # type: ignore[attr-defined]
        )
        checked: Values = {}
        for name, like in zip(self._names(), jax.tree.leaves(self.example), strict=True):
            constraint = self.constraints.value.get(name, nc.real)
            checked[name] = jnp.asarray(named[name], like.dtype)
            if not bool(jnp.all(constraint(checked[name]))):
                raise ValueError(
                    f"The value of '{name}' lies outside its support: expected {constraint}, got {checked[name]}."
                )
        return self.invert(checked)[0]

    def invert(self, values: Values, batch: Batch | None = None) -> tuple[Position, dict[str, Array]]:
        """See `AbstractProgram.invert`."""
        leaves: list[Array] = []
        log_dets: dict[str, Array] = {}
        for name in self._names():
            constraint = self.constraints.value.get(name, nc.real)
            transform = biject_to(constraint)
            leaves.append(transform.inv(values[name]))
            if constraint is not nc.real:
                log_dets[name] = jnp.sum(transform.log_abs_det_jacobian(leaves[-1], values[name]))
        return jax.tree.unflatten(jax.tree.structure(self.example), leaves), log_dets

    def simulate(self, key: Key, values: Values | None = None) -> Values:
        """See `AbstractProgram.simulate`. A density has no generative process."""
        raise ValueError(
            f"{self.source} is a plain log-density: it has no generative process to draw data or priors from. Expected "
            "a NumPyro or Pyro program for predictive draws."
        )

    def param_values(self) -> dict[str, Any]:
        """See `AbstractProgram.param_values`."""
        return {}

    def initial_params(self, key: Key) -> dict[str, Any]:
        """See `AbstractProgram.initial_params`."""
        return {}

    def with_params(self, params: dict[str, Any]) -> FunctionProgram:
        """See `AbstractProgram.with_params`."""
        return self

    def observed(self) -> Values:
        """See `AbstractProgram.observed`."""
        return {}

    def constants(self, observed: Values) -> Values:
        """See `AbstractProgram.constants`."""
        return {}

    def condition(self, values: Mapping[str, Any]) -> FunctionProgram:
        """See `AbstractProgram.condition`."""
        raise ValueError(
            f"{self.source} is a plain log-density without observed sites: there is no data to replace "
            f"({sorted(values)})."
        )

    def rebind(self, *args: Any, **kwargs: Any) -> FunctionProgram:
        """See `AbstractProgram.rebind`."""
        raise ValueError(
            f"{self.source} is a plain log-density without arguments: build a new target with from_logdensity."
        )

    def _names(self) -> tuple[str, ...]:
        return tuple(s.name for s in self.sites if s.kind == "latent")


def from_logdensity(
    fn: Callable[..., Any],
    example: Any,
    constraints: Mapping[str, Any] | Any | None = None,
    *,
    coords: Mapping[str, Any] | None = None,
    dims: Mapping[str, Any] | None = None,
) -> Target:
    """Make a target of a log-density function.

    Args:
        fn: maps a value (a pytree shaped like ``example``) to its scalar log-density in nats, up to a constant.
        example: any value of the right structure, shapes and floating dtype; its numbers are not used.
        constraints: support per leaf, as NumPyro constraints: ``{name: constraint}`` with the names under which the
            leaves are reported (dictionary keys joined by dots, ``"x"`` for a bare array), or one constraint for a bare
            array. Leaves that are not named are real.
        coords: labels per dimension.
        dims: names of the axes, ``{name: names}``.

    Returns:
        A `Target` on unconstrained space; the log-Jacobian of the constraints is included in its ``logdensity``.

    Raises:
        ValueError: if ``fn`` does not return a scalar, the example has no floating-point leaves, or a constraint names
            no leaf.

    Example:
        >>> from_logdensity(lambda x: -0.5 * jax.numpy.sum(x**2), jax.numpy.zeros(3)).dim
        3
    """
    leaves = jax.tree_util.tree_leaves_with_path(example)
    if not leaves:
        raise ValueError(
            "The example position has no arrays: expected a pytree with at least one floating-point array."
        )
    names = [_leaf_name(path) for path, _ in leaves]
    for name, (_, leaf) in zip(names, leaves, strict=True):
        if np.asarray(leaf).dtype.kind not in "biufc":
            raise ValueError(
                f"The leaf '{name}' of the example is {leaf!r}: expected a floating-point array such as jnp.zeros(3)."
            )
        if not jnp.issubdtype(jnp.asarray(leaf).dtype, jnp.floating):
            raise ValueError(
                f"The leaf '{name}' of the example has dtype {jnp.asarray(leaf).dtype}: expected floating point, "
                "because positions move along gradients. Write e.g. jnp.zeros(3) or 0.0."
            )
        if jnp.asarray(leaf).size == 0:
            raise ValueError(
                f"The leaf '{name}' of the example is empty (shape {jnp.shape(leaf)}): expected at least one "
                "coordinate."
            )
    table = _constraint_table(constraints, names)
    values = jax.tree.map(jnp.asarray, example)
    result = jax.eval_shape(fn, values)
    if not hasattr(result, "shape") or result.shape != ():
        got = getattr(result, "shape", type(result).__name__)
        raise ValueError(
            f"The log-density '{program_name(fn)}' returns {got}: expected a scalar. Sum over the axes of the position."
        )
    sites, unconstrained = [], []
    for name, leaf in zip(names, jax.tree.leaves(values), strict=True):
        constraint = table.get(name, nc.real)
        shape = biject_to(constraint).inverse_shape(leaf.shape)
        unconstrained.append(jnp.zeros(shape, leaf.dtype))
        sites.append(Site(name, "latent", leaf.shape, tuple(shape), (), constraint.event_dim, str(constraint)))
    sites.append(Site(_FACTOR, "factor", ()))
    program = FunctionProgram(
        params={},
        example=jax.tree.unflatten(jax.tree.structure(values), unconstrained),
        function=fn,
        constraints=Static(table),
        sites=tuple(sites),
        plates=(),
        enumerated=(),
        source=f"logdensity:{program_name(fn)}",
    )
    return Target(program, coords=coords, dims=dims)


def _leaf_name(path: tuple[Any, ...]) -> str:
    parts = [str(getattr(k, "key", getattr(k, "name", getattr(k, "idx", k)))) for k in path]
    return ".".join(parts) or "x"


def _constraint_table(constraints: Any, names: list[str]) -> dict[str, Any]:
    if constraints is None:
        return {}
    if isinstance(constraints, nc.Constraint):
        if len(names) != 1:
            raise ValueError(
                f"One constraint was given for {len(names)} leaves {names}: expected a mapping from leaf name to "
                "constraint."
            )
        return {names[0]: constraints}
    unknown = sorted(set(constraints) - set(names))
    if unknown:
        raise ValueError(
            f"constraints names {unknown}, which are no leaves of the example: expected names among {names}."
        )
    return {k: v for k, v in constraints.items() if v is not nc.real}
