"""Checks on the optimisation behind a result: did it converge, and do its restarts agree."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from ._verdict import Finding

if TYPE_CHECKING:
    import xarray as xr

MODE_NATS = 5.0
"""Restarts whose ELBO is this close to the best hold mass that cannot be neglected (exp(-5) = 0.7 %)."""
MEAN_DISAGREEMENT = 0.5
"""Largest difference of restart means, in pooled posterior standard deviations, that counts as agreement."""
RUNAWAY = 1e12
"""Unconstrained means or sds beyond this mean that the guide is chasing mass towards infinity."""
SD_DISAGREEMENT = 1.5
"""Largest ratio of restart standard deviations that counts as agreement."""


def check_convergence(record: xr.Dataset, details: dict[str, Any]) -> list[Finding]:
    """Say so when the reported restart had not converged. ``record`` is the group ``optimization``."""
    if "converged" not in record:
        return []
    converged = np.atleast_1d(record["converged"].values).astype(bool)
    details["converged"] = bool(converged[best_restart(record)])
    if details["converged"]:
        return []
    return [
        Finding(
            "doubtful",
            "The optimisation had not converged when its steps ran out: the objective was still changing by more than "
            "its noise. Give it more steps (num_steps); a run with checkpoint= can be continued by pf.resume.",
        )
    ]


def best_restart(record: xr.Dataset) -> int:
    """Index of the reported restart: ``best_restart`` where recorded, else the one with the highest finite ELBO."""
    if "best_restart" in record:
        return int(record["best_restart"].values)
    if "restart_elbo" not in record:
        return 0
    elbo = np.atleast_1d(record["restart_elbo"].values).astype(np.float64)
    return int(np.argmax(np.where(np.isfinite(elbo), elbo, -np.inf)))


def check_restarts(record: xr.Dataset, details: dict[str, Any]) -> list[Finding]:
    """Compare restarts of comparable ELBO: if they describe different posteriors, there is a mode k-hat cannot see."""
    if "restart_elbo" not in record:
        return []
    elbo = np.atleast_1d(record["restart_elbo"].values).astype(np.float64)
    se = np.zeros_like(elbo)
    if "restart_elbo_se" in record:
        se = np.atleast_1d(record["restart_elbo_se"].values).astype(np.float64)
    best = best_restart(record)
    finite = np.isfinite(elbo)
    comparable = finite & (elbo[best] - elbo <= MODE_NATS + 2.0 * np.hypot(se, se[best]))
    table: list[dict[str, Any]] = [
        {"restart": i, "elbo": float(elbo[i]), "elbo_se": float(se[i]), "comparable": bool(comparable[i])}
        for i in range(elbo.size)
    ]
    details.update(restarts=table, best_restart=best)
    findings: list[Finding] = []
    if elbo.size > 1 and 2 * finite.sum() <= elbo.size:
        findings.append(
            Finding(
                "doubtful" if finite.any() else "failed",
                f"{elbo.size - finite.sum()} of {elbo.size} restarts ended with a non-finite ELBO (fewer than half "
                "may). Lower the learning rate, or check priors and data for extreme values.",
            )
        )
    if "restart_mean" not in record or "restart_sd" not in record:
        return findings
    runaway = _runaway(record, best)
    if runaway:
        return [*findings, Finding("failed", runaway)]
    worst = (1.0, "")
    for i in np.flatnonzero(comparable):
        if i == best:
            continue
        for excess, sentence in _disagreements(record, best, int(i), table[i]):
            if excess > worst[0]:
                gap = f"{abs(elbo[best] - elbo[i]):.1f} nats apart (comparable within {MODE_NATS:g})"
                worst = (excess, f"{sentence} between restarts {best} and {i}, whose ELBOs are {gap}")
    details["restarts_agree"] = not worst[1]
    if worst[1]:
        findings.append(
            Finding(
                "doubtful",
                f"Restarts disagree: {worst[1]}. The posterior probably has several modes, or the optimisation stops "
                "early; k-hat cannot see a missed mode. Use a multimodal guide (a mixture or a flow), pf.sample with "
                "several chains, or a model whose symmetry is broken.",
            )
        )
    return findings


def _runaway(record: xr.Dataset, best: int) -> str:
    """Say where the guide has run off to infinity, as it does when the density does not integrate."""
    for name, what in (("restart_mean", "mean"), ("restart_sd", "sd")):
        values = np.asarray(record[name].values, np.float64)[best]
        beyond = ~(np.abs(values) < RUNAWAY)
        if beyond.any():
            where = record["parameter"].values[beyond][0] if "parameter" in record.coords else int(np.argmax(beyond))
            return (
                f"The guide ran away: its {what} in {where} is {values[beyond][0]:.3g}. The density probably does not "
                "integrate (it is constant or grows without bound in some direction). Give every site a proper prior, "
                "or check the sign of the log-density."
            )
    return ""


def _disagreements(record: xr.Dataset, best: int, other: int, row: dict[str, Any]) -> list[tuple[float, str]]:
    """Largest differences between two restarts, each with its size relative to what is allowed."""
    mean, sd = (np.asarray(record[name].values, np.float64)[[best, other]] for name in ("restart_mean", "restart_sd"))
    pooled = np.sqrt((sd**2).mean(axis=0))
    with np.errstate(divide="ignore", invalid="ignore"):
        distance = np.where(pooled > 0, np.abs(mean[1] - mean[0]) / pooled, 0.0)
        ratio = np.where((sd > 0).all(axis=0), sd.max(axis=0) / sd.min(axis=0), 1.0)
    labels = record["parameter"].values if "parameter" in record.coords else np.arange(distance.size)
    far, wide = int(np.argmax(distance)), int(np.argmax(ratio))
    row.update(mean_distance=float(distance[far]), sd_ratio=float(ratio[wide]))
    return [
        (
            float(distance[far] / MEAN_DISAGREEMENT),
            f"the means of {labels[far]} differ by {distance[far]:.1f} posterior sd (at most {MEAN_DISAGREEMENT})",
        ),
        (
            float(np.log(ratio[wide]) / np.log(SD_DISAGREEMENT)),
            f"the sds of {labels[wide]} differ by a factor {ratio[wide]:.1f} (at most {SD_DISAGREEMENT})",
        ),
    ]
