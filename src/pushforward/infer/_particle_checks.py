"""Checks on particle clouds and point estimates."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from ._restart_checks import MEAN_DISAGREEMENT, SD_DISAGREEMENT, best_restart
from ._tree import flat_names, group, stacked_draws
from ._verdict import Finding

if TYPE_CHECKING:
    import xarray as xr

STEIN_SCALE = (0.7, 1.5)
"""Range of ``-mean (x - mean x) . grad log p / d``, which is one under the target."""
STEIN_SHIFT_MAX = 0.5
"""Largest mean of the scores per coordinate, times the standard deviation of the cloud; zero under the target."""

EVIDENCE_ERROR_MAX = 0.5
"""Largest standard error of a log evidence, in nats: beyond it the estimate's own error is hardly known."""
PARTICLES_MIN = 10
"""Below it the mean of independent draws is off by a third of a posterior sd and more."""


def check_particles(tree: xr.DataTree) -> tuple[list[Finding], dict[str, Any]]:
    """Check interacting particles (``draw`` numbers the particles, ``chain`` independent replicas of the cloud)."""
    dataset = group(tree, "unconstrained_posterior")
    names = [label for name in dataset.data_vars for label in flat_names(dataset, str(name))]
    draws = np.concatenate([stacked_draws(dataset, str(name)) for name in dataset.data_vars])
    _, num_clouds, num_particles = draws.shape
    details: dict[str, Any] = {"num_clouds": num_clouds, "num_particles": num_particles}
    findings: list[Finding] = []
    distinct = min(len(np.unique(draws[:, cloud].T, axis=0)) for cloud in range(num_clouds))
    details["num_distinct"] = distinct
    if num_particles > 1 and distinct == 1:
        findings.append(
            Finding(
                "failed",
                f"All {num_particles} particles are the same point: the cloud has collapsed and carries no "
                "uncertainty. Start the particles apart, or lower the step size.",
            )
        )
    elif 2 * distinct < num_particles:
        findings.append(
            Finding(
                "doubtful",
                f"Only {distinct} of {num_particles} particles are distinct (at least half should be). Use more move "
                "steps, or more particles.",
            )
        )
    if num_clouds * num_particles < PARTICLES_MIN:
        findings.append(
            Finding(
                "doubtful",
                f"{num_clouds * num_particles} particles (at least {PARTICLES_MIN}) say little about means and less "
                "about sds. Use more (num_particles), or more clouds (num_chains).",
            )
        )
    if num_clouds > 1:
        findings += _check_replicas(draws, names, details)
    else:
        findings.append(Finding("note", "One cloud: only replicas (num_chains) can reveal a missed mode."))
    findings += _check_evidence(tree, details)
    record = group(tree, "optimization")
    findings += _check_identities(record, details)
    if "converged" in record:
        details["converged"] = bool(np.all(record["converged"].values))
        if not details["converged"]:
            findings.append(
                Finding(
                    "doubtful", "The particles were still moving when the steps ran out. Give more steps (num_steps)."
                )
            )
    return findings, details


def _check_evidence(tree: xr.DataTree, details: dict[str, Any]) -> list[Finding]:
    error = tree.attrs.get("log_evidence_error")
    if error is None:
        return []
    details["log_evidence_error"] = float(error)
    if float(error) <= EVIDENCE_ERROR_MAX:
        return []
    return [
        Finding(
            "doubtful",
            f"The standard error of the log evidence is {float(error):.2g} nats (at most {EVIDENCE_ERROR_MAX}). Use "
            "more particles, more move steps, or smaller steps of the temperature (a larger ess_fraction).",
        )
    ]


