"""Auxiliary sites of a model: standard normal noise that carries its integrated-out sites, drawn by every guide."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from typing import Any

import jax.numpy as jnp
import numpyro
import numpyro.distributions as dist
from jax.scipy.special import ndtr
from jaxtyping import Array
from numpyro.primitives import Messenger, apply_stack

from ._program import Site

_ROLE = "role"


class AsGuide(Messenger):
    """Runs a program as a guide: `in_guide` is true inside, and noise sites of the model are drawn after it."""

    def __init__(self, fn: Callable[..., Any], noise: Sequence[Site] = ()) -> None:
        self.noise = tuple(noise)
        super().__init__(fn)

    def process_message(self, msg: dict[str, Any]) -> None:
        if msg["type"] == _ROLE:
            msg["value"] = "guide"

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        with self:
            out = self.fn(*args, **kwargs)
            for site in self.noise:
                _draw(site)
            return out

    def __eq__(self, other: object) -> bool:
        return isinstance(other, AsGuide) and (self.fn, self.noise) == (other.fn, other.noise)

    def __hash__(self) -> int:
        return hash((self.fn, self.noise))


def in_guide() -> bool:
    """Whether the program that is running is a guide."""
    message: dict[str, Any] = {"type": _ROLE, "value": None, "fn": lambda: "model", "args": (), "kwargs": {}}
    return bool(apply_stack(message)["value"] == "guide")


def noise_law(shape: tuple[int, ...], event_dim: int) -> dist.Distribution:
    """Standard normal noise of a shape."""
    return dist.Normal(0.0, 1.0).expand(shape).to_event(event_dim)


def _draw(site: Site) -> None:
    """A noise site of the model in the plates it has there."""
    shape = list(site.shape)
    with contextlib.ExitStack() as stack:
        for plate in site.plates:
            shape[len(shape) + plate.dim - site.event_dim] = 1
            stack.enter_context(
                numpyro.plate(plate.name, plate.size, subsample_size=plate.subsample_size, dim=plate.dim)
            )
        numpyro.sample(site.name, noise_law(tuple(shape), site.event_dim))


def from_noise(name: str, fn: Any, eps: Array) -> Array:
    """A draw of a distribution as a function of standard normal noise, differentiable in both.

    Raises:
        ValueError: naming the site, if the family has no such function.
    """
    if isinstance(fn, dist.ExpandedDistribution | dist.Independent | dist.MaskedDistribution):
        return from_noise(name, fn.base_dist, eps)
    if type(fn) is dist.Normal:
        return jnp.asarray(fn.loc + fn.scale * eps)
    if type(fn) is dist.MultivariateNormal:
        return jnp.asarray(fn.loc + jnp.squeeze(fn.scale_tril @ eps[..., None], -1))
    if isinstance(fn, dist.TransformedDistribution) and tuple(fn.base_dist.shape()) == tuple(fn.shape()):
        value = from_noise(name, fn.base_dist, eps)
        for transform in fn.transforms:
            value = transform(value)
        return value
    if fn.event_dim == 0 and not fn.support.is_discrete:
        limits = jnp.finfo(eps.dtype)
        try:
            return jnp.asarray(fn.icdf(jnp.clip(ndtr(eps), limits.tiny, 1.0 - limits.epsneg)))
        except (NotImplementedError, ImportError):
            pass
    what = "is discrete" if fn.support.is_discrete else "has no inverse distribution function in NumPyro"
    raise ValueError(
        f"pf.marginal in a model draws its proposals as functions of noise, and site '{name}' "
        f"({type(fn).__name__}) {what}. Expected a proposal of continuous families with an inverse distribution "
        "function (Normal, LogNormal, Uniform, Cauchy, ...); for a discrete site infer={'enumerate': 'parallel'} sums "
        "it out exactly."
    )
