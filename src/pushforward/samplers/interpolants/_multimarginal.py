"""Interpolants of several laws at once: one set of fields for every route between them, and the cheapest route."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, PyTree

from ...models._types import Key
from .._checks import check_count, check_floats, check_key, check_positive
from ._fields import AbstractFields, away_from_zero
from ._path import AbstractPath, combine

_KNOTS = 65


class SimplexPath(AbstractPath):
    """``x_t = sum_k a_k(t) x_k`` with a(t) in the simplex, from one corner to another.

    ``a`` is the straight edge plus, for every end, ``sin(pi u)`` times the square of a cosine series in ``u(t)``,
    normalised to sum one: it stays in the simplex whatever the series are, and reaches both corners. The clock u,
    linear between its values at equal times, sets how fast the route is travelled.

    Args:
        num_ends: how many laws there are, at least two.
        start: index of the law at time 0.
        stop: of the law at time 1.
        num_waves: cosines per end.

    Raises:
        ValueError: for indices that are none, or the same.

    Reference: Albergo, Boffi, Lindsey, Vanden-Eijnden, Multimarginal generative modeling with stochastic interpolants,
    arXiv:2310.03695, section 3.
    """

    num_ends: int = eqx.field(static=True)  # type: ignore[misc]
    start: int = eqx.field(static=True)
    stop: int = eqx.field(static=True)
    waves: Float[Array, "end wave"]
    clock: Float[Array, " knot"]

    def __init__(self, num_ends: int, start: int, stop: int, num_waves: int = 6) -> None:
        self.num_ends = check_count("num_ends", num_ends, 2)
        self.start, self.stop = check_count("start", start, 0), check_count("stop", stop, 0)
        if start == stop or max(start, stop) >= num_ends:
            raise ValueError(f"start={start}, stop={stop}: expected two different indices below num_ends={num_ends}.")
        self.waves = jnp.zeros((num_ends, check_count("num_waves", num_waves, 1)), jnp.result_type(float))
        self.clock = jnp.linspace(0.0, 1.0, _KNOTS, dtype=self.waves.dtype)

    def coefficients(self, t: Float[Array, ""]) -> Float[Array, " end"]:
        """See `AbstractPath.coefficients`."""
        u = jnp.interp(t, jnp.linspace(0.0, 1.0, self.clock.shape[0], dtype=t.dtype), self.clock.astype(t.dtype))
        orders = jnp.pi * jnp.arange(self.waves.shape[1], dtype=t.dtype)
        bulge = jnp.sin(jnp.pi * jnp.minimum(u, 1.0 - u)) * (self.waves.astype(t.dtype) @ jnp.cos(orders * u)) ** 2
        edge = jnp.zeros(self.num_ends, t.dtype).at[self.start].set(1.0 - u).at[self.stop].set(u)
        return (edge + bulge) / (1.0 + jnp.sum(bulge))

    def variance(self, t: Float[Array, ""]) -> Float[Array, ""]:
        """See `AbstractPath.variance`: none."""
        return jnp.zeros_like(t)


class SimplexFields(AbstractFields):
    """Fields along one route from ``g_k(a, x) = E[x_k | sum_k a_k x_k = x]``, which know nothing of routes.

    ``b = sum_k a_k' g_k``. If the first law is standard normal, the score is ``-g_0 / a_0``.

    Args:
        path: the route.
        given: ``given(a, x)``, shape (end, *event), of a point of the simplex and one point; see `simplex_loss`.
        normal_base: whether law 0 is standard normal.
    """

    path: SimplexPath
    given: Callable[[Float[Array, " end"], Array], Array]
    normal_base: bool = eqx.field(static=True, default=False)

    def velocity(self, t: Float[Array, ""], x: Float[Array, " *event"], condition: PyTree = None) -> Array:
        """See `AbstractFields.velocity`."""
        return combine(self.path.rates(t), self.ends(t, x))

    def score(self, t: Float[Array, ""], x: Float[Array, " *event"], condition: PyTree = None) -> Array:
        """See `AbstractFields.score`.

        Raises:
            ValueError: where no law is standard normal.
        """
        if not self.normal_base:
            raise ValueError("SimplexFields has a score only with normal_base=True, law 0 standard normal; use flow.")
        return -self.ends(t, x)[0] / away_from_zero(self.path.coefficients(t)[0])

    def ends(self, t: Float[Array, ""], x: Float[Array, " *event"], condition: PyTree = None) -> tuple[Array, ...]:
        """See `AbstractFields.ends`."""
        return tuple(self.given(self.path.coefficients(t), x))


def simplex_loss(
    key: Key, given: Callable[[Array, Array], Array], ends: Sequence[Float[Array, "n *event"]]
) -> Float[Array, ""]:
    """Mean of ``sum_k |g_k(a, x(a)) - x_k|^2`` over a uniform in the simplex: least for conditional expectations.

    Args:
        key: for a, one point of the simplex per row.
        given: ``given(a, x)``, shape (end, *event).
        ends: a minibatch of every law, of one length; rows may be coupled.
    """
    num, count = len(ends), ends[0].shape[0]
    stacked = jnp.stack(ends, axis=1)
    weights = jax.random.dirichlet(key, jnp.ones(num, stacked.dtype), (count,))

    def one(a: Array, rows: Array) -> Array:
        return jnp.sum((given(a, jnp.tensordot(a, rows, 1)) - rows) ** 2)

    return jnp.mean(jax.vmap(one)(weights, stacked))


class Route(NamedTuple):
    """What `shorten` found."""

    path: SimplexPath
    before: Float[Array, ""]
    """Transport cost of the path that was given."""
    after: Float[Array, ""]
    """Of the path that was found, over the same draws and times."""


def shorten(
    key: Key,
    fields: Callable[[SimplexPath], AbstractFields],
    path: SimplexPath,
    ends: Sequence[Float[Array, "n *event"]],
    *,
    num_steps: int = 500,
    batch_size: int = 512,
    learning_rate: float = 0.02,
) -> Route:
    """Find the route of least transport cost ``int E |b(t, x_t)|^2 dt``, with the fields as they are.

    Where a route goes is found by gradient descent; how fast it is travelled is known, at a constant ``E |b|^2``.

    Args:
        key: typed key.
        fields: fields along a route, such as ``lambda path: SimplexFields(path, given)``.
        path: the route to start from. A straight edge is left by a small bulge.
        ends: draws of every law, of one length.
        num_steps: steps of Adam on the waves of the path, whose learning rate falls to zero.
        batch_size: draws and times per step.
        learning_rate: at the start.

    Returns:
        The route and the costs before and after.

    Bias: the minimum is over routes of ``num_waves`` cosines and may be local: the law of x_t shrinks next to every
    corner, which makes a barrier around the straight edge. Cost: a velocity and its derivative per
    draw and step; nothing is trained again.

    Reference: Albergo et al., arXiv:2310.03695, eq. 12.
    """
    clouds = tuple(check_floats(f"ends[{k}]", end, "n, d") for k, end in enumerate(ends))
    if len(clouds) != path.num_ends or len({cloud.shape for cloud in clouds}) != 1:
        raise ValueError(
            f"ends have shapes {[cloud.shape for cloud in clouds]}: expected {path.num_ends} of one shape (n, d), one "
            "per law of the path."
        )
    batch_size, num_steps = check_count("batch_size", batch_size, 1), check_count("num_steps", num_steps, 1)
    rate = check_positive("learning_rate", learning_rate, unit="no units")
    return _shorten(check_key(key), fields, path, jnp.stack(clouds, axis=1), num_steps, batch_size, rate)


@eqx.filter_jit
def _shorten(
    key: Key,
    fields: Callable[[SimplexPath], AbstractFields],
    path: SimplexPath,
    clouds: Array,
    num_steps: int,
    batch_size: int,
    rate: Array,
) -> Route:
    def cost(path: SimplexPath, times: Array, rows: Array) -> Array:
        moving = fields(path)

        def one(t: Array, row: Array) -> Array:
            point = jnp.tensordot(path.coefficients(t), row, 1)
            return jnp.sum(moving.velocity(t, point) ** 2)

        return jnp.mean(jax.vmap(one)(times, rows))

    adam = optax.adam(optax.cosine_decay_schedule(rate, num_steps))
    key_start, key_steps, key_check = jax.random.split(key, 3)
    small = 0.1 * jax.random.normal(key_start, path.waves.shape, path.waves.dtype)
    # At zero the squares have no slope: a straight edge would never be left.
    start = jnp.where(jnp.any(path.waves != 0), path.waves, small)

    def step(state: tuple[Array, Any], key: Key) -> tuple[tuple[Array, Any], None]:
        waves, memory = state
        key_time, key_row = jax.random.split(key)
        # One time in each of equal intervals, in an order that has nothing to do with the rows.
        spread = jnp.arange(batch_size, dtype=clouds.dtype) + jax.random.uniform(key_time, (batch_size,), clouds.dtype)
        rows = clouds[jax.random.randint(key_row, (batch_size,), 0, clouds.shape[0])]
        slope = jax.grad(lambda w: cost(_with(path, w), spread / batch_size, rows))(waves)
        change, memory = adam.update(slope, memory)
        return (waves + change, memory), None

    (waves, _), _ = jax.lax.scan(step, (start, adam.init(start)), jax.random.split(key_steps, num_steps))
    found, count = _steady(_with(path, waves), cost, clouds), clouds.shape[0]
    times = jax.random.permutation(key_check, (jnp.arange(count, dtype=clouds.dtype) + 0.5) / count)
    return Route(found, cost(path, times, clouds), cost(found, times, clouds))


def _steady(path: SimplexPath, cost: Callable[..., Array], clouds: Array) -> SimplexPath:
    """The same route at constant cost per time: equal parts of the integral of the root of the cost."""
    clock = path.clock
    fine = (jnp.arange(4 * _KNOTS, dtype=clock.dtype) + 0.5) / (4 * _KNOTS)
    rows = clouds[: min(clouds.shape[0], 4000)]
    costs = jax.lax.map(lambda t: cost(path, jnp.broadcast_to(t, rows.shape[:1]), rows), fine)
    length = jnp.concatenate([jnp.zeros(1, clock.dtype), jnp.cumsum(jnp.sqrt(costs))])
    edges = jnp.linspace(0.0, 1.0, length.shape[0], dtype=clock.dtype)
    equal = jnp.interp(jnp.linspace(0.0, 1.0, _KNOTS, dtype=clock.dtype), length / length[-1], edges)
    at = jnp.interp(equal, jnp.linspace(0.0, 1.0, clock.shape[0], dtype=clock.dtype), clock)
    return eqx.tree_at(lambda p: p.clock, path, at)


def _with(path: SimplexPath, waves: Array) -> SimplexPath:
    return eqx.tree_at(lambda p: p.waves, path, waves)
