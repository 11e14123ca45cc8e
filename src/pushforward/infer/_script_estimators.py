"""Guides, objectives and gradient estimators from words, for the command line."""

from __future__ import annotations

from typing import Any

GUIDES = {
    "mean-field": "MeanField",
    "full-rank": "FullRank",
    "low-rank": "LowRank",
    "laplace": "Laplace",
    "delta": "Delta",
}
"""Variational families that need no code."""
_OBJECTIVES = {
    "elbo": "ELBO",
    "iwelbo": "IWELBO",
    "vis": "VIS",
    "tvo": "TVO",
    "forward-kl": "ForwardKL",
    "cubo": "CUBO",
    "renyi": "Renyi",
}
_WITH_NUMBER = ("cubo", "renyi")


def build_guide(spec: str) -> Any:
    """A family by name, or a NumPyro program from ``FILE.py:NAME``.

    Raises:
        ValueError: for an unknown name.
    """
    from ..models import guides

    if spec in GUIDES:
        return getattr(guides, GUIDES[spec])()
    return guides.program_guide(_from_file(spec, "--guide", GUIDES))


def build_objective(spec: str) -> Any:
    """An objective by name, with a number behind a colon where it takes one, or an object from ``FILE.py:NAME``.

    Raises:
        ValueError: for an unknown name or number.
    """
    from ..estimators import objectives

    name, _, number = spec.partition(":")
    if name not in _OBJECTIVES:
        return _from_file(spec, "--objective", _OBJECTIVES)
    kind = getattr(objectives, _OBJECTIVES[name])
    if not number:
        if name == "renyi":
            raise ValueError("--objective renyi needs its alpha: expected for example renyi:0.5.")
        return kind()
    if name not in _WITH_NUMBER:
        raise ValueError(f"--objective {spec}: {name} takes no number; only {' and '.join(_WITH_NUMBER)} do.")
    try:
        return kind(float(number))
    except ValueError as error:
        raise ValueError(f"--objective {spec}: expected a number after the colon ({error}).") from error


def build_gradient(spec: str) -> Any:
    """A gradient estimator by name, or an object from ``FILE.py:NAME``.

    Raises:
        ValueError: for an unknown name.
    """
    from ..estimators import gradients

    named: dict[str, Any] = {
        "reparam": gradients.Reparam,
        "path": gradients.Path,
        "auto": gradients.Adaptive,
        "score": gradients.Score,
        "score-average": lambda: gradients.Score("average"),
    }
    return named[spec]() if spec in named else _from_file(spec, "--estimators", named)


def read_numbers(text: str, option: str) -> list[int]:
    """Whole numbers from a comma-separated list.

    Raises:
        ValueError: if one is none.
    """
    try:
        return [int(part) for part in text.split(",")]
    except ValueError as error:
        raise ValueError(f"{option} {text}: expected whole numbers such as 1,4,16.") from error


def _from_file(spec: str, option: str, known: Any) -> Any:
    from ._script import load_object

    if ":" not in spec and not spec.endswith(".py"):
        raise ValueError(f"{option} must be one of {', '.join(known)}, or FILE.py:NAME, got {spec!r}.")
    return load_object(spec)
