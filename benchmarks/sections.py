"""What the results page is made of."""

from __future__ import annotations

from typing import NamedTuple


class Section(NamedTuple):
    """One part of the page."""

    title: str
    note: str
    columns: tuple[str, ...]
    rows: list[tuple[str, ...]]
    holds: bool
    measured: str = ""
    """Date, device and versions."""


def yes(holds: bool) -> str:
    """As tables say it."""
    return "yes" if holds else "no"
