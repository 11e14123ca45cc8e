"""Quadratic objectives whose minimisers are the fields of an interpolant."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PyTree

from ...models._types import Key
from ._fields import away_from_zero
from ._learned_fields import LearnedFields, Quantity
from ._path import AbstractPath, combine

_BLOW_UP = 2.5
"""Ten times nearer to an end a derivative that grows like a root is this much larger; one that is finite is not."""


def field_losses(
    predict: Callable[[Array, Array, PyTree], Array],
    path: AbstractPath,
    predicts: Sequence[Quantity],
    t: Float[Array, ""],
    ends: Sequence[Float[Array, " *event"]],
    noise: Float[Array, " *event"],
    condition: PyTree = None,
    *,
    antithetic: bool,
    scales: Float[Array, "quantity *event"] | None = None,
) -> Float[Array, " quantity"]:
    """``|f|^2 / 2 - f . target`` at one draw, for every field f that is predicted.

    Its expectation is least where f is the conditional expectation of the target given x_t: ``I' + gamma' z`` for the
    velocity with ``I' = sum_k c_k' x_k``, ``I'`` for the end velocity, ``-z / gamma`` for the score, z for the noise
    and the last end for the data. Where gamma vanishes the first and the third have infinite variance. Averaged over z
    and -z at the same ends, the objective depends on ``(gamma' z) . (f(x_+) - f(x_-))``, a product of gamma' with a
    difference of order gamma, which is finite.

    Args:
        predict: ``predict(t, x, condition)``, the fields at one time and point, shape (quantity, *event).
        path: the path.
        predicts: what is predicted.
        t: a time.
        ends: one point per end.
        noise: z.
        condition: passed on.
        antithetic: whether to average over z and -z; two evaluations.
        scales: each coordinate counts in units of these.

    Returns:
        One loss per quantity, summed over coordinates, without the constant that makes it a squared distance: that
        constant may be infinite.

    Reference: Albergo, Boffi, Vanden-Eijnden, Stochastic interpolants, arXiv:2303.08797, eq. 2.12-2.18 and section 6.1.
    """
    gamma, rest = away_from_zero(path.gamma(t)), combine(path.rates(t), ends)
    nothing = jnp.zeros_like(noise)
    # Target as a part that is the same for z and -z, and one that changes its sign.
    targets = {
        "velocity": (rest, path.spreading(t) / gamma * noise),
        "end_velocity": (rest, nothing),
        "score": (nothing, -noise / gamma),
        "noise": (nothing, noise),
        "data": (ends[-1], nothing),
    }
    even, odd = (jnp.stack([targets[name][k] + nothing for name in predicts]) for k in (0, 1))
    if scales is None:
        scales = jnp.ones_like(even)
    scales = jnp.where(scales == 0, 1.0, scales)

    def total(values: Array) -> Array:
        return jnp.sum(values, axis=tuple(range(1, values.ndim)))

    ahead = predict(t, path.interpolate(t, ends, noise), condition) / scales
    if not antithetic:
        return total(0.5 * ahead**2 - (even + odd) / scales * ahead)
    behind = predict(t, path.interpolate(t, ends, -noise), condition) / scales
    kept, flipped = even / scales * (ahead + behind), odd / scales * (ahead - behind)
    return total(0.25 * (ahead**2 + behind**2) - 0.5 * (kept + flipped))


class QuadraticLoss(eqx.Module):
    """`field_losses` averaged over a batch and over time.

    Times are stratified over the batch, one in each of as many equal intervals. Coordinates and fields are weighed by
    the preconditioner's scales, which moves no minimiser: each is weighed by a function of time only.

    Args:
        antithetic: whether to average over the sign of the noise, at twice the cost.
        times: ``times(key, num)``, times in [0, 1] in place of uniform ones, such as more of them near an end.
    """

    antithetic: bool = eqx.field(static=True)
    times: Callable[[Key, int], Array] | None = eqx.field(static=True, default=None)

    def __call__(
        self, key: Key, fields: LearnedFields, ends: tuple[Float[Array, "n *event"], ...], condition: PyTree = None
    ) -> Float[Array, " quantity"]:
        """Mean losses, one per quantity that the fields predict."""
        to_times, to_noise = jax.random.split(key)
        num, dtype = ends[0].shape[0], ends[0].dtype
        noise = jax.random.normal(to_noise, ends[0].shape, dtype)
        if self.times is None:
            times = (jnp.arange(num, dtype=dtype) + jax.random.uniform(to_times, (num,), dtype)) / num
        else:
            times = jnp.asarray(self.times(to_times, num), dtype)
        path, names, held = fields.path, fields.predicts, fields.preconditioner

        def one(t: Array, ends: tuple[Array, ...], noise: Array, condition: PyTree) -> Array:
            scales = None if held is None else held.scales(path, names, t)
            return field_losses(
                fields.predictions,
                path,
                names,
                t,
                ends,
                noise,
                condition,
                antithetic=self.antithetic,
                scales=scales,
            )

        losses = jax.vmap(one)(times, ends, noise, condition)
        return jnp.mean(losses, axis=0)


def needs_antithetic(path: AbstractPath, predicts: Sequence[Quantity]) -> bool:
    """Whether a target that is predicted grows without bound towards an end of time."""
    with jax.ensure_compile_time_eval():
        speeds, precisions = (np.abs(np.asarray(found)) for found in _sizes(path))
    grow = [bool((size[2:] > _BLOW_UP * size[:2]).any()) for size in (speeds, precisions)]
    return ("velocity" in predicts and grow[0]) or ("score" in predicts and grow[1])


@eqx.filter_jit
def _sizes(path: AbstractPath) -> tuple[Array, Array]:
    """``gamma'`` and ``1 / gamma``, near either end and nearer."""

    def at(t: Array) -> tuple[Array, Array]:
        gamma = away_from_zero(path.gamma(t))
        return path.spreading(t) / gamma, 1.0 / gamma

    return jax.vmap(at)(jnp.array([1e-4, 1 - 1e-4, 1e-5, 1 - 1e-5]))
