"""Helper modules of these tests are found by name: a package called ``pyro`` here would hide the library."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

torch = pytest.importorskip("torch")
pyro = pytest.importorskip("pyro")
sys.path.append(str(Path(__file__).parent))


@pytest.fixture(autouse=True)
def double_precision() -> Iterator[None]:
    """Tests run in float64, torch included."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    pyro.clear_param_store()
    yield
    pyro.clear_param_store()
    torch.set_default_dtype(before)
