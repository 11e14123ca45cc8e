"""A compiled Pyro program. This file needs no torch: a pickled program runs where torch is not installed."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from .._numpyro import check_batch, check_latent_values, check_observed_values
from .._program import AbstractProgram, Evaluation, Plate, Site, Term
from .._types import Batch, Key, Position, Values
from ._callback import CallbackRun
from ._execute import Execution
from ._graph import Graph
from ._host import Host
from ._support import Support, bijection, constraint_of, is_real, log_det
from .lowerings._promotion import default_float


class ParamInfo(eqx.Module):
    """How a learnable parameter is constrained."""

    support: Support = eqx.field(static=True)
    bounds: tuple[Array, ...]


class PyroProgram(AbstractProgram):
    """A Pyro model with its arguments, compiled to JAX. Built by `from_pyro`.

    Observed data, module buffers and large constants are array leaves; the traced graphs are static and equal by
    content.
    """

    params: dict[str, Any]
    data: dict[str, Array]
    """Observed data by site, full size."""
    buffers: dict[str, Array]
    constant_arrays: dict[str, Array]
    arguments: dict[str, Array]
    """Array arguments that are not observed data, by name."""
    param_info: dict[str, ParamInfo]
    full: Graph | None = eqx.field(static=True)
    """The density with every plate at full size; None for the callback backend."""
    minibatch: Graph | None = eqx.field(static=True)
    supports: tuple[tuple[str, Support], ...] = eqx.field(static=True)
    """Support of each latent site, in program order."""
    lifted: frozenset[str] = eqx.field(static=True)
    """Observed sites whose data can be replaced without tracing again."""
    host: Host = eqx.field(static=True)
    sites: tuple[Site, ...] = eqx.field(static=True)
    plates: tuple[Plate, ...] = eqx.field(static=True)
    enumerated: tuple[tuple[str, int, int], ...] = eqx.field(static=True)
    source: str = eqx.field(static=True)
    traceable_simulation: ClassVar[bool] = False

    def evaluate(self, position: Position, batch: Batch | None = None) -> Evaluation:
        """See `AbstractProgram.evaluate`."""
        indices = None if batch is None else check_batch(self.plates, batch)
        run = self._begin(indices)
        values: Values = {}
        log_dets: dict[str, Array] = {}
        for name, support, site in self._latents():
            # The position may have fewer axes than the value (a simplex does not, a Cholesky factor does).
            shift = len(site.shape) - len(site.unconstrained_shape or ())
            u = _select(_as_float(position[name]), site, indices, site.event_dim - shift)
            if is_real(support):
                values[name] = u
            else:
                transform = self._transform(run, name, support, site)
                values[name] = transform(u)
                log_dets[name] = _weighted_sum(
                    log_det(transform, u, values[name], site.event_dim), run.output(f"scale/{name}")
                )
            run.give(f"latent/{name}", values[name])
        terms = {k: Term(_as_float(run.output(f"term/{k}")), run.output(f"scale/{k}")) for k in run.names("term/")}
        deterministics = {k: run.output(f"value/{k}") for k in run.names("value/")}
        return Evaluation(values, deterministics, terms, log_dets)

    def invert(self, values: Values, batch: Batch | None = None) -> tuple[Position, dict[str, Array]]:
        """See `AbstractProgram.invert`."""
        run = self._begin(None if batch is None else check_batch(self.plates, batch))
        position: dict[str, Array] = {}
        log_dets: dict[str, Array] = {}
        for name, support, site in self._latents():
            value = _as_float(values[name])
            if is_real(support):
                position[name] = value
            else:
                transform = self._transform(run, name, support, site)
                position[name] = transform.inv(value)
                log_dets[name] = _weighted_sum(
                    log_det(transform, position[name], value, site.event_dim), run.output(f"scale/{name}")
                )
            run.give(f"latent/{name}", value)
        return position, log_dets

    def _latents(self) -> list[tuple[str, Support, Site]]:
        sites = {s.name: s for s in self.sites}
        return [(name, support, sites[name]) for name, support in self.supports]

    def _begin(self, indices: dict[str, Array] | None) -> Execution | CallbackRun:
        inputs: dict[str, Any] = {f"param/{k}": v for k, v in self.param_values().items()}
        inputs.update({f"observed/{k}": self.data[k] for k in self.lifted})
        inputs.update({f"buffer/{k}": v for k, v in self.buffers.items()})
        inputs.update({f"index/{k}": v for k, v in (indices or {}).items()})
        graph = self.full if indices is None else self.minibatch
        if graph is None:
            return CallbackRun(self.host, indices is not None, inputs)
        if not jax.config.read("jax_enable_x64"):
            where = graph.float64_use()
            if where is not None:
                raise ValueError(
                    f"The program {self.source} was compiled in float64 ({where}), but JAX has 64-bit types switched "
                    "off: expected the precision it was compiled with. Call pf.enable_x64() before anything else."
                )
        return Execution(graph, inputs, self.constant_arrays)

    def _transform(self, run: Execution | CallbackRun, name: str, support: Support, site: Site) -> Any:
        bounds = [run.output(f"support/{name}/{k}") for k in range(_num_bounds(support))]
        return bijection(support, bounds, len(site.shape), default_float())

    def unconstrain(self, values: Mapping[str, Any]) -> Position:
        """See `AbstractProgram.unconstrain`."""
        given = check_latent_values({s.name: s for s in self.sites if s.kind == "latent"}, values)
        run = self._begin(None)
        for name, support, site in self._latents():
            value = _as_float(given[name])
            bounds = [run.output(f"support/{name}/{k}") for k in range(_num_bounds(support))]
            inside = constraint_of(support, bounds, value.ndim, value.dtype)(value)
            if not isinstance(inside, jax.core.Tracer) and not bool(jnp.all(inside)):
                raise ValueError(
                    f"The value of site '{name}' lies outside its support: expected {site.support}, got values between "
                    f"{float(jnp.min(value)):.6g} and {float(jnp.max(value)):.6g}. Pass a value inside the support."
                )
            run.give(f"latent/{name}", value)
        return self.invert(given)[0]

    def simulate(self, key: Key, values: Values | None = None) -> Values:
        """See `AbstractProgram.simulate`.

        Runs the Pyro model itself, in torch, with a seed derived from the key; torch's and Pyro's global state is
        untouched. Enumerated sites are drawn, not summed. Not traceable.
        """
        from ._simulate import simulate

        bits = int(jax.random.bits(key, dtype=jnp.uint32))
        kept = {k: np.asarray(v) for k, v in (values or {}).items()}
        drawn = simulate(self.host, bits, kept, {k: np.asarray(v) for k, v in self.param_values().items()})
        return {k: jnp.asarray(v) for k, v in drawn.items()}

    def param_values(self) -> dict[str, Any]:
        """See `AbstractProgram.param_values`."""
        out: dict[str, Any] = {}
        for name, value in self.params.items():
            info = self.param_info[name]
            transform = bijection(info.support, info.bounds, jnp.ndim(value), value.dtype)
            out[name] = value if is_real(info.support) else transform(value)
        return out

    def initial_params(self, key: Key) -> dict[str, Any]:
        """See `AbstractProgram.initial_params`."""
        if not self.params:
            return {}
        from ._frontend import fresh_params

        fresh = fresh_params(self.host, int(jax.random.bits(key, dtype=jnp.uint32)))
        return {k: fresh.get(k, v) for k, v in self.params.items()}

    def with_params(self, params: dict[str, Any]) -> PyroProgram:
        """See `AbstractProgram.with_params`."""
        return dataclasses.replace(self, params=dict(params))

    def observed(self) -> Values:
        """See `AbstractProgram.observed`."""
        return dict(self.data)

    def constants(self, observed: Values) -> Values:
        """See `AbstractProgram.constants`."""
        return dict(self.arguments)

    def condition(self, values: Mapping[str, Any]) -> PyroProgram:
        """See `AbstractProgram.condition`. Traces the model again only where data steers the program's structure."""
        checked = check_observed_values(self, values)
        if set(checked) <= self.lifted:
            return dataclasses.replace(self, data={**self.data, **checked})
        from ._frontend import build

        model, args, kwargs, data = self.host.content
        replaced = {**data, **{k: np.asarray(v) for k, v in checked.items()}}
        return build(
            model, args, kwargs, replaced, latent=self._latent_names(), callback=self.full is None
        ).with_params(self.params)

    def rebind(self, *args: Any, **kwargs: Any) -> PyroProgram:
        """See `AbstractProgram.rebind`. Traces the model again."""
        from ._frontend import build

        model = self.host.content[0]
        return build(model, args, kwargs, {}, latent=self._latent_names(), callback=self.full is None).with_params(
            self.params
        )

    def _latent_names(self) -> set[str]:
        return {s.name for s in self.sites if s.kind in ("latent", "enumerated")}


