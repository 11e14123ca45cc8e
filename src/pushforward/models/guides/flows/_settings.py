"""Checks of the settings of flows."""

from __future__ import annotations

import operator


def check_network(owner: object, **sizes: int) -> None:
    """Sizes of layers and networks are at least 1.

    Raises:
        ValueError: naming the setting.
    """
    for name, size in sizes.items():
        try:
            good = operator.index(size) >= 1
        except TypeError:
            good = False
        if not good:
            raise ValueError(
                f"{type(owner).__name__}({name}={size!r}): expected a whole number of at least 1, e.g. {name}=8."
            )
