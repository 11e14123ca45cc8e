"""The ring over devices: forced host devices in processes of their own."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

WORKER = Path(__file__).with_name("ring_worker.py")


def start(*arguments):
    command = [sys.executable, str(WORKER), *map(str, arguments)]
    return subprocess.Popen(command, env=dict(os.environ), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def result_of(process):
    out, err = process.communicate(timeout=300)
    assert process.returncode == 0, err[-2000:]
    return json.loads(out.splitlines()[-1])


def test_ring_of_four_devices_equals_one(figure):
    """8,191 particles in 20 dimensions, which 4 does not divide."""
    found = result_of(start())
    figure("Ring of 4 devices: largest difference of the Stein force from one device", found["difference"], "1e-6")
    figure("Ring of 4 devices: memory per device over that of one", found["memory_ratio"], "0.35")
    assert found["difference"] < 1e-6
    assert found["of_discrepancies"] < 1e-6
    assert found["permutes"] > 0
    # Only the flags of the particles are gathered, never their positions or scores.
    assert found["largest_gathered"] <= 8192
    assert found["memory_ratio"] <= 0.35


@pytest.mark.slow
def test_two_processes_equal_one():
    """Two processes with two devices each, joined on the loopback."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        address = f"localhost:{free.getsockname()[1]}"
    processes = [start(index, 2, address) for index in range(2)]
    for found in map(result_of, processes):
        assert found["devices"] == 4
        assert found["difference"] < 1e-6
        assert found["of_discrepancies"] < 1e-6
        assert found["permutes"] > 0
