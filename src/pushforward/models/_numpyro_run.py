"""One run of a NumPyro program with every site bound: the handler behind `NumPyroProgram`."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
from jaxtyping import Array
from numpyro import handlers
from numpyro.distributions import biject_to
from numpyro.distributions import constraints as nc
from numpyro.distributions.util import sum_rightmost

from ._arguments import Arguments
from ._program import Plate, Term
from ._types import Key

LOG_DET = "__log_det__/"
AUXILIARY = "auxiliary"
"""Entry of a site's ``infer`` dictionary: drawn by a guide for its own purposes, without a twin in the model."""
HIDDEN = "hidden"
"""Entry of a site's ``infer`` dictionary: drawn by a model on its way, and no part of its joint density."""
FREE = "free"
"""Constraint of a learnable parameter that is a pytree (a neural-network module)."""


@dataclasses.dataclass
class Binding:
    """What the sites of one run are bound to."""

    position: Mapping[str, Array] = dataclasses.field(default_factory=dict)
    """Unconstrained values of latent sites, full size."""
    values: Mapping[str, Array] = dataclasses.field(default_factory=dict)
    """Values of sites in the user's space, full size (no change of variables is recorded)."""
    values_in_batch: bool = False
    """Whether ``values`` already have minibatch size inside subsampled plates."""
    params: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    batch: Mapping[str, Array] | None = None
    plates: Mapping[str, Plate] = dataclasses.field(default_factory=dict)
    enumerated: Mapping[str, int] = dataclasses.field(default_factory=dict)
    data: Mapping[str, Array] = dataclasses.field(default_factory=dict)
    last: str = "(before the first site)"
    """Last site reached, for error messages."""


class _Bind(numpyro.primitives.Messenger):
    """Gives every site its value. Plates get their indices, latents their constrained value plus a log-det factor."""

    def __init__(self, fn: Callable[..., Any], binding: Binding) -> None:
        self.binding = binding
        super().__init__(fn)

    def process_message(self, msg: dict[str, Any]) -> None:
        kind = msg["type"]
        if kind == "control_flow":
            # Sites inside the loop body see the same binding, one time step at a time.
            msg["kwargs"]["substitute_stack"].append(("substitute", self._value))
            return
        if kind == "mutable":
            raise ValueError(
                f"The site '{msg['name']}' is mutable state (e.g. batch statistics), which a log density cannot carry. "
                "Expected a pure model; freeze the state (evaluation mode) before building the target."
            )
        if kind == "plate":
            self._bind_plate(msg)
        if kind in ("sample", "param") and not msg.get("_control_flow_done", False):
            value = self._value(msg)
            if value is not None:
                msg["value"] = value

    def _bind_plate(self, msg: dict[str, Any]) -> None:
        size, declared = msg["args"]
        if declared is None or declared == size:
            return
        name = msg["name"]
        indices = jnp.arange(size) if self.binding.batch is None else self.binding.batch[name]
        msg["value"] = indices
        # The plate's scale follows the indices: N/B for a minibatch, one for the full run.
        msg["args"] = (size, indices.shape[0])

    def _value(self, site: dict[str, Any]) -> Any:
        b, name = self.binding, site["name"]
        b.last = name
        if site["type"] == "param":
            return b.params.get(name)
        if site["type"] != "sample" or name.startswith(LOG_DET):
            return None
        if site["is_observed"]:
            return self._select(b.data[name], site, 0) if name in b.data else None
        if name in b.values:
            return b.values[name] if b.values_in_batch else self._select(b.values[name], site, 0)
        if name in b.enumerated:
            return _enumerate(site, b.enumerated[name])
        if name not in b.position:
            return None
        if site["fn"].support.is_discrete:
            return self._select(b.position[name], site, 0)
        transform = biject_to(site["fn"].support)
        shift = transform.codomain.event_dim - transform.domain.event_dim
        u = b.position[name]
        step = site["infer"].get("_scan_current_index", None)
        if step is not None and jnp.ndim(u) > len(site["fn"].shape()) - shift:
            u = u[step]
        u = self._select(u, site, shift)
        if _is_real(site["fn"].support):
            return u
        value = transform(u)
        log_det = transform.log_abs_det_jacobian(u, value)
        log_det = sum_rightmost(log_det, jnp.ndim(log_det) - jnp.ndim(value) + len(site["fn"].event_shape))
        numpyro.factor(LOG_DET + name, log_det)
        return value

    def _select(self, full: Array, site: dict[str, Any], shift: int) -> Array:
        """Pick the minibatch out of a value given at full size."""
        if self.binding.batch is None:
            return full
        event_dim = len(site["fn"].event_shape) - shift
        for frame in site["cond_indep_stack"]:
            axis = frame.dim - event_dim
            plate = self.binding.plates.get(frame.name)
            if (
                frame.name in self.binding.batch
                and plate is not None
                and jnp.ndim(full) >= -axis
                and full.shape[axis] == plate.size
            ):
                full = jnp.take(full, self.binding.batch[frame.name], axis=axis)
        return full


class PlateObserver(numpyro.primitives.Messenger):
    """Shows each plate's own size and minibatch size before they are bound."""

    def __init__(self, fn: Callable[..., Any], see: Callable[[dict[str, Any]], None]) -> None:
        self.see = see
        super().__init__(fn)

    def process_message(self, msg: dict[str, Any]) -> None:
        if msg["type"] == "plate":
            self.see(msg)


