"""The list of posteriors and how to find one by name."""

from __future__ import annotations

import difflib

from . import (
    _ark,
    _blr,
    _eight_schools,
    _garch,
    _gauss_mix,
    _german_credit,
    _gp_regr,
    _hmm,
    _irt_2pl,
    _kidiq,
    _kilpisjarvi,
    _lotka_volterra,
    _mesquite,
    _pump,
)
from ._entry import Entry

_ENTRIES: dict[str, Entry] = {
    entry.name: entry
    for entry in (
        _ark.ENTRY,
        _eight_schools.CENTERED,
        _eight_schools.NONCENTERED,
        _garch.ENTRY,
        _german_credit.ENTRY,
        _gp_regr.ENTRY,
        _hmm.ENTRY,
        _lotka_volterra.ENTRY,
        _irt_2pl.ENTRY,
        _kidiq.ENTRY,
        _kilpisjarvi.ENTRY,
        _gauss_mix.ENTRY,
        _mesquite.ENTRY,
        _pump.ENTRY,
        _blr.ENTRY,
    )
}
_ALIASES: dict[str, str] = {alias: entry.name for entry in _ENTRIES.values() for alias in entry.aliases}


def names() -> tuple[str, ...]:
    """Names of all posteriors in the zoo."""
    return tuple(_ENTRIES)


def pyro_names() -> tuple[str, ...]:
    """Names of the posteriors that also come as Pyro programs."""
    return tuple(name for name, entry in _ENTRIES.items() if entry.build_pyro is not None)


def load(name: str) -> Entry:
    """Get a posterior by its short name or by its posteriordb name.

    Args:
        name: one of `names`, or an alias such as ``"eight_schools-eight_schools_centered"``.

    Raises:
        ValueError: if there is no such posterior; the message lists close matches.

    Example:
        >>> from pushforward.models import zoo
        >>> zoo.load("pump").reference["alpha"].mean.round(2)
        np.float64(0.71)
    """
    entry = _ENTRIES.get(_ALIASES.get(name, name))
    if entry is None:
        known = [*_ENTRIES, *_ALIASES]
        folded = {key.casefold(): key for key in known}
        close = [folded[key] for key in difflib.get_close_matches(str(name).casefold(), folded, n=3, cutoff=0.4)]
        hint = f"close matches: {', '.join(close)}" if close else "no name is close"
        raise ValueError(f"The zoo has no posterior '{name}' ({hint}). Expected one of {', '.join(_ENTRIES)}.")
    return entry
