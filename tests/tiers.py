"""Which cases of a long table run in the fast tier."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import pytest


def fast(cases: Iterable[Any], *chosen: Any) -> list[Any]:
    """All cases, those not chosen marked slow: `make test` runs the chosen ones, `make verify` all."""
    table = list(cases)
    unknown = [case for case in chosen if case not in table]
    assert not unknown, unknown
    return [case if case in chosen else pytest.param(case, marks=pytest.mark.slow) for case in table]
