"""A density as the end point: particles drawn along a path of densities by a learned velocity, with exact weights."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, PyTree

from ...models._layout import Layout
from ...models._target import Target
from ...models._types import Key, Position
from .._checks import check_count, check_floats, check_key, check_positive
from .._tempering import effective_sample_size
from ._runge_kutta import over_points
from ._sde import make_diffusion
from ._times import make_times
from ._transition import Located, transition


class DensityEnd(NamedTuple):
    """A target as a density of flat vectors, in coordinates in which a normal fit to it is standard."""

    log_density: Callable[[Float[Array, " d"]], Float[Array, ""]]
    """Of a point of these coordinates, with the constant of the target: its evidence is that of the target."""
    position: Callable[[Float[Array, " d"]], Position]
    """The point as an unconstrained position of the target."""
    dim: int


def density_end(target: Target, mean: Any = None, root: Any = None) -> DensityEnd:
    """Make a target, such as a NumPyro program, an end of an interpolant.

    Args:
        target: the target.
        mean: of a normal fit, in the flat order of its unconstrained position; zero if None.
        root: a square root of its covariance, (d, d); the identity if None.

    Returns:
        Its log-density on ``y = root^-1 (x - mean)``, change of variables included.

    Raises:
        ValueError: for a target with minibatches, or shapes that do not fit.
    """
    if target.subsampled:
        raise ValueError(
            f"{target.program.source} declares minibatches: expected a target whose exact density can be evaluated; "
            "remove subsample_size."
        )
    layout = Layout.of(target.example)
    dim, dtype = layout.dim, layout.dtype
    centre = jnp.zeros(dim, dtype) if mean is None else check_floats("mean", mean, "d").astype(dtype)
    scale = jnp.eye(dim, dtype=dtype) if root is None else check_floats("root", root, "d, d").astype(dtype)
    if centre.shape != (dim,) or scale.shape != (dim, dim):
        raise ValueError(
            f"mean has shape {centre.shape} and root {scale.shape}: expected ({dim},) and ({dim}, {dim}), the "
            "unconstrained coordinates of the target."
        )
    size = jnp.linalg.slogdet(scale)[1]

    def position(y: Array) -> Position:
        return layout.unravel(centre + scale @ y)

    def log_density(y: Array) -> Array:
        return target.logdensity(position(y)).astype(y.dtype) + size.astype(y.dtype)

    return DensityEnd(log_density, position, dim)


class AnnealedFields(eqx.Module):
    """Velocity of a network, score of ``(1 - t) log base + t log target``: all that `weighted` needs.

    No draws of the target are asked for.
    Whatever the network is, the weights are exact. At zero it is annealed Langevin motion; it is perfect where it
    carries each of the densities into the next.

    Args:
        network: ``network(t, x)``, the velocity.
        log_base: log-density of the base.
        log_target: log-density of the target up to a constant.

    Reference: Vargas et al., Transport meets variational inference: controlled Monte Carlo diffusions,
    arXiv:2307.01050, section 4; Albergo, Vanden-Eijnden, NETS, arXiv:2410.02711.
    """

    network: Callable[[Float[Array, ""], Float[Array, " d"]], Float[Array, " d"]]
    log_base: Callable[[Float[Array, " d"]], Float[Array, ""]]
    log_target: Callable[[Float[Array, " d"]], Float[Array, ""]]

    def velocity(self, t: Float[Array, ""], x: Float[Array, " d"], condition: PyTree = None) -> Float[Array, " d"]:
        """``b(t, x)``."""
        return self.network(t, x)

    def log_prob(self, t: Float[Array, ""], x: Float[Array, " d"]) -> Float[Array, ""]:
        """Log-density of the intermediate target, up to a constant."""
        return (1.0 - t) * self.log_base(x) + t * self.log_target(x)

    def score(self, t: Float[Array, ""], x: Float[Array, " d"], condition: PyTree = None) -> Float[Array, " d"]:
        """Gradient of `log_prob`."""
        return jax.grad(self.log_prob, 1)(t, x)


class Control(eqx.Module):
    """A multilayer perceptron of time and position that is zero before training."""

    network: eqx.nn.MLP

    def __init__(self, key: Key, dim: int, *, width: int = 64, depth: int = 2) -> None:
        network = eqx.nn.MLP(dim + 1, dim, width, depth, jax.nn.silu, key=key)
        where = lambda n: (n.layers[-1].weight, n.layers[-1].bias)  # noqa: E731
        self.network = eqx.tree_at(where, network, replace_fn=jnp.zeros_like)

    def __call__(self, t: Float[Array, ""], x: Float[Array, " d"]) -> Float[Array, " d"]:
        """The velocity."""
        found: Array = self.network(jnp.concatenate([t[None], x]))
        return found


class Annealed(NamedTuple):
    """What `train_annealed` found."""

    fields: AnnealedFields
    losses: Float[Array, " step"]
    """Sample variance of the log-weights at every step of training."""
    before: Float[Array, ""]
    """Effective share of the fields as they came, in (0, 1], over 32 fresh batches of paths."""
    after: Float[Array, ""]
    """That of the trained ones, with the same noise."""


def train_annealed(
    key: Key,
    fields: AnnealedFields,
    draw: Callable[[Key, int], Float[Array, "n d"]],
    *,
    epsilon: float = 1.0,
    num_steps: int = 30,
    batch_size: int = 128,
    num_updates: int = 300,
    learning_rate: float = 5e-3,
) -> Annealed:
    """Train the velocity so that the weights of paths become equal.

    Minimises the variance of the log-weights that `weighted` gives. Paths are drawn from the current fields and held
    fixed: the variance under any law of paths is zero exactly at the optimum, and its gradient, half of which is that
    of the Kullback-Leibler divergence of the paths when they are the current ones, asks for no derivative through time.

    Args:
        key: typed key.
        fields: whose network is trained.
        draw: ``draw(key, n)``, points of the base.
        epsilon: positive, the noise. Where it is too much for the steps, as ``score * epsilon / num_steps`` larger than
            the points' spread, paths run away; updates that are not finite are left out.
        num_steps: steps of the paths trained on.
        batch_size: paths per update.
        num_updates: steps of Adam, whose learning rate falls to zero.
        learning_rate: at the start.

    Returns:
        The trained fields, or those that came where training has lowered the effective share of the paths, with a
        warning; losses.

    Bias: none in the weights. But what no path visits is missed by them and by their standard errors alike, and little
    variance of log-weights along the paths drawn is no proof against that: a neck of a funnel can hold a fifth of
    the evidence. Compare with another epsilon, or with `SMC`.

    Cost: per update ``batch_size * num_steps`` scores of the target, and as many velocities with their gradients.

    Reference: log-variance divergence, Richter and Berner, arXiv:2307.01198, section 3; Vargas et al.,
    arXiv:2307.01050.
    """
    steps, count = check_count("num_steps", num_steps, 1), check_count("batch_size", batch_size, 2)
    updates = check_count("num_updates", num_updates, 1)
    rate = check_positive("learning_rate", learning_rate, unit="no units")
    dtype = jax.eval_shape(lambda k: draw(k, 2), key).dtype
    level = check_positive("epsilon", epsilon, dtype, "units of variance")
    grid = make_times(None, steps, dtype)
    found = _train(check_key(key), fields, draw, make_diffusion(level, dtype), grid, count, updates, rate)
    if isinstance(found.after, jax.core.Tracer) or bool(found.after >= found.before):
        return found
    warnings.warn(
        f"Training has lowered the effective share of the paths from {found.before:.3g} to {found.after:.3g}; the "
        "fields are returned as they came. Take more num_steps, a larger epsilon, a smaller learning_rate, or "
        "coordinates in which the tails of the target are not heavier than those of the base.",
        stacklevel=2,
    )
    return found._replace(fields=fields)


@eqx.filter_jit
def _train(
    key: Key,
    fields: AnnealedFields,
    draw: Callable[[Key, int], Array],
    epsilon: Any,
    grid: Array,
    count: int,
    updates: int,
    rate: Array,
) -> Annealed:
    learned, fixed = eqx.partition(fields.network, eqx.is_inexact_array)
    clipped = optax.chain(optax.clip_by_global_norm(1.0), optax.adam(optax.cosine_decay_schedule(rate, updates)))
    # A path that runs away, where a step is too long for the score, must not spoil the network for good.
    adam = optax.apply_if_finite(clipped, updates)

    def log_weights(learned: PyTree, here: Array, noise: Array) -> Array:
        moving = eqx.tree_at(lambda f: f.network, fields, eqx.combine(learned, fixed))

        def step(state: tuple[Located, Array], per: tuple[Array, ...]) -> tuple[tuple[Located, Array], None]:
            old, total = state
            t, end, noise = per
            # The path is drawn with the fields as they are; only its weight depends on what is learned.
            held = jax.tree.map(jax.lax.stop_gradient, old)
            there, _ = transition(_held(moving), epsilon, held, t, end, noise)
            points = there.points
            now = Located(points, over_points(moving.velocity, end, points, None), there.score)
            h, spread = end - t, jnp.sqrt(2.0 * epsilon * (end - t))
            ahead = (points - old.points - h * (old.velocity + epsilon * old.score)) / spread
            back = (old.points - points + h * (now.velocity - epsilon * now.score)) / spread
            return (now, total + 0.5 * jnp.sum(ahead**2 - back**2, axis=1)), None

        velocity = over_points(moving.velocity, grid[0], here, None)
        start = Located(here, velocity, over_points(fields.score, grid[0], here, None))
        first = -jax.vmap(fields.log_base)(here)
        (last, total), _ = jax.lax.scan(step, (start, first), (grid[:-1], grid[1:], noise))
        return total + jax.vmap(fields.log_target)(last.points)

    def variance(learned: PyTree, here: Array, noise: Array) -> Array:
        return jnp.var(log_weights(learned, here, noise), ddof=1)

    def batch(key: Key) -> tuple[Array, Array]:
        key_start, key_noise = jax.random.split(key)
        here = draw(key_start, count)
        return here, jax.random.normal(key_noise, (grid.shape[0] - 1, *here.shape), here.dtype)

    def update(state: tuple[PyTree, Any], key: Key) -> tuple[tuple[PyTree, Any], Array]:
        learned, memory = state
        loss, slope = jax.value_and_grad(variance)(learned, *batch(key))
        change, memory = adam.update(slope, memory, learned)
        return (eqx.apply_updates(learned, change), memory), loss

    key_judge = jax.random.fold_in(key, updates)
    first = learned
    (learned, _), losses = jax.lax.scan(update, (learned, adam.init(learned)), jax.random.split(key, updates))

    def judge(learned: PyTree) -> Array:
        # By the weights, not their logarithms: equal logarithms nearly everywhere may hide a few that weigh it all.
        keys = jax.random.split(key_judge, 32)
        logs = jax.lax.map(lambda key: log_weights(learned, *batch(key)), keys).ravel()
        logs = jnp.where(jnp.isnan(logs), -jnp.inf, logs)
        return effective_sample_size(logs) / logs.size

    trained = eqx.tree_at(lambda f: f.network, fields, eqx.combine(learned, fixed))
    return Annealed(trained, losses, judge(first), judge(learned))


def _held(fields: AnnealedFields) -> AnnealedFields:
    """The same fields, of whose parameters no gradient is taken."""
    return jax.tree.map(lambda leaf: jax.lax.stop_gradient(leaf) if eqx.is_array(leaf) else leaf, fields)
