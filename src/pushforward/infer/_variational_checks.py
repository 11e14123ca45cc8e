"""Checks on independent draws of a guide: k-hat, ELBO, what the weights say, restarts."""

from __future__ import annotations

import itertools
import warnings
from typing import TYPE_CHECKING, Any

import numpy as np

from ._arviz import array_stats
from ._restart_checks import check_convergence, check_restarts
from ._tree import draw_blocks, group
from ._verdict import Finding

if TYPE_CHECKING:
    import xarray as xr

KHAT_MAX = 0.7
"""Above this PSIS estimates are unreliable at any practical number of draws (Vehtari et al. 2024, sec. 3.2.4)."""
MEAN_SHIFT = 0.25
"""Largest correction of a mean by the importance weights, in standard deviations."""
SD_RATIO = 1.25
"""Largest correction factor of a standard deviation by the importance weights."""
CORRECTION_Z = 5.0
"""Standard errors a correction must exceed to be believed."""
MC_ERROR_MAX = 0.1
"""Largest Monte Carlo error of a mean, in standard deviations."""
ROUNDING_MAX = 0.1
"""Largest rounding error of one log-density, in nats."""


def khat_threshold(num_draws: int) -> float:
    """Return the k-hat above which S draws are too few: ``min(1 - 1 / log10(S), 0.7)`` (arXiv:1507.02646, 3.2.4)."""
    return min(1.0 - 1.0 / np.log10(max(num_draws, 2)), KHAT_MAX)


def pareto_khat(log_weights: np.ndarray, rounding: float = 0.0) -> tuple[np.ndarray, float]:
    """Pareto-smooth importance weights.

    Args:
        log_weights: finite ``log p - log q``, shape (draws,).
        rounding: rounding error of one log weight. Weights that are constant up to a few hundred times that (and within
            10 %) carry no tail to fit; their k-hat is given as 0.

    Returns:
        Normalised smoothed log weights, and k-hat (NaN if the tail cannot be fitted).
    """
    uniform = np.full(log_weights.shape, -np.log(log_weights.size))
    spread = float(np.ptp(log_weights))
    if spread <= min(max(1000.0 * rounding, 1e-9), 0.1):
        return uniform, 0.0
    try:
        with np.errstate(all="ignore"), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            # The library smooths the negative of what it is given (it expects log-likelihoods).
            smoothed, khat = array_stats().psislw(-np.asarray(log_weights, np.float64))
    except ValueError:
        # Too few draws for a tail of five, or a tail of ties.
        return uniform, float("nan")
    return smoothed, float(khat)


def check_variational(tree: xr.DataTree) -> tuple[list[Finding], dict[str, Any]]:
    """Check draws of a guide. Needs ``lp`` and ``log_q`` per draw; ``optimization`` adds convergence and restarts."""
    stats = group(tree, "sample_stats")
    lp, log_q = (np.asarray(stats[name].values, np.float64) for name in ("lp", "log_q"))
    log_weights = lp - log_q
    details: dict[str, Any] = {"num_draws": int(log_weights.size)}
    findings: list[Finding] = []
    bad = int(log_weights.size - np.isfinite(log_weights).sum())
    if bad:
        findings.append(
            Finding(
                "failed",
                f"{bad} of {log_weights.size} importance weights are not finite: the guide puts mass where the "
                "posterior density is zero or undefined, so the ELBO is not defined. Check the supports and the data "
                "of the model, or use a narrower initial guide.",
            )
        )
    else:
        largest = np.abs(np.concatenate([lp.ravel(), log_q.ravel()])).max().astype(stats["lp"].dtype)
        rounding = float(np.spacing(largest))
        details["rounding"] = rounding
        if rounding > ROUNDING_MAX:
            findings.append(
                Finding(
                    "doubtful",
                    f"One log-density of size {largest:.3g} is rounded to {rounding:.2g} nats in {stats['lp'].dtype} "
                    f"(at most {ROUNDING_MAX}), which is noise in the objective. Call pf.enable_x64() before building "
                    "the model.",
                )
            )
        findings += _check_weights(tree, log_weights, rounding, details)
    record = group(tree, "optimization")
    if "gradient_choice" in tree.attrs:
        findings.append(Finding("note", f"gradient='auto' chose {tree.attrs['gradient_choice']}"))
    findings += check_convergence(record, details)
    findings += check_restarts(record, details)
    return findings, details