def _as_float(value: Any) -> Array:
    """Positions and log-densities have JAX's float; a float32 model under x64 is rounded inside its graph only."""
    return jax.lax.convert_element_type(jnp.asarray(value), default_float())


def _num_bounds(support: Any) -> int:
    if isinstance(support, Support):
        return sum(_num_bounds(a) for a in support.args)
    if isinstance(support, tuple) and not hasattr(support, "_fields"):
        return sum(_num_bounds(a) for a in support)
    return int(hasattr(support, "text"))


def _select(full: Array, site: Site, indices: Mapping[str, Array] | None, event_dim: int) -> Array:
    """Pick the minibatch out of a value given at full size."""
    for plate in site.plates:
        axis = plate.dim - event_dim
        if indices is not None and plate.name in indices and full.ndim >= -axis and full.shape[axis] == plate.size:
            full = jnp.take(full, indices[plate.name], axis=axis)
    return full


def _weighted_sum(log_prob: Array, scale: Any) -> Array:
    if not hasattr(scale, "dtype"):
        return jnp.sum(log_prob) * scale
    rank = max(scale.ndim, log_prob.ndim)
    shapes: Sequence[Array] = [
        jnp.reshape(x, (1,) * (rank - x.ndim) + x.shape) if x.ndim else x for x in (log_prob, scale)
    ]
    return jnp.sum(shapes[0] * shapes[1].astype(log_prob.dtype))
