"""`import pushforward` is cheap: little beyond NumPyro, and nothing that only some users need."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

LIMIT_SECONDS = 1.0
REPEATS = 3
FORBIDDEN = set("arviz arviz_base arviz_plots arviz_stats flax flowjax matplotlib pyro torch typer".split())


def import_seconds(module: str, bytecode: Path) -> float:
    """Time one import in a fresh interpreter: processor time, which other processes on the machine hardly change.

    With bytecode, as an installed package has it: in a checkout whose environment forbids to write it, every import
    would compile every file.
    """
    code = (
        "import time; start = time.process_time(); import importlib; "
        f"importlib.import_module({module!r}); print(time.process_time() - start)"
    )
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    environment["PYTHONPYCACHEPREFIX"] = str(bytecode)
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True, env=environment)
    return float(done.stdout)


def test_import_costs_little_beyond_numpyro(tmp_path, figure):
    """The smallest of several runs of each, taken in turn, differ by less than the limit."""
    numpyro, ours = [], []
    for _ in range(REPEATS):
        numpyro.append(import_seconds("numpyro", tmp_path))
        ours.append(import_seconds("pushforward", tmp_path))
    extra = min(ours) - min(numpyro)
    figure("Import beyond NumPyro: seconds of processor time", extra, f"{LIMIT_SECONDS:.0f}")
    assert extra <= LIMIT_SECONDS, f"numpyro {min(numpyro):.2f} s, pushforward {min(ours):.2f} s"


def test_import_loads_nothing_optional():
    """Heavy and optional packages are imported where they are used."""
    code = "import json, sys, pushforward; print(json.dumps(sorted({name.split('.')[0] for name in sys.modules})))"
    result = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert set(json.loads(result.stdout)) & FORBIDDEN == set()


def test_import_leaves_jax_configuration_alone():
    """No precision, platform or cache is chosen for the user at import."""
    code = (
        "import jax, json; keys = [k for k in jax.config.values if k != 'jax_platforms']; "
        "before = {k: repr(jax.config.values[k]) for k in keys}; import pushforward; "
        "print(json.dumps([k for k in keys if repr(jax.config.values[k]) != before[k]]))"
    )
    environment = {name: value for name, value in os.environ.items() if not name.startswith("JAX_")}
    result = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True, env=environment)
    assert json.loads(result.stdout) == []
