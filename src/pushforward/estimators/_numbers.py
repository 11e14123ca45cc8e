"""Numbers given by the user."""

from __future__ import annotations

import math
from typing import Any


def as_float(value: Any) -> float:
    """A real number as a float, and NaN for anything else: one comparison then refuses both."""
    if isinstance(value, str | bytes | bool):
        return math.nan
    try:
        return float(value)
    except (TypeError, ValueError):
        return math.nan
