"""The Stein force of 8,191 particles on four forced host devices and on one: difference, program and memory, as JSON.

With arguments (process index, number of processes, address) the devices belong to several processes.
"""

from __future__ import annotations

import json
import os
import re
import sys

PROCESSES = int(sys.argv[2]) if len(sys.argv) > 1 else 1
# Collectives of forced devices wait in threads: with one thread per core of a small machine they can wait for ever.
os.environ["NPROC"] = "16"
os.environ["XLA_FLAGS"] = f"--xla_force_host_platform_device_count={4 // PROCESSES} --xla_backend_optimization_level=0"

import jax  # noqa: E402
import jax.numpy as jnp  # noqa: E402
import numpy as np  # noqa: E402

jax.config.update("jax_enable_x64", True)
if PROCESSES > 1:
    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    jax.distributed.initialize(sys.argv[3], PROCESSES, int(sys.argv[1]))

from pushforward.infer._sample_distances import _kernel_term, _two_sample  # noqa: E402
from pushforward.infer._stein_discrepancy import stein_statistics  # noqa: E402
from pushforward.samplers.engine import padded_count, particle_mesh, place_particles  # noqa: E402
from pushforward.samplers.pairs import IMQ, RBF, stein_force  # noqa: E402

N, DIM = (8191, 20) if PROCESSES == 1 else (1023, 5)


def force(x, scores, weight):
    """The Stein force with the median bandwidth."""
    kernel = RBF()
    return stein_force(kernel, kernel.bandwidth(x, weight > 0), x, scores, weight)


def discrepancies(x, scores):
    """KSD^2 and MMD^2, biased and unbiased."""
    signs = np.zeros((x.shape[0], 0))
    stein = stein_statistics(IMQ(), x, scores, signs)
    both = jnp.concatenate([x, 0.3 + 1.5 * scores])
    return jnp.stack([*stein[:2], *_two_sample(_kernel_term, RBF(1.0), both, x.shape[0], None, 0)[:2]])


def memory(compiled):
    """Bytes on one device: arguments, results and temporaries."""
    found = compiled.memory_analysis()
    return found.argument_size_in_bytes + found.output_size_in_bytes + found.temp_size_in_bytes


def main():
    """Compile and run both ways."""
    generator = np.random.default_rng(0)
    x, scores = generator.normal(size=(N, DIM)), generator.normal(size=(N, DIM))
    single = jax.jit(force).lower(x, scores, np.ones(N)).compile()
    exact = np.asarray(jax.jit(force)(x, scores, np.ones(N)))
    mesh, count = particle_mesh(), padded_count(N, 4)
    padded = [np.pad(v, ((0, count - N),) + ((0, 0),) * (v.ndim - 1)) for v in (x, scores, np.ones(N))]
    with jax.set_mesh(mesh):
        shared = jax.jit(lambda *a: force(*a))
        arguments = place_particles(mesh, padded)
        program = shared.lower(*arguments).compile()
        found = shared(*arguments)
        on_ring = np.asarray(jax.jit(lambda *a: discrepancies(*a))(x, scores))
    # Each process compares what it holds.
    difference = max(
        float(np.abs(np.asarray(s.data)[: max(0, N - s.index[0].start)] - exact[s.index[0]]).max())
        for s in found.addressable_shards
    )
    text = program.as_text()
    gathered = [
        int(np.prod([int(k) for k in dims.split(",") if k]))
        for dims in re.findall(r"= \w+\[([\d,]*)\][^=]* all-gather\(", text)
    ]
    result = {
        "difference": difference,
        "of_discrepancies": float(np.abs(on_ring / np.asarray(jax.jit(discrepancies)(x, scores)) - 1.0).max()),
        "permutes": len(re.findall(r"collective-permute(?:-start)?\(", text)),
        "largest_gathered": max(gathered, default=0),
        "memory_ratio": memory(program) / memory(single),
        "devices": jax.device_count(),
    }
    print(json.dumps(result), flush=True)


main()
