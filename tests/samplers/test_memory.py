"""Memory of a whole step of SVGD, bandwidth included: of the compiled program, and of a process that runs it."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import pushforward as pf

REAL_STEP = """
import json, resource, sys, time
import jax, jax.numpy as jnp
import pushforward as pf
n, dim = int(sys.argv[1]), 2
kernel = pf.SVGD(n).bind(pf.from_logdensity(lambda x: -0.5 * jnp.sum(x**2), jnp.zeros(dim)), 0)
step = jax.jit(lambda key, state: kernel.step(key, state)[0])
peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
small = kernel.init(jax.random.key(0), jnp.ones((16, dim)))
jax.block_until_ready(step(jax.random.key(1), small))
before, state = peak(), kernel.init(jax.random.key(0), jax.random.normal(jax.random.key(2), (n, dim)))
began = time.perf_counter()
new = jax.block_until_ready(step(jax.random.key(1), state))
print(json.dumps([peak() - before, time.perf_counter() - began, bool(jnp.all(jnp.isfinite(new.particles)))]))
"""


def temporary_bytes(num_particles, dim):
    """Temporaries of the compiled step in single precision."""
    with jax.enable_x64(False):
        target = pf.from_logdensity(lambda x: -0.5 * jnp.sum(x**2), jnp.zeros(dim, jnp.float32))
        kernel = pf.SVGD(num_particles).bind(target, 0)
        start = jax.eval_shape(
            lambda x: kernel.init(jax.random.key(0), x), jnp.zeros((num_particles, dim), jnp.float32)
        )
        compiled = jax.jit(lambda key, state: kernel.step(key, state)[0]).lower(jax.random.key(0), start).compile()
    return compiled.memory_analysis().temp_size_in_bytes


def test_a_step_needs_memory_linear_in_the_particles(figure):
    sizes = {n: temporary_bytes(n, 50) for n in (4_000, 16_000, 64_000)}
    slope = np.log(sizes[64_000] / sizes[16_000]) / np.log(4.0)
    figure("SVGD step, n = 4,000, d = 50: MiB of temporaries", sizes[4_000] / 2**20, "8")
    figure("SVGD step: slope of memory against particles (log-log)", float(slope), "1.05")
    assert sizes[4_000] <= 8 * 2**20, sizes
    assert slope <= 1.05, sizes


def test_a_hundred_thousand_particles_fit(figure):
    size = temporary_bytes(100_000, 10)
    figure("SVGD step, n = 100,000, d = 10: MiB of temporaries", size / 2**20, "128")
    assert size <= 128 * 2**20


@pytest.mark.slow
def test_a_real_step_of_thirty_thousand_particles(figure):
    """In a process of its own: its peak memory beyond what the libraries need, and seconds with compilation."""
    environment = {**os.environ, "XLA_FLAGS": "", "JAX_ENABLE_X64": "0"}
    done = subprocess.run(
        [sys.executable, "-c", REAL_STEP, "30000"], env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
    grown, seconds, finite = json.loads(done.stdout.splitlines()[-1])
    figure("SVGD step, n = 30,000, d = 2: MB of memory", grown / 1e6, "300")
    figure("SVGD step, n = 30,000, d = 2: seconds", seconds, "30")
    assert finite
    assert grown <= 300e6
