"""The bound on gradient second moments under which stochastic optimisation is known to converge, fitted."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import pandas as pd

_LEAST_PLACES = 4


def fit_bound(table: pd.DataFrame) -> pd.DataFrame:
    """Constants of the tightest bound over the places of a comparison's table, one row per estimator and K.

    The second moments span orders of magnitude, so "tightest" is in ratio: sum of (A x + B y + C) / m over the places
    with second moment m, subject to a bound that holds at each and A, B, C >= 0: a linear programme.

    Raises:
        ValueError: with fewer than four places.
    """
    import pandas as pd
    from scipy.optimize import linprog  # slow to import, needed only here

    if table["at"].nunique() < _LEAST_PLACES:
        raise ValueError(
            f"The bound has three constants and the table {table['at'].nunique()} place(s): expected at least "
            f"{_LEAST_PLACES}. Measure with compare_estimators(..., at='path')."
        )
    records = []
    for (name, count), rows in table.groupby(["estimator", "num_particles"], sort=False):
        least = table["loss"][table["num_particles"] == count].min()
        gap = np.maximum(rows["loss"].to_numpy(float) - least, 0.0)
        slope = rows["gradient_norm"].to_numpy(float) ** 2
        moment = rows["variance"].to_numpy(float) + slope
        keep = np.isfinite(gap + moment) & (moment > 0)
        design = np.stack([gap, slope, np.ones_like(gap)], 1)[keep] / moment[keep, None]
        # Columns of one size: the solver's tolerances are absolute.
        scale = np.where(design.max(0) > 0, design.max(0), 1.0)
        solved = linprog((design / scale).sum(0), A_ub=-design / scale, b_ub=-np.ones(len(design)), method="highs")
        constants = solved.x / scale
        records.append((name, count, *constants, float((design @ constants).mean())))
    return pd.DataFrame(records, columns=["estimator", "num_particles", "A", "B", "C", "slack"])
