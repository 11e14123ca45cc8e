"""Starting points of a fit: the guides of all restarts, in coordinates that suit the target."""

from __future__ import annotations

import functools
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from ..estimators import AbstractGradient, AbstractObjective, Parameters
from ..estimators.gradients import particle_keys
from ..models import Target
from ..models._layout import Layout
from ..models._types import Key
from ..models.guides import AbstractGuide, AbstractLocationScale, FullRank, MeanField, ProgramGuide, Whitened
from ..samplers._warm_start import DENSE_LIMIT, Starts, distinct, newton_starts, num_elements

DEFAULT_FULL_RANK_LIMIT = 64
_NUM_STARTS = 16
_LARGE = 2**17
_NEAREST, _FARTHEST = 3.0, 3000.0
"""Radii of starts where there is no prior to draw from: log-uniform, because the scale of the target is unknown."""


def resolve_guide(guide: Any, target: Target) -> AbstractGuide:
    """A guide bound to the target, from a class, an unbound or bound guide, or None.

    Raises:
        ValueError: if it is none of these.
    """
    if guide is None:
        guide = FullRank() if target.dim <= DEFAULT_FULL_RANK_LIMIT else MeanField()
    if isinstance(guide, type) and issubclass(guide, AbstractGuide):
        guide = guide()
    if not isinstance(guide, AbstractGuide):
        raise ValueError(
            f"guide={guide!r} is not a variational family: expected pf.MeanField(), pf.FullRank(), pf.LowRank(), "
            "pf.Laplace(), pf.Delta(), a flow such as pf.SplineFlow(), or pf.program_guide(fn). A NumPyro "
            "guide function goes through pf.program_guide."
        )
    if target.dim == 0:
        raise ValueError(
            f"{target.program.source} has no latent site: there is nothing to infer. Expected at least one unobserved "
            "site."
        )
    return guide.bind(target)


def default_particles(target: Target, guide: AbstractGuide, objective: AbstractObjective) -> int:
    """Draws per step that suit the objective, fewer where one evaluation reads so much data that noise is cheaper."""
    if guide.point:
        return 1
    share = min((p.subsample_size / p.size for p in target.program.plates if p.subsample_size is not None), default=1.0)
    numbers = share * num_elements(target)
    wanted = objective.default_particles
    return wanted if numbers <= _LARGE else wanted // 2 if numbers <= 4 * _LARGE else wanted // 4


def starting_guides(
    key: Key, target: Target, guide: AbstractGuide, num_restarts: int, init: AbstractGuide | None
) -> list[AbstractGuide]:
    """One guide per restart.

    Location-scale families start, in whitened coordinates, from the best local Gaussians that damped Newton finds from
    16 points (half of them prior draws where the prior can be sampled); restarts take distinct modes as far as there
    are any and are jittered copies otherwise. Beyond 100 dimensions they start from random points of finite density.

    Args:
        key: a key.
        target: the target.
        guide: bound family.
        num_restarts: how many.
        init: start from this guide instead (restart 0 exactly, the others jittered).
    """
    key_points, key_newton, key_jitter = jax.random.split(key, 3)
    keys = particle_keys(key_jitter, num_restarts)
    if init is not None:
        return [
            init if i == 0 or not isinstance(init, AbstractLocationScale) else _near(init, keys[i])
            for i in range(num_restarts)
        ]
    if isinstance(guide, ProgramGuide):
        return [guide if i == 0 else guide.fresh(keys[i]) for i in range(num_restarts)]
    if not isinstance(guide, AbstractLocationScale):
        return [guide] * num_restarts
    layout = Layout.of(target.example)
    fresh_keys = particle_keys(jax.random.fold_in(key_jitter, num_restarts), num_restarts)
    if target.dim > DENSE_LIMIT:
        positions = jax.vmap(layout.ravel)(target.initial(key_points, num_restarts))
        return [
            Whitened(guide.fresh(fresh_keys[i]), positions[i], jnp.ones((layout.dim,), layout.dtype), layout)
            for i in range(num_restarts)
        ]
    points = starting_points(key_points, target, layout, max(_NUM_STARTS, 2 * num_restarts))
    key_draws, key_batch = jax.random.split(key_newton)
    # A minibatch says nothing about the latents of other data.
    local = any(p.subsample_size is not None for site in target.program.latents for p in site.plates)
    batch = target.minibatch(key_batch) if target.subsampled and not local else None
    starts = newton_starts(key_draws, target, points, batch, jacobian=guide.jacobian, mode=guide.point)
    if not bool(jnp.any(jnp.isfinite(starts.elbo))):
        starts = starts._replace(loc=points, elbo=jnp.zeros_like(starts.elbo))
    return _whitened(keys, fresh_keys, target, guide, layout, starts, num_restarts)


def _whitened(
    keys: Key,
    fresh_keys: Key,
    target: Target,
    guide: AbstractLocationScale,
    layout: Layout,
    starts: Starts,
    num_restarts: int,
) -> list[AbstractGuide]:
    chosen, new = distinct(starts, num_restarts)
    guides: list[AbstractGuide] = []
    for i in range(num_restarts):
        scale = starts.scale[chosen[i]]
        # A family without correlations approximates best (KL(q || p)) with the conditional sds, 1 / sqrt(diag
        # precision).
        whole = scale if guide.dense else _conditional_sd(scale)
        inner = guide.standard(target).fresh(fresh_keys[i])
        guides.append(
            Whitened(inner if bool(new[i]) else inner.jittered(keys[i]), starts.loc[chosen[i]], whole, layout)
        )
    return guides


