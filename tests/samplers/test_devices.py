"""Several devices give what one gives: forced host devices in a process of their own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import pytest
import registry
from tiers import fast

import pushforward as pf
from pushforward.infer._devices import place_state
from pushforward.samplers import AbstractEnsemble, Chains

WORKER = Path(__file__).with_name("devices_worker.py")
CLOUDS = [n for n, case in registry.KERNELS.items() if isinstance(case.build(), AbstractEnsemble)]
CHAINS = ["SGLD"]


@pytest.mark.parametrize("name", fast([*CLOUDS, *CHAINS], "SVGD"))
def test_devices_change_nothing(name):
    """A run on several devices, and one resumed on another number of them, to 1e-6."""
    out = subprocess.run([sys.executable, str(WORKER), name], env=dict(os.environ), capture_output=True, text=True)
    assert out.returncode == 0, out.stderr[-2000:]
    for what, difference in json.loads(out.stdout.splitlines()[-1])[name].items():
        assert difference < 1e-6, (what, difference)


def test_a_memory_as_long_as_the_cloud_is_not_taken_for_one_number_per_particle():
    """Six particles in eight dimensions, padded to eight places on four devices, go on on one."""
    target = pf.from_logdensity(lambda x: -0.5 * jnp.sum(x**2), jnp.zeros(8))
    chains = Chains(pf.CBO(6).bind(target, 0), 1)

    def shapes(places):
        state = chains.init(jax.random.key(0), jnp.ones((1, places, 8)))
        return state, [x.shape for x in jax.tree.leaves(chains.inner(state))]

    padded, _ = shapes(8)
    _, expected = shapes(6)
    assert [x.shape for x in jax.tree.leaves(chains.inner(place_state(None, chains, padded)))] == expected
