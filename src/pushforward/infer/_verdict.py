"""The verdict on a result: may its numbers be used, and if not, why and what to do."""

from __future__ import annotations

import dataclasses
import json
import textwrap
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np

from ._tree import group

if TYPE_CHECKING:
    import xarray as xr

    from ._posterior import Posterior

Status = Literal["ok", "doubtful", "failed"]
_ORDER: dict[str, int] = {"note": 0, "doubtful": 1, "failed": 2}


class Finding(NamedTuple):
    """One thing that a check has found."""

    severity: Literal["note", "doubtful", "failed"]
    sentence: str
    """Names the figure, the threshold and the remedy."""


@dataclasses.dataclass(frozen=True)
class Verdict:
    """Whether a result can be trusted.

    ``ok``: no check found a fault. ``doubtful``: there is an answer, but a check gives a reason not to rely on it.
    ``failed``: there is no usable answer (non-finite draws or weights, a chain that never moved).
    No verdict proves a result right: k-hat and R-hat are blind to a mode that no restart and no chain has visited.
    """

    status: Status
    reasons: tuple[str, ...] = ()
    """Plain sentences, worst first; notes about a sound result come last."""
    details: dict[str, Any] = dataclasses.field(default_factory=dict)
    """The figures behind the reasons."""

    @property
    def ok(self) -> bool:
        """Whether the status is ``ok``."""
        return self.status == "ok"

    def __str__(self) -> str:
        lines = [f"verdict: {self.status}"]
        for reason in self.reasons:
            lines += textwrap.wrap(reason, width=110, initial_indent="  - ", subsequent_indent="    ")
        return "\n".join(lines)

    def to_json(self) -> str:
        """Serialise for the attributes of a file."""
        return json.dumps({"status": self.status, "reasons": list(self.reasons), "details": _plain(self.details)})

    @classmethod
    def from_json(cls, text: str) -> Verdict:
        """Read what `to_json` wrote."""
        record = json.loads(text)
        return cls(record["status"], tuple(record["reasons"]), record["details"])


def conclude(findings: list[Finding], details: dict[str, Any]) -> Verdict:
    """Combine findings: the worst severity decides the status."""
    ranked = sorted(findings, key=lambda finding: -_ORDER[finding.severity])
    worst = max((_ORDER[finding.severity] for finding in findings), default=0)
    status: Status = "failed" if worst == 2 else "doubtful" if worst == 1 else "ok"
    return Verdict(status, tuple(finding.sentence for finding in ranked), details)


def diagnose(posterior: Posterior | xr.DataTree) -> Verdict:
    """Check a result and return a verdict with its reasons and figures.

    Which checks run depends on how the draws were made (``sampler_kind``). R-hat and ESS are computed for Markov chains
    only: independent draws of a guide always pass them, whatever the guide, so there they would be false comfort.

    Args:
        posterior: a `Posterior`, or the data tree of one.

    Returns:
        A `Verdict`; ``.details`` holds the figures (``khat``, ``elbo``, ``rhat_max``, ``ess_bulk_min``, ...).

    Raises:
        ValueError: if the data tree was not made by pushforward.

    Cost: variational, one PSIS fit (milliseconds); mcmc, about 4 ms per scalar latent for 4 chains of 1,000 draws.
    """
    from ._isolation import check_isolated
    from ._mcmc_checks import check_mcmc
    from ._particle_checks import check_particles, check_point
    from ._variational_checks import check_variational

    tree: Any = getattr(posterior, "data", posterior)
    kind = getattr(tree, "attrs", {}).get("sampler_kind")
    checks = {
        "variational": check_variational,
        "mcmc": check_mcmc,
        "particles": check_particles,
        "point": check_point,
    }
    if kind not in checks:
        raise ValueError(
            f"diagnose needs a pushforward result (attribute sampler_kind one of {sorted(checks)}), got sampler_kind = "
            f"{kind!r} on a {type(posterior).__name__}. Draws of other libraries can be checked with arviz_stats."
        )
    findings = check_finite(tree)
    details: dict[str, Any] = {"sampler_kind": kind}
    if not findings:
        # Draws that ran off to 1e20 have squares that overflow: that is for the checks to say, not for NumPy.
        with np.errstate(over="ignore", invalid="ignore"):
            more, figures = checks[kind](tree)
        findings += more
        details.update(figures)
    findings += check_isolated(tree.attrs)
    weights = tree.attrs.get("site_weights")
    if weights:
        details["site_weights"] = weights
        findings.append(
            Finding(
                "note",
                f"The target weighs its sites ({weights}): these are draws of the weighted density, not of the model's "
                "posterior, and an ELBO refers to the weighted evidence: it is no bound on log p(data).",
            )
        )
    return conclude(findings, details)


def check_finite(tree: xr.DataTree) -> list[Finding]:
    """Refuse draws that are not numbers."""
    findings = []
    for name, variable in group(tree, "unconstrained_posterior").data_vars.items():
        bad = int(variable.size - np.isfinite(variable.values).sum())
        if bad:
            findings.append(
                Finding(
                    "failed",
                    f"{bad} of {variable.size} values of '{name}' are not finite: the run diverged. Lower the step "
                    "size, check data and priors for extreme values, or start elsewhere.",
                )
            )
    return findings


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(name): _plain(entry) for name, entry in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(entry) for entry in value]
    if isinstance(value, np.ndarray):
        return _plain(value.tolist())
    return value.item() if isinstance(value, np.generic) else value