@jax.jit
def _conditional_sd(root: Float[Array, "dim dim"]) -> Float[Array, " dim"]:
    inverse = jax.scipy.linalg.solve_triangular(root, jnp.eye(root.shape[0], dtype=root.dtype), lower=True)
    return 1.0 / jnp.sqrt(jnp.sum(inverse**2, axis=0))


def _near(guide: AbstractLocationScale, key: Key) -> AbstractLocationScale:
    """A jittered copy, in the units of the guide itself."""
    covariance = getattr(guide, "covariance", None)
    if covariance is None:
        return guide.jittered(key)
    sd = jnp.sqrt(jnp.diagonal(covariance()))
    return guide.affine(-guide.loc / sd, 1.0 / sd).jittered(key).affine(guide.loc, sd)  # type: ignore[attr-defined]


def starting_points(key: Key, target: Target, layout: Layout, count: int) -> Float[Array, "start dim"]:
    """Overdispersed flat positions of finite density: some near the origin, others from the prior or from wide boxes.

    Without a prior to draw from, three times as many far points are taken, at radii from 3 to 3,000.
    """
    key_near, key_far = jax.random.split(key)
    far = _prior_points(key_far, target, layout, count // 2)
    if far is None:
        far = _far_points(key_far, layout, 3 * (count // 2))
    near = np.asarray(_ravel_all(layout, target.initial(key_near, count)))
    finite = np.asarray(finite_positions(target, layout, far))
    stand_in = near[np.arange(len(far)) % count]
    return jnp.asarray(np.concatenate([near[: count - count // 2], np.where(finite[:, None], far, stand_in)]))


@functools.partial(jax.jit, static_argnames=("layout", "count"))
def _far_points(key: Key, layout: Layout, count: int) -> Float[Array, "n dim"]:
    key_radius, key_box = jax.random.split(key)
    span = jax.random.uniform(key_radius, (count, 1), layout.dtype, jnp.log(_NEAREST), jnp.log(_FARTHEST))
    return jnp.exp(span) * jax.random.uniform(key_box, (count, layout.dim), layout.dtype, -1.0, 1.0)


@jax.jit
def _ravel_all(layout: Layout, positions: Any) -> Float[Array, "n dim"]:
    return jax.vmap(layout.ravel)(positions)


@functools.partial(jax.jit, static_argnames="gradient")
def finite_positions(
    target: Target, layout: Layout, flat: Float[Array, "n dim"], *, gradient: bool = True
) -> Bool[Array, " n"]:
    """Which flat positions have finite density and, if it matters, gradient."""
    return jax.vmap(lambda x: target.is_finite(layout.unravel(x), gradient=gradient))(flat)


def _prior_points(key: Key, target: Target, layout: Layout, count: int) -> Array | None:
    """Prior draws as positions, or None where the prior cannot be drawn from (improper, or no generative process)."""
    keys = particle_keys(key, count)
    try:
        if target.program.traceable_simulation:
            return _many_prior_points(target, layout, keys)
        return jnp.stack([_prior_point(target, layout, k) for k in keys])
    except ValueError:
        return None


def _prior_point(target: Target, layout: Layout, key: Key) -> Array:
    values = target.prior(key)
    latent = [s.name for s in target.program.sites if s.kind == "latent"]
    return layout.ravel(target.program.invert({name: values[name] for name in latent})[0])


@jax.jit
def _many_prior_points(target: Target, layout: Layout, keys: Key) -> Array:
    return jax.vmap(lambda k: _prior_point(target, layout, k))(keys)


def stack_starts(
    target: Target, guides: list[AbstractGuide], gradient: AbstractGradient
) -> tuple[Parameters, Any, AbstractGuide]:
    """Stack the restarts: trainable leaves, constants that differ between restarts, and what they share."""
    count = len(guides)
    split = [eqx.partition(g, g.trainable()) for g in guides]
    parameters = jax.tree.map(lambda *x: jnp.stack(x), *[p for p, _ in split])
    leaves = [jax.tree.flatten(rest)[0] for _, rest in split]
    treedef = jax.tree.structure(split[0][1])
    same = [all(x is column[0] for x in column) for column in zip(*leaves, strict=True)]
    shared = [x if keep else None for x, keep in zip(leaves[0], same, strict=True)]
    differing = [
        None if keep else jnp.stack(column) for column, keep in zip(zip(*leaves, strict=True), same, strict=True)
    ]
    own = eqx.filter(gradient, eqx.is_inexact_array)
    model, estimator = jax.tree.map(lambda x: jnp.broadcast_to(x, (count, *jnp.shape(x))), (target.program.params, own))
    return (
        Parameters(parameters, model, estimator),
        jax.tree.unflatten(treedef, differing),
        jax.tree.unflatten(treedef, shared),
    )