def _check_identities(record: xr.Dataset, details: dict[str, Any]) -> list[Finding]:
    """Two of Stein's identities at the end of a flow: they see a cloud that still moves or is too narrow."""
    if "stein_scale" not in record:
        return []
    last = {name: record[name].values[:, -1].astype(float) for name in ("stein_scale", "stein_shift")}
    shift, scales = float(last["stein_shift"].max()), last["stein_scale"]
    scale = float(scales[np.abs(scales - 1.0).argmax()])
    details.update(stein_scale=scale, stein_shift=shift)
    findings = []
    if not shift <= STEIN_SHIFT_MAX:
        findings.append(
            Finding(
                "doubtful",
                f"The particles have not arrived: by Stein's identity their mean is about {shift:.2g} of their sds off "
                f"(at most {STEIN_SHIFT_MAX}). Give more steps (num_steps) or a larger learning rate, "
                "start at a fit (init), or use pf.CoinSVGD, which has no learning rate.",
            )
        )
    if scale > STEIN_SCALE[1]:
        findings.append(
            Finding(
                "doubtful",
                f"The cloud is too wide: by Stein's identity its variances are about {scale:.2g} times the posterior's "
                f"(at most {STEIN_SCALE[1]}). Give more steps (num_steps) or a larger learning rate.",
            )
        )
    elif not scale >= STEIN_SCALE[0]:
        findings.append(
            Finding(
                "doubtful",
                "The cloud is too narrow: by Stein's identity its variances, in the coordinates in which it moves, are "
                f"about {scale:.2g} times the posterior's (at least {STEIN_SCALE[0]}). Use more particles, a sampler "
                "of draws (pf.NUTS) or, in SVGD, a kernel per group of coordinates (samplers.pairs.Graphical); while "
                "it spreads, give more steps (num_steps).",
            )
        )
    return findings


def _check_replicas(draws: np.ndarray, names: list[str], details: dict[str, Any]) -> list[Finding]:
    mean, sd = draws.mean(axis=2), draws.std(axis=2)
    pooled = np.sqrt(np.maximum((sd**2).mean(axis=1), np.finfo(float).tiny))
    # Replica means of n particles differ by up to about 4 sqrt(2 / n) sd by chance alone.
    allowed = max(MEAN_DISAGREEMENT, 4.0 * np.sqrt(2.0 / draws.shape[2]))
    distance = np.ptp(mean, axis=1) / pooled
    ratio = sd.max(axis=1) / np.maximum(sd.min(axis=1), np.finfo(float).tiny)
    far, wide = int(distance.argmax()), int(ratio.argmax())
    details.update(mean_distance=float(distance[far]), sd_ratio=float(ratio[wide]))
    findings = []
    if distance[far] > allowed:
        findings.append(
            Finding(
                "doubtful",
                f"Replicas disagree: their means of {names[far]} differ by {distance[far]:.1f} posterior sd (at most "
                f"{allowed:.2g}). There are several modes, or too few steps. Run longer or use more particles.",
            )
        )
    if draws.shape[2] >= 100 and ratio[wide] > SD_DISAGREEMENT:
        findings.append(
            Finding(
                "doubtful",
                f"Replicas disagree: their sds of {names[wide]} differ by a factor {ratio[wide]:.1f} (at most "
                f"{SD_DISAGREEMENT}). Run longer or use more particles.",
            )
        )
    return findings


def check_point(tree: xr.DataTree) -> tuple[list[Finding], dict[str, Any]]:
    """Check a point estimate: it can be converged, but carries no uncertainty."""
    details: dict[str, Any] = {}
    findings = [
        Finding(
            "note",
            "This is a point estimate: sds and intervals are zero by construction, not by evidence. Use pf.Laplace, "
            "pf.MeanField or pf.NUTS for uncertainty.",
        )
    ]
    lp = group(tree, "sample_stats")["lp"].values
    details["lp"] = float(np.max(lp))
    if not np.isfinite(lp).all():
        findings.append(
            Finding(
                "failed",
                "The log-density at the point estimate is not finite. Start elsewhere, or lower the step size.",
            )
        )
    record = group(tree, "optimization")
    if "converged" in record:
        details["converged"] = bool(np.atleast_1d(record["converged"].values)[best_restart(record)])
        if not details["converged"]:
            findings.append(
                Finding(
                    "doubtful",
                    "The optimisation had not converged when its steps ran out. Give more steps (num_steps).",
                )
            )
    return findings, details
