"""The example that counts objects: what the strategy of its discrete sites is worth."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
RUN = """
import json, sys
from attend_infer_repeat import compare
rows = compare(sys.argv[1:])
print(json.dumps({row.strategy: row.accuracy for row in rows}))
"""


@pytest.mark.slow
def test_strategies_on_the_same_budget(figure) -> None:
    """In a process of its own: the example runs in single precision, and optimised."""
    environment = {**os.environ, "XLA_FLAGS": "", "JAX_ENABLE_X64": "0", "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(
        [sys.executable, "-c", RUN, "measure-valued", "leave-one-out", "reinforce"],
        cwd=EXAMPLES,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    accuracy = json.loads(done.stdout.splitlines()[-1])
    figure("AIR: images counted right, measure-valued", accuracy["measure-valued"], "> 0.95")
    figure("AIR: images counted right, leave-one-out", accuracy["leave-one-out"], "> 0.95")
    figure("AIR: images counted right, plain REINFORCE", accuracy["reinforce"], "< 0.60")
    assert accuracy["measure-valued"] > 0.95
    assert accuracy["leave-one-out"] > 0.95
    assert accuracy["reinforce"] < 0.60