def run(
    model: Callable[..., Any],
    arguments: Arguments,
    binding: Binding,
    *,
    key: Key | None = None,
    tolerate_improper: bool = False,
) -> dict[str, Any]:
    """Run the model once and return its trace.

    Args:
        model: NumPyro model.
        arguments: its arguments.
        binding: values for its sites.
        key: lets sites that have no value be drawn; None makes any randomness an error.
        tolerate_improper: draw improper sites from a bounded uniform, for runs that only look at structure or data.
    """
    args, kwargs = arguments.unpack()
    bound = _Bind(model, binding)
    if tolerate_improper:
        bound = handlers.substitute(bound, substitute_fn=_feasible_improper)
    bound = handlers.seed(bound, key) if key is not None else _NoRandomness(bound)
    trace = handlers.trace(bound).get_trace(*args, **kwargs)
    return {name: site for name, site in trace.items() if not site.get("infer", {}).get(HIDDEN)}


class _NoRandomness(numpyro.primitives.Messenger):
    def process_message(self, msg: dict[str, Any]) -> None:
        drawn = msg["type"] == "sample" and msg["value"] is None and not msg["is_observed"]
        if drawn and msg["infer"].get(HIDDEN):
            # Any value will do: what is drawn from it is given, and its density is not read.
            msg["value"] = msg["fn"].sample(jax.random.key(0))
            return
        if (msg["type"] == "prng_key" and msg["value"] is None) or drawn:
            what = f"site '{msg['name']}'" if drawn else "a call of numpyro.prng_key()"
            raise ValueError(
                f"Randomness inside the log density: {what} draws a random number while the density is evaluated. "
                "Expected a density that depends on the latent sites only; make the draw a latent site, or switch the "
                "module to evaluation mode (no dropout)."
            )


def _feasible_improper(site: dict[str, Any]) -> Any:
    if site["type"] == "sample" and not site["is_observed"] and site["value"] is None and _is_improper(site["fn"]):
        transform = biject_to(site["fn"].support)
        return transform(jnp.zeros(transform.inverse_shape(site["fn"].shape())))
    return None


def _is_improper(fn: Any) -> bool:
    # A plate expands the distribution, to_event wraps it.
    while hasattr(fn, "base_dist"):
        fn = fn.base_dist
    return isinstance(fn, dist.ImproperUniform)


def _enumerate(site: dict[str, Any], dim: int) -> Array:
    values = site["fn"].enumerate_support(expand=False)
    event = values.shape[values.ndim - len(site["fn"].event_shape) :]
    return values.reshape(values.shape[:1] + (1,) * (-dim - 1) + event)


def _is_real(support: Any) -> bool:
    return support is nc.real or (isinstance(support, nc.independent) and _is_real(support.base_constraint))


def is_factor(site: Mapping[str, Any]) -> bool:
    """Whether a trace entry is a ``numpyro.factor``."""
    fn: Any = site.get("fn")
    while hasattr(fn, "base_dist"):
        fn = fn.base_dist
    return type(fn).__name__ == "Unit"


def site_term(name: str, site: Mapping[str, Any], *, inside: bool = False) -> Term:
    """The factor that one sample site contributes.

    Args:
        name: the site.
        site: its trace entry.
        inside: the value is known to lie in the support, so that NumPyro's own check of every element can be left out
            of the compiled density (it costs 10 to 20 % of a regression).
    """
    fn, value = site["fn"], site["value"]
    if isinstance(value, (bool, int, float, np.generic)):
        value = jnp.asarray(value)
    with _unchecked(fn) if inside else contextlib.nullcontext():
        try:
            log_prob = fn.log_prob(value, site["intermediates"]) if site["intermediates"] else fn.log_prob(value)
        except (TypeError, ValueError) as error:
            raise ValueError(
                f"Site '{name}': a value of shape {jnp.shape(value)} does not fit a distribution of shape "
                f"{tuple(fn.shape())} ({str(error).splitlines()[0]}) Expected shapes that broadcast; check the "
                "arguments of the model at this site."
            ) from error
    log_prob = jnp.asarray(log_prob)
    scale = 1.0 if site["scale"] is None else site["scale"]
    return Term(log_prob, scale, _normal_total(fn, value, log_prob) if jnp.ndim(scale) == 0 else None)


def _normal_total(fn: Any, value: Array, log_prob: Array) -> Array | None:
    """Sum of normal log-densities with the normaliser taken out of the sum, which XLA does not do by itself.

    It saves a tenth of the density of a regression: one operation per observation.
    """
    count = log_prob.size
    while isinstance(fn, dist.ExpandedDistribution | dist.Independent):
        count *= int(np.prod(fn.event_shape)) // int(np.prod(fn.base_dist.event_shape))
        fn = fn.base_dist
    if type(fn) is not dist.Normal or count == 0:
        return None
    noise = (value - fn.loc) / fn.scale
    if noise.size != count:
        return None
    spread = jnp.sum(jnp.log(fn.scale)) * (count / jnp.size(fn.scale))
    return -0.5 * jnp.sum(noise**2) - spread - 0.5 * count * float(np.log(2 * np.pi))


@contextlib.contextmanager
def _unchecked(fn: Any) -> Iterator[None]:
    layers = []
    while fn is not None:
        if hasattr(fn, "_validate_args"):
            layers.append((fn, fn._validate_args))
            fn._validate_args = False
        fn = getattr(fn, "base_dist", None)
    try:
        yield
    finally:
        for layer, before in layers:
            layer._validate_args = before
