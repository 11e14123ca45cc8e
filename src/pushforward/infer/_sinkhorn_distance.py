"""Distance of two sets of samples by entropic transport."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..samplers._checks import check_positive
from ._sample_distances import paired_points
from ._sample_sets import Discrepancy

_POINTS = 1000
_BLUR = 0.1


def sinkhorn_distance(
    first: Any, second: Any, *, epsilon: float | None = None, max_points: int | None = _POINTS
) -> Discrepancy:
    """Square root of the debiased Sinkhorn divergence for squared Euclidean costs, in units of the positions.

    Between the 2-Wasserstein distance (small epsilon) and the distance of the means (large epsilon): for a shift it is
    the length of the shift, whatever epsilon.

    Args:
        first: a `Posterior` (its positions on unconstrained space) or an array (n, d).
        second: another of the same dimension.
        epsilon: regularisation, in squared units of the positions; by default a tenth of the total variance of both
            sets together.
        max_points: each set is thinned to at most so many; None for all.

    Returns:
        A `Discrepancy`. Its ``value`` is of the sets, so that two samples of one distribution are some distance apart,
        less the larger epsilon is; ``unbiased`` is the divergence itself.

    Raises:
        ValueError: for sets of different dimension, or a transport problem that was not solved.

    Cost: three transport problems, O(n m d) for each of some tens of passes. Reference: Feydy et al., arXiv:1810.08278,
    eq. 3.
    """
    x, y = paired_points(first, second, max_points)
    if epsilon is None:
        epsilon = _BLUR * float(np.sum(np.var(np.concatenate([x, y]), axis=0)))
        if epsilon == 0:
            raise ValueError(
                "All points of both sets agree: pass an epsilon, as the default is a share of their variance."
            )
    epsilon = float(check_positive("epsilon", epsilon, unit="squared units of the positions"))
    # Loaded on use: most sessions need no transport.
    from ..samplers.transport import sinkhorn_divergence

    found = sinkhorn_divergence(x, y, epsilon=epsilon)
    if not bool(found.converged):
        raise ValueError(
            f"The transport problems at epsilon={epsilon:.3g} did not reach their tolerance: pass a larger epsilon."
        )
    return Discrepancy(max(float(found.value), 0.0) ** 0.5, float(found.value), None, (x.shape[0], y.shape[0]))