def _check_weights(
    tree: xr.DataTree, log_weights: np.ndarray, rounding: float, details: dict[str, Any]
) -> list[Finding]:
    findings: list[Finding] = []
    # A fit weighs more draws than it keeps: tails are what k-hat is about.
    record = group(tree, "optimization")
    extra = (
        np.asarray(record["log_weights"].values, np.float64)[None]
        if record is not None and "log_weights" in record
        else None
    )
    judged = log_weights if extra is None or not np.isfinite(extra).all() else extra
    num_draws = judged.shape[1]
    threshold = khat_threshold(num_draws)
    # Chains may be draws of different guides, whose weights have different normalisers: one fit per chain.
    fits = [pareto_khat(chain, rounding) for chain in log_weights]
    khats = np.array([khat for _, khat in (fits if judged is log_weights else [pareto_khat(judged[0], rounding)])])
    khat = float("nan") if np.isnan(khats).any() else float(khats.max())
    details.update(khat=khat, khat_threshold=threshold, khat_draws=num_draws)
    details["elbo"] = float(judged.mean())
    details["elbo_se"] = float(judged.std(ddof=1) / np.sqrt(judged.size)) if judged.size > 1 else np.nan
    if np.isnan(khat):
        findings.append(
            Finding(
                "doubtful",
                f"k-hat could not be computed from {num_draws} draws, so nothing vouches for the guide. Draw at least "
                "1,000.",
            )
        )
    elif khat > threshold:
        findings.append(
            Finding(
                "doubtful",
                f"k-hat is {khat:.2f}, above {threshold:.2f}: the guide is too far from the posterior for its draws "
                f"to be corrected, and its tails are probably too short. To improve it, {_remedy(tree)}.",
            )
        )
    else:
        findings += _check_corrections(tree, np.stack([weights for weights, _ in fits]), details)
    mc_error = 1.0 / np.sqrt(log_weights.size)
    details["mc_error"] = mc_error
    if mc_error > MC_ERROR_MAX:
        findings.append(
            Finding(
                "doubtful",
                f"The Monte Carlo error of the means is {mc_error:.2f} posterior sd (at most {MC_ERROR_MAX}) with "
                f"{log_weights.size} draws. Keep at least 100 draws.",
            )
        )
    return findings


def _check_corrections(tree: xr.DataTree, smoothed: np.ndarray, details: dict[str, Any]) -> list[Finding]:
    """Compare the guide's moments with their importance-weighted corrections, reliable when k-hat is small."""
    dataset = group(tree, "unconstrained_posterior")
    weights = np.exp(smoothed - np.log(smoothed.shape[0]))
    excess = weights - 1.0 / weights.size
    largest_shift, largest_ratio = ("", 0.0), ("", 1.0)
    blocks = itertools.chain.from_iterable(draw_blocks(dataset, str(name)) for name in dataset.data_vars)
    for names, draws in blocks:
        mean, var = draws.mean(axis=(1, 2)), draws.var(axis=(1, 2))
        keep = (var > 0) & np.isfinite(var)
        if not keep.any():
            continue
        labels = np.asarray(names)[keep]
        z = (draws[keep] - mean[keep, None, None]) / np.sqrt(var[keep])[:, None, None]
        shift = (weights * z).sum(axis=(1, 2))
        shift_se = np.sqrt((excess**2 * z**2).sum(axis=(1, 2)))
        ratio = np.sqrt(np.maximum((weights * z**2).sum(axis=(1, 2)) - shift**2, 1e-12))
        ratio_se = np.sqrt((excess**2 * (z**2 - 1) ** 2).sum(axis=(1, 2))) / (2.0 * ratio)
        for i, label in enumerate(labels):
            if abs(shift[i]) > abs(largest_shift[1]) and abs(shift[i]) > CORRECTION_Z * shift_se[i]:
                largest_shift = (str(label), float(shift[i]))
            if abs(np.log(ratio[i])) > abs(np.log(largest_ratio[1])) and abs(ratio[i] - 1) > CORRECTION_Z * ratio_se[i]:
                largest_ratio = (str(label), float(ratio[i]))
    details["psis_mean_shift"], details["psis_sd_ratio"] = largest_shift[1], largest_ratio[1]
    findings = []
    if abs(largest_shift[1]) > MEAN_SHIFT:
        findings.append(
            Finding(
                "doubtful",
                f"The importance weights move the mean of {largest_shift[0]} by {largest_shift[1]:+.2f} posterior sd "
                f"(at most {MEAN_SHIFT}): the guide is off centre. Run more steps, or {_remedy(tree)}.",
            )
        )
    if not 1.0 / SD_RATIO < largest_ratio[1] < SD_RATIO:
        side = "narrow" if largest_ratio[1] > 1 else "wide"
        findings.append(
            Finding(
                "doubtful",
                f"The guide is too {side} in {largest_ratio[0]}: by the importance weights its sd should be "
                f"{largest_ratio[1]:.2f} times as large (within {1 / SD_RATIO:.2f} to {SD_RATIO}). To improve it, "
                f"{_remedy(tree)}.",
            )
        )
    return findings


def _remedy(tree: xr.DataTree) -> str:
    guide = "pf.FullRank" if tree.attrs.get("algorithm") in ("MeanField", "LowRank") else "a flow or a mixture"
    return f"use a richer guide ({guide}), reparameterise the model, or run pf.sample(target, pf.NUTS())"
