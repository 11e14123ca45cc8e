"""Devices: where the particles of an ensemble live.

Whoever runs an algorithm on several devices enters ``jax.set_mesh(particle_mesh(devices))``; what is traced inside sees
the mesh and shards particles over its one axis. Nothing else needs to know.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec
from jaxtyping import PyTree

PARTICLES = "particles"
"""Name of the mesh axis."""

T = TypeVar("T", bound=PyTree)


def particle_mesh(devices: Sequence[jax.Device] | int | None = None) -> Mesh:
    """A mesh with one axis over which particles are sharded.

    Args:
        devices: the devices, how many of `jax.devices`, or None for all (of all hosts, where `jax.distributed` runs).

    Raises:
        ValueError: if there are not as many devices.
    """
    available = jax.devices()
    if isinstance(devices, int):
        if not 1 <= devices <= len(available):
            raise ValueError(
                f"devices={devices}: expected between 1 and {len(available)}, the number of {available[0].platform} "
                "devices that JAX sees."
            )
        devices = available[:devices]
    chosen = list(available if devices is None else devices)
    return Mesh(np.asarray(chosen), (PARTICLES,), axis_types=(AxisType.Auto,))


def num_shards() -> int:
    """Devices that share the particles of what is being traced; 1 without a mesh."""
    mesh = jax.sharding.get_abstract_mesh()
    return int(mesh.shape[PARTICLES]) if PARTICLES in mesh.axis_names else 1


def shard_particles(tree: T, axis: int = 0) -> T:
    """Tell the compiler that an axis of every array is shared out over the devices; nothing without a mesh."""
    if num_shards() == 1:
        return tree
    spec = PartitionSpec(*[None] * axis, PARTICLES)
    return jax.tree.map(lambda x: jax.lax.with_sharding_constraint(x, spec), tree)


def place_particles(mesh: Mesh, tree: T, axis: int = 0) -> T:
    """Put arrays on the devices of a mesh, an axis of theirs shared out (its length must divide evenly)."""
    sharding = NamedSharding(mesh, PartitionSpec(*[None] * axis, PARTICLES))
    return jax.tree.map(lambda x: jax.device_put(x, sharding), tree)


def padded_count(count: int, shards: int) -> int:
    """The next number of particles that divides evenly."""
    return -(-count // shards) * shards


def pad_rows(tree: T, count: int) -> T:
    """Zeros appended to the leading axis of every array, up to a length."""

    def pad(x: jax.Array) -> jax.Array:
        extra = count - x.shape[0]
        return jnp.pad(x, ((0, extra),) + ((0, 0),) * (x.ndim - 1)) if extra else x

    return jax.tree.map(pad, tree)
