"""A run shared out over several devices: particles of an ensemble, or chains."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array, PyTree

from ..samplers import AbstractEnsemble, Chains
from ..samplers._ensemble import FILLING
from ..samplers.engine import PARTICLES, padded_count, particle_mesh

Devices: TypeAlias = int | Sequence[jax.Device] | None


def mesh_of(devices: Devices) -> Mesh | None:
    """The mesh of the user's devices; None for None."""
    return None if devices is None else particle_mesh(devices)


def on_mesh(mesh: Mesh | None) -> contextlib.AbstractContextManager[Any]:
    """A context in which everything that is traced sees the mesh."""
    return contextlib.nullcontext() if mesh is None else jax.set_mesh(mesh)


def place_positions(mesh: Mesh | None, chains: Chains, positions: Array) -> Array:
    """Starting positions on the devices: particles padded to a multiple of their number, chains as they are.

    Raises:
        ValueError: if the chains of a sampler cannot be shared out evenly.
    """
    if mesh is None:
        return positions
    shards = mesh.size
    if isinstance(chains.sampler, AbstractEnsemble):
        return _place(mesh, _resized(positions, 1, padded_count(positions.shape[1], shards)), 1)
    _check_shares(chains, shards)
    return _place(mesh, positions, 0)


def place_state(mesh: Mesh | None, chains: Chains, state: Any) -> Any:
    """A state from a file on the devices of this run, whose number may differ from that of the run that wrote it."""
    shards = 1 if mesh is None else mesh.size
    if not isinstance(chains.sampler, AbstractEnsemble):
        _check_shares(chains, shards)
        whole = chains.num_chains
        return jax.tree.map(lambda x: _place(mesh, x, 0 if x.ndim and x.shape[0] == whole else None), state)
    inner = _cloud(state)
    count, wanted = inner.failed_step.shape[1], padded_count(chains.sampler.num_particles, shards)

    def resize(leaf: Array, per_particle: bool) -> Array:
        return _place(mesh, _resized(leaf, 1, wanted), 1) if per_particle else _place(mesh, leaf, None)

    resized = jax.tree.map(resize, inner, _per_particle(chains, inner, count))
    filling = jnp.arange(wanted) >= chains.sampler.num_particles
    resized = resized._replace(failed_step=jnp.where(filling, FILLING, resized.failed_step))
    if inner is state:
        return resized
    others = jax.tree.map(lambda x: _place(mesh, x, None), state._replace(inner=()))
    return others._replace(inner=resized)


def _cloud(state: Any) -> Any:
    """The state of the clouds, inside that of a run that keeps figures."""
    return state if hasattr(state, "failed_step") else state.inner


def _per_particle(chains: Chains, state: Any, count: int) -> Any:
    """Which leaves of a cloud's state have the particles on the axis after the clouds: those that grow with them."""

    def shapes(number: int) -> Any:
        clouds, _, *rest = state.particles.shape
        positions = jnp.zeros((clouds, number, *rest), state.particles.dtype)
        return jax.eval_shape(lambda k, x: chains.inner(chains.init(k, x)), jax.random.key(0), positions)

    return jax.tree.map(lambda one, more: one.shape != more.shape, shapes(count), shapes(count + 1))


def _check_shares(chains: Chains, shards: int) -> None:
    if chains.num_chains % shards:
        raise ValueError(
            f"num_chains={chains.num_chains} chains cannot be shared out over {shards} devices evenly: expected a "
            f"multiple of {shards}."
        )


def to_host(tree: PyTree) -> PyTree:
    """Arrays that can be read here, although parts of them may live on other hosts."""
    if all(x.is_fully_addressable for x in jax.tree.leaves(tree) if isinstance(x, jax.Array)):
        return tree
    from jax.experimental import multihost_utils

    return jax.tree.map(lambda x: jnp.asarray(multihost_utils.process_allgather(x, tiled=True)), tree)


def _resized(x: Array, axis: int, length: int) -> Array:
    """Cut, or filled up with copies of the first entry: finite values that count nowhere."""
    if x.shape[axis] >= length:
        return jax.lax.slice_in_dim(x, 0, length, axis=axis)
    first = jax.lax.slice_in_dim(x, 0, 1, axis=axis)
    return jnp.concatenate([x, *[first] * (length - x.shape[axis])], axis=axis)


def _place(mesh: Mesh | None, x: Array, axis: int | None) -> Array:
    if mesh is None:
        return jnp.asarray(x)
    spec = PartitionSpec() if axis is None else PartitionSpec(*[None] * axis, PARTICLES)
    sharding = NamedSharding(mesh, spec)
    return jax.device_put(x if jnp.issubdtype(x.dtype, jax.dtypes.prng_key) else np.asarray(x), sharding)
