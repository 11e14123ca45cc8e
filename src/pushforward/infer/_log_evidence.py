"""The evidence that independent clouds have estimated, as one number."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np


def pooled_evidence(outcome: Mapping[str, np.ndarray]) -> dict[str, float]:
    """Attributes ``log_evidence`` and ``log_evidence_error`` of a result; none where no evidence was estimated.

    Estimates are averaged before the logarithm is taken: the mean of unbiased estimates of the evidence is unbiased.

    Args:
        outcome: ``log_evidence`` and ``relative_variance`` of the evidence, each of shape (chain,).
    """
    if "log_evidence" not in outcome:
        return {}
    values = np.asarray(outcome["log_evidence"], np.float64)
    highest = values.max()
    share = np.exp(values - highest)
    variance = np.asarray(outcome["relative_variance"], np.float64)
    # Each estimate with its own relative variance, and the clouds' disagreement where there are enough to see it.
    within = np.sqrt(np.sum(share**2 * np.maximum(variance, 0.0))) / np.sum(share)
    between = np.std(share, ddof=1) / np.sqrt(share.size) / np.mean(share) if share.size > 2 else 0.0
    return {
        "log_evidence": float(highest + np.log(np.mean(share))),
        "log_evidence_error": float(max(within, between)),
    }
