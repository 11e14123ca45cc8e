"""Helper modules of these tests are found by name: a package called ``pyro`` here would hide the library."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

pytest.importorskip("torch")
pytest.importorskip("pyro")
sys.path.append(str(Path(__file__).parent))
