"""NUTS on every posterior of the zoo against its published reference: ``make verify``. About 10 minutes on two cores.

The checks and their false-alarm rates are in benchmarks/verify_zoo.py.
"""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest

from pushforward.models import zoo

FILE = Path(__file__).resolve().parents[3] / "benchmarks" / "verify_zoo.py"


@pytest.fixture(scope="module")
def verify_zoo() -> ModuleType:
    spec = importlib.util.spec_from_file_location("verify_zoo", FILE)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    # Data classes look their module up by name.
    sys.modules["verify_zoo"] = module
    spec.loader.exec_module(module)
    return module


@pytest.mark.slow
@pytest.mark.parametrize("name", zoo.names())
def test_nuts_agrees_with_the_reference(verify_zoo: ModuleType, name: str) -> None:
    rows = verify_zoo.verify(name)
    assert len(rows) == sum(reference.mean.size for reference in zoo.load(name).reference.values())
    assert all(row.passes for row in rows), verify_zoo.report(rows, {name: 0.0})


@pytest.mark.slow
def test_wrong_reference_is_noticed(verify_zoo: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    """A reference mean moved by 0.15 sd, or a reference sd by 15 %, fails."""
    entry = zoo.load("ark")
    wrong = {k: r._replace(mean=r.mean + 0.15 * r.sd) for k, r in entry.reference.items()}
    monkeypatch.setattr(type(entry), "reference", property(lambda _: wrong))
    assert not any(row.passes for row in verify_zoo.verify("ark"))
    wider = {k: r._replace(mean=r.mean - 0.15 * r.sd, sd=1.15 * r.sd) for k, r in wrong.items()}
    monkeypatch.setattr(type(entry), "reference", property(lambda _: wider))
    rows = verify_zoo.verify("ark")
    assert not any(row.passes for row in rows)
    assert all(abs(row.standard_errors) < 4.0 for row in rows)
