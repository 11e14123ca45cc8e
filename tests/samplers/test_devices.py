"""Several devices give what one gives: forced host devices in a process of their own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import registry
from tiers import fast

from pushforward.samplers import AbstractEnsemble

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
