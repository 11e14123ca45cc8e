"""Which cases of a long table run in the fast tier."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import pytest


def fast(cases: Iterable[Any], *chosen: Any, several: bool = False) -> list[Any]:
    """All cases, those not chosen marked slow: `make test` runs the chosen ones, `make verify` all.

    With ``several`` a case is a tuple of the values of several parameters.
    """
    table = list(cases)
    unknown = [case for case in chosen if case not in table]
    assert not unknown, unknown
    return [case if case in chosen else _slow(case, several) for case in table]


def _slow(case: Any, several: bool) -> Any:
    return pytest.param(*(case if several else (case,)), marks=pytest.mark.slow)
