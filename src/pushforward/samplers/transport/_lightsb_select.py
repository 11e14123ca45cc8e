"""How many components a light Schroedinger bridge gets, by the loss of points that a fit has not seen."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from ...models._types import Key
from ._clusters import cluster
from ._lightsb_fit import Fit, fit_mixture, loss_of
from ._matrices import product

_CANDIDATES = (2, 8, 32, 128)
_HELD_OUT = 0.2
_TRIAL_STEPS = 60
_FEWEST = 20
"""Points below which nothing can be held out: then there is one component."""


def fit_selected(
    key: Key,
    clouds: tuple[Float[Array, "n d"], Float[Array, "m d"]],
    weights: tuple[Float[Array, " n"], Float[Array, " m"]],
    epsilon: Float[Array, ""],
    *,
    num_components: int | None,
    full: bool,
    tolerance: float,
    max_steps: int,
) -> tuple[Fit, Array, Array]:
    """A fit in the units of the points, relative to the two means, which are returned with it.

    Without ``num_components`` 2, 8, 32, 128 are tried as long as the loss of a fifth of the points, held out, falls;
    the best number is then fitted to all points.
    """
    key_split, key_start = jax.random.split(key)
    effort = jnp.asarray(tolerance, epsilon.dtype), jnp.asarray(max_steps)
    # What tells numbers of components apart is far above the tolerance of the last fit.
    trial_effort = 10.0 * effort[0], jnp.minimum(effort[1], _TRIAL_STEPS)
    fitted = functools.partial(_fit, full=full)
    if num_components is None:
        if any(isinstance(v, jax.core.Tracer) for v in (*clouds, *weights, epsilon)):
            raise ValueError(
                "num_components=None inside compiled code: the number of components is chosen by comparing fits, which "
                "needs values; pass a number, or call fit outside."
            )
        num_components = 1
        if min(len(cloud) for cloud in clouds) >= _FEWEST:
            seen, unseen = _split(key_split, weights)
            lowest = float("inf")
            for count in (k for k in _CANDIDATES if k <= len(clouds[1])):
                found, *means = fitted(key_start, clouds, seen, epsilon, trial_effort, num_components=count)
                loss = float(_loss(found, clouds, means, unseen, epsilon))
                if not loss < lowest:
                    break
                lowest, num_components = loss, count
    num_components = min(num_components, len(clouds[1]))
    return fitted(key_start, clouds, weights, epsilon, effort, num_components=num_components)


def _split(key: Key, weights: tuple[Array, Array]) -> tuple[tuple[Array, Array], tuple[Array, Array]]:
    """Weights of points to fit to and of points to judge by, of the same shapes, so that one program serves both."""
    seen: list[Array] = []
    unseen: list[Array] = []
    for subkey, weight in zip(jax.random.split(key), weights, strict=True):
        held = jax.random.permutation(subkey, weight.shape[0]) < int(_HELD_OUT * weight.shape[0])
        # Weights may be concentrated on points of one part: then that part is judged by itself.
        for part, list_ in ((~held, seen), (held, unseen)):
            kept = jnp.where(part, weight, 0.0)
            total = jnp.sum(kept)
            list_.append(jnp.where(total > 0, kept / jnp.where(total > 0, total, 1.0), weight))
    return (seen[0], seen[1]), (unseen[0], unseen[1])


@functools.partial(jax.jit, static_argnames=("num_components", "full"))
def _fit(
    key: Key,
    clouds: tuple[Array, Array],
    weights: tuple[Array, Array],
    epsilon: Array,
    effort: tuple[Array, Array],
    *,
    num_components: int,
    full: bool,
) -> tuple[Fit, Array, Array]:
    (x, y), (a, b) = clouds, weights
    means = product(a, x), product(b, y)
    x, y = x - means[0][None, :], y - means[1][None, :]
    variances = [jnp.sum(w * jnp.sum(z**2, axis=1)) / z.shape[1] for z, w in ((x, a), (y, b))]
    variances = [jnp.where(v > 0, v, 1.0) for v in variances]
    # One scale for both sides and all directions, as epsilon has.
    scale = (variances[0] * variances[1]) ** 0.25
    assigned = jax.nn.one_hot(cluster(key, y / scale, b, num_components), num_components, dtype=y.dtype)
    found = fit_mixture(x / scale, y / scale, a, b, assigned, epsilon / scale**2, *effort, full=full)
    return found._replace(parameters=found.parameters._replace(locations=scale * found.parameters.locations)), *means


@jax.jit
def _loss(
    found: Fit, clouds: tuple[Array, Array], means: list[Array], weights: tuple[Array, Array], epsilon: Array
) -> Float[Array, ""]:
    x, y = clouds[0] - means[0], clouds[1] - means[1]
    return loss_of(found.parameters, x, y, weights[0], weights[1], epsilon)
