"""Runs samplers on four forced host devices and prints what differs from one device, as JSON."""

from __future__ import annotations

import json
import os
import sys
import tempfile
from pathlib import Path

# Collectives of forced devices wait in threads: with one thread per core of a small machine they can wait for ever.
os.environ["NPROC"] = "16"
os.environ["XLA_FLAGS"] = "--xla_force_host_platform_device_count=4 --xla_backend_optimization_level=0"
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import jax  # noqa: E402
import numpy as np  # noqa: E402

jax.config.update("jax_enable_x64", True)

import registry  # noqa: E402

import pushforward as pf  # noqa: E402
from pushforward.samplers import AbstractEnsemble  # noqa: E402


def draws(posterior):
    """All scalars of all draws."""
    return np.concatenate([np.ravel(x) for x in posterior.data["posterior"].data_vars.values()])


def compare(name: str) -> dict[str, float]:
    """Largest differences of one sampler: four devices, and resumed on another number of devices."""
    target, build = registry.target_for(name), registry.KERNELS[name].build
    settings = {"key": jax.random.key(3), "progress": False, "num_chains": 2}
    # Clouds are padded to the devices; chains are shared out whole.
    many, few = (4, 3) if issubclass(type(build()), AbstractEnsemble) else (2, 1)
    one = draws(pf.sample(target, build(), num_steps=12, **settings))
    shared = draws(pf.sample(target, build(), num_steps=12, devices=many, **settings))
    with tempfile.TemporaryDirectory() as folder:
        up, down = Path(folder) / "up", Path(folder) / "down"
        pf.sample(target, build(), num_steps=5, checkpoint=up, **settings)
        pf.sample(target, build(), num_steps=5, devices=many, checkpoint=down, **settings)
        resumed_up = draws(pf.resume(up, num_steps=12, devices=few, progress=False))
        resumed_down = draws(pf.resume(down, num_steps=12, progress=False))
    differences = {"on many": shared, "resumed on few": resumed_up, "resumed on one": resumed_down}
    return {what: float(np.abs(x - one).max()) for what, x in differences.items()}


if __name__ == "__main__":
    print(json.dumps({name: compare(name) for name in sys.argv[1:]}))
