"""Fits side by side: predictive accuracy, and how far their posteriors are apart."""

from __future__ import annotations

import dataclasses
import itertools
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from ._arviz import arviz_plots, arviz_stats
from ._loo import choose_site
from ._posterior import Posterior
from ._sinkhorn_distance import sinkhorn_distance
from ._tree import flat_names, group, stacked_draws

if TYPE_CHECKING:
    import pandas as pd
    import xarray as xr

Distance = Callable[[np.ndarray, np.ndarray], Any]


@dataclasses.dataclass(frozen=True, repr=False)
class Comparison:
    """What `compare` returns."""

    table: pd.DataFrame
    """One row per fit, best expected predictive accuracy first: rank, elpd, se, p, delta, delta_se, weight,
    pareto_k_bad, verdict (and distance)."""
    differences: pd.DataFrame
    """One row per scalar and fit against the reference: mean, sd, ``mean_difference`` in its sds, ``sd_ratio``."""
    reference: str
    loo: dict[str, Any]
    """The ``arviz_stats`` ELPDData of each fit that has one."""

    def __repr__(self) -> str:
        worst = self.differences.loc[
            self.differences.groupby("fit", sort=False)["mean_difference"].apply(_index_of_largest)
        ]
        parts = [self.table.to_string(float_format=lambda v: f"{v:.3g}")]
        if len(worst):
            parts.append(f"largest difference of means from {self.reference}, in its sds:")
            parts.append(worst.to_string(index=False, float_format=lambda v: f"{v:.3g}"))
        return "\n".join(parts)

    def _repr_html_(self) -> str:
        return self.table.to_html(float_format=lambda v: f"{v:.3g}", border=0)

    def plot(self, **kwargs: Any) -> Any:
        """Plot the expected log predictive densities with arviz-plots (extra ``plots``).

        Raises:
            ImportError: naming the extra. ValueError: if fewer than two fits have an elpd.
        """
        if len(self.loo) < 2:
            raise ValueError("The plot compares expected log predictive densities, and fewer than two fits have one.")
        return arviz_plots().plot_compare(arviz_stats().compare(self.loo), **kwargs)


def compare(
    posteriors: Sequence[Posterior] | Mapping[str, Posterior],
    *,
    site: str | None = None,
    reference: str | None = None,
    distance: Distance | Literal["sinkhorn"] | None = None,
) -> Comparison:
    """Compare fits of the same data: of one model by several methods, or of several models.

    Args:
        posteriors: at least two fits, best with names.
        site: the observed site to score by PSIS-LOO; needed when there are several.
        reference: name of the fit that the others are measured against; the first one by default.
        distance: ``distance(x, y)`` of two clouds of unconstrained draws (draws, dimension), standardised by the
            reference; adds a column ``distance`` for fits with the reference's parameters. "sinkhorn" stands for
            `sinkhorn_distance`: for a shift of all parameters by v sds it is the length of v.

    Returns:
        Tables of predictive accuracy (weights by stacking, arXiv:1704.02030) and of posterior differences.

    Raises:
        ValueError: for fewer than two fits, clashing names, an unknown reference, or fits of different data.
    """
    import pandas as pd

    fits = _named(posteriors)
    reference = next(iter(fits)) if reference is None else reference
    if reference not in fits:
        raise ValueError(f"reference must be one of {list(fits)}, got {reference!r}.")
    if isinstance(distance, str):
        if distance != "sinkhorn":
            raise ValueError(f"distance={distance!r}: expected 'sinkhorn' or a function of two arrays of draws.")
        distance = sinkhorn_distance
    _check_same_data(fits)
    scores = _scores(fits, site)
    rows = pd.DataFrame(index=pd.Index(list(fits), name="fit"))
    for column in ("elpd", "se", "p", "delta", "delta_se", "weight", "pareto_k_bad"):
        rows[column] = np.nan
    if scores:
        best = max(scores, key=lambda name: float(scores[name].elpd))
        weights = _stacking_weights(scores)
        for name, score in scores.items():
            gap = np.asarray(scores[best].elpd_i).ravel() - np.asarray(score.elpd_i).ravel()
            bad = int(np.sum(np.asarray(score.pareto_k) > score.good_k))
            values = [score.elpd, score.se, score.p, gap.sum(), np.sqrt(gap.size * gap.var()), weights[name], bad]
            rows.loc[name, list(rows.columns)] = [float(value) for value in values]
    rows["verdict"] = [fit.verdict.status for fit in fits.values()]
    if distance is not None:
        rows["distance"] = [_distance(fits[reference], fit, distance) for fit in fits.values()]
    rows = rows.sort_values("elpd", ascending=False, kind="stable")
    rows.insert(0, "rank", np.arange(len(rows)))
    return Comparison(rows, _differences(fits, reference), reference, scores)


