"""Where chains and particles start."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array

from ..models import Target
from ..models._layout import Layout
from ..models._types import Key
from ..samplers import AbstractEnsemble, AbstractSampler
from ._posterior import Posterior
from ._starts import finite_positions


def starting_positions(
    key: Key, target: Target, layout: Layout, kernel: AbstractSampler, num_chains: int, init: Any
) -> tuple[Array, AbstractSampler]:
    """Flat starting positions, and the kernel with a mass matrix from a fit where there is one.

    An ensemble takes positions for all its particles: of shape (chain, particle, dim).
    """
    if isinstance(kernel, AbstractEnsemble):
        count = kernel.num_particles
        if isinstance(init, Posterior) and init.guide is not None:
            kernel = kernel.starting_from(init.guide)
        if init is None:
            drawn = kernel.draw_start(key, target, num_chains * count)
            if drawn is not None:
                return drawn.reshape(num_chains, count, -1), kernel
        if init is not None and not isinstance(init, Posterior) and num_chains == 1:
            leading = {jnp.shape(x)[:1] for x in jax.tree.leaves(init)}
            init = jax.tree.map(lambda x: jnp.asarray(x)[None], init) if leading == {(count,)} else init
        flat_init = init
        if init is not None and not isinstance(init, Posterior):
            leading = {jnp.shape(x)[:2] for x in jax.tree.leaves(init)}
            if leading != {(num_chains, count)}:
                raise ValueError(
                    f"init has structure {jax.tree.map(jnp.shape, init)}: expected positions of the target with "
                    f"leading axes (num_chains, num_particles) = ({num_chains}, {count}), or a fitted posterior."
                )
            flat_init = jax.tree.map(lambda x: jnp.reshape(x, (-1, *jnp.shape(x)[2:])), init)
        positions, _ = _chain_starts(key, target, layout, kernel, num_chains * count, flat_init)
        return positions.reshape(num_chains, count, -1), kernel
    return _chain_starts(key, target, layout, kernel, num_chains, init)


def _chain_starts(
    key: Key, target: Target, layout: Layout, kernel: Any, num_chains: int, init: Any
) -> tuple[Array, Any]:
    what, gradient = "chain", True
    if isinstance(kernel, AbstractEnsemble):
        what, gradient = "particle", kernel.differentiates
    if init is None:
        return jax.vmap(layout.ravel)(target.initial(key, num_chains, gradient=gradient)), kernel
    if isinstance(init, Posterior):
        guide = init.guide
        if guide is None:
            raise ValueError(
                "init is a posterior without a guide: expected the result of pf.fit, or positions with a leading chain "
                "axis."
            )
        keys = jax.vmap(lambda i: jax.random.fold_in(key, i))(jnp.arange(num_chains))
        positions = jax.vmap(lambda k: layout.ravel(guide.sample_and_log_prob(k)[0]))(keys)
        covariance = getattr(guide, "covariance", None)
        with_matrix = getattr(kernel, "with_inverse_mass_matrix", None)
        adaptation = getattr(kernel, "adaptation", None)
        if (
            covariance is not None
            and with_matrix is not None
            and adaptation is not None
            and adaptation.inverse_mass_matrix is None
        ):
            matrix = covariance()
            kernel = with_matrix(matrix if adaptation.dense_mass else jnp.diagonal(matrix))
    else:
        leading = {jnp.shape(x)[:1] for x in jax.tree.leaves(init)}
        if leading != {(num_chains,)} or jax.tree.structure(init) != jax.tree.structure(target.example):  # type: ignore[operator]
            raise ValueError(
                f"init has structure {jax.tree.map(jnp.shape, init)}: expected a position of the target with a leading "
                f"axis of {num_chains} chain(s), such as target.initial(key, num_chains), or a fitted posterior."
            )
        positions = jax.vmap(layout.ravel)(init)
    finite = finite_positions(target, layout, positions, gradient=gradient)
    if not bool(jnp.all(finite)):
        bad = int(jnp.argmin(finite))
        sites = target.nonfinite_sites(layout.unravel(positions[bad]))
        raise ValueError(
            f"The starting position of {what} {bad} has a log-density or gradient that is not finite (step 0; sites "
            f"{sites or 'all finite'}). Expected positions of finite density; leave init=None to have them found."
        )
    return positions, kernel