def _named(posteriors: Sequence[Posterior] | Mapping[str, Posterior]) -> dict[str, Posterior]:
    if isinstance(posteriors, Mapping):
        fits = dict(posteriors)
    else:
        listed = list(posteriors)
        labels = [str(fit.data.attrs.get("algorithm")) if isinstance(fit, Posterior) else "?" for fit in listed]
        clash = {label for label in labels if labels.count(label) > 1}
        fits = {
            f"{label} {i}" if label in clash else label: fit
            for i, (label, fit) in enumerate(zip(labels, listed, strict=True))
        }
    wrong = [type(fit).__name__ for fit in fits.values() if not isinstance(fit, Posterior)]
    if wrong or len(fits) < 2:
        raise ValueError(
            f"compare needs at least two posteriors, got {len(fits)} "
            f"object(s){f' of types {wrong}' if wrong else ''}. Pass a list, or a dict of names and posteriors."
        )
    return fits


def _check_same_data(fits: dict[str, Posterior]) -> None:
    for (name, fit), (other_name, other) in itertools.pairwise(fits.items()):
        a, b = (group(f.data, "observed_data").data_vars for f in (fit, other))
        if not a or not b:
            continue
        same = set(a) == set(b) and all(
            a[site].shape == b[site].shape
            and np.array_equal(a[site].values, b[site].values, equal_nan=a[site].dtype.kind == "f")
            for site in a
        )
        if not same:
            shapes = [{site: v.shape for site, v in data.items()} for data in (a, b)]
            raise ValueError(
                f"'{name}' and '{other_name}' were fitted to different data (observed sites {shapes[0]} and "
                f"{shapes[1]}), so neither their predictive accuracies nor their posteriors can be compared. Fit them "
                "to the same data, under the same site names."
            )


def _scores(fits: dict[str, Posterior], site: str | None) -> dict[str, Any]:
    scored = {name: fit for name, fit in fits.items() if fit.kind != "point" and "observed_data" in fit.data.children}
    with warnings.catch_warnings():
        # What these warn of is the column pareto_k_bad.
        warnings.filterwarnings("ignore", message="Estimated shape parameter of Pareto distribution")
        return {
            name: fit.loo(choose_site([str(v) for v in group(fit.data, "observed_data")], site))
            for name, fit in scored.items()
        }


def _stacking_weights(scores: dict[str, Any]) -> dict[str, float]:
    if len(scores) < 2:
        return dict.fromkeys(scores, 1.0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        table = arviz_stats().compare(scores, method="stacking")
    return {name: float(table.loc[name, "weight"]) for name in scores}


def _differences(fits: dict[str, Posterior], reference: str) -> pd.DataFrame:
    import pandas as pd

    base = group(fits[reference].data, "posterior")
    records = []
    for name in base.data_vars:
        draws = stacked_draws(base, str(name))
        mean, sd = draws.mean(axis=(1, 2)), draws.std(axis=(1, 2))
        labels = flat_names(base, str(name))
        for fit_name, fit in fits.items():
            dataset = group(fit.data, "posterior")
            if fit_name == reference or name not in dataset or dataset[name].shape[2:] != base[name].shape[2:]:
                continue
            other = stacked_draws(dataset, str(name))
            for i, label in enumerate(labels):
                m, s = float(other[i].mean()), float(other[i].std())
                difference = (m - mean[i]) / sd[i] if sd[i] > 0 else (0.0 if m == mean[i] else np.nan)
                records.append((fit_name, label, m, s, difference, s / sd[i] if sd[i] > 0 else np.nan))
    return pd.DataFrame(records, columns=["fit", "parameter", "mean", "sd", "mean_difference", "sd_ratio"])


def _distance(reference: Posterior, other: Posterior, distance: Distance) -> float:
    a, b = (group(fit.data, "unconstrained_posterior") for fit in (reference, other))
    if {n: v.shape[2:] for n, v in a.data_vars.items()} != {n: v.shape[2:] for n, v in b.data_vars.items()}:
        return float("nan")
    x, y = (_cloud(dataset, [str(name) for name in a.data_vars]) for dataset in (a, b))
    centre, scale = x.mean(axis=0), x.std(axis=0)
    scale = np.where(scale > 0, scale, 1.0)
    return float(distance((x - centre) / scale, (y - centre) / scale))


def _cloud(dataset: xr.Dataset, names: list[str]) -> np.ndarray:
    num_draws = dataset.sizes["chain"] * dataset.sizes["draw"]
    return np.concatenate([stacked_draws(dataset, name).reshape(-1, num_draws) for name in names]).T


def _index_of_largest(values: pd.Series) -> Any:
    return values.abs().fillna(0.0).idxmax()
