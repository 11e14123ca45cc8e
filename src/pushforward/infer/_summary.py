"""Tables of posterior moments, intervals and Monte Carlo errors."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from ._arviz import array_stats
from ._tree import clean_name, draw_blocks

if TYPE_CHECKING:
    import pandas as pd
    import xarray as xr


def summarise(
    tree: xr.DataTree,
    var_names: Sequence[str] | str | None = None,
    *,
    ci: float = 0.9,
    diagnostics: bool | None = None,
    max_rows: int | None = None,
) -> pd.DataFrame:
    """Summarise the posterior group.

    Args:
        tree: a result.
        var_names: sites to show; None shows all.
        ci: probability of the equal-tailed interval.
        diagnostics: columns ``ess_bulk``, ``ess_tail``, ``r_hat``; None shows them where they mean something.
        max_rows: stop after that many scalars.

    Raises:
        ValueError: for an unknown site, a ``ci`` outside (0, 1), or diagnostics of draws that are not Markov chains.
    """
    import pandas as pd

    if not 0.0 < ci < 1.0:
        raise ValueError(f"ci must be a probability strictly between 0 and 1, got {ci}.")
    kind = tree.attrs["sampler_kind"]
    if diagnostics is None:
        diagnostics = kind == "mcmc"
    elif diagnostics:
        require_chains(kind)
    dataset = tree["posterior"].to_dataset()
    names = check_sites(dataset, var_names)
    columns: dict[str, list[np.ndarray]] = {}
    labels: list[str] = []
    for name in names:
        room = None if max_rows is None else max_rows - len(labels)
        if room is not None and room <= 0:
            break
        for block, draws in draw_blocks(dataset, name, room):
            labels += block
            for column, values in _columns(draws, kind, ci, diagnostics=diagnostics).items():
                columns.setdefault(column, []).append(np.asarray(values, np.float64))
    return pd.DataFrame({name: np.concatenate(parts) for name, parts in columns.items()}, index=labels)


def check_sites(dataset: xr.Dataset, var_names: Sequence[str] | str | None) -> list[str]:
    """Return the variables to use, refusing unknown ones."""
    known = [str(name) for name in dataset.data_vars]
    if var_names is None:
        return known
    wanted = [clean_name(name) for name in ([var_names] if isinstance(var_names, str) else var_names)]
    unknown = [name for name in wanted if name not in known]
    if unknown:
        raise ValueError(f"Unknown site(s) {unknown}: this posterior has {known}.")
    return wanted


def require_chains(kind: str) -> None:
    """Refuse R-hat and ESS where they would be meaningless.

    Raises:
        ValueError: if the draws are not Markov chains.
    """
    if kind == "mcmc":
        return
    why = {
        "variational": "draws of a guide are independent, so R-hat is 1 and ESS their number for any guide",
        "particles": "interacting particles are not a Markov chain in the draw axis",
        "point": "a point estimate has no draws",
    }[kind]
    raise ValueError(
        f"R-hat and ESS are refused for a {kind} result: {why}. Use .diagnose(), which checks what can be wrong with "
        "it (k-hat, restarts, convergence)."
    )


def chain_statistic(draws: np.ndarray, which: str) -> np.ndarray:
    """Rank-normalised split R-hat (``rhat``) or ESS (``bulk``, ``tail``, ``mean``) of draws (scalars, chain, draw)."""
    if draws.shape[-1] < 4:
        return np.full(draws.shape[0], np.nan)
    with np.errstate(all="ignore"), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if which == "rhat":
            return np.asarray(array_stats().rhat(draws, chain_axis=1, draw_axis=2))
        prob = (0.05, 0.95) if which == "tail" else None
        return np.asarray(array_stats().ess(draws, chain_axis=1, draw_axis=2, method=which, prob=prob))


def _columns(draws: np.ndarray, kind: str, ci: float, *, diagnostics: bool) -> dict[str, np.ndarray]:
    flat = draws.reshape(draws.shape[0], -1)
    low, high = np.quantile(flat, [(1 - ci) / 2, (1 + ci) / 2], axis=1)
    sd = flat.std(axis=1, ddof=1) if flat.shape[1] > 1 else np.zeros(len(flat))
    columns = {"mean": flat.mean(axis=1), "sd": sd, f"{50 * (1 - ci):g}%": low, f"{50 * (1 + ci):g}%": high}
    if kind == "mcmc":
        columns.update(_chain_columns(draws, sd, diagnostics=diagnostics))
    elif kind == "variational":
        # Draws of a guide are independent: the plain standard error is exact.
        columns["mcse_mean"] = sd / np.sqrt(flat.shape[1])
    return columns


def _chain_columns(draws: np.ndarray, sd: np.ndarray, *, diagnostics: bool) -> dict[str, np.ndarray]:
    ess_mean = chain_statistic(draws, "mean")
    columns = {"mcse_mean": sd / np.sqrt(ess_mean)}
    if diagnostics:
        columns["ess_bulk"] = chain_statistic(draws, "bulk")
        columns["ess_tail"] = chain_statistic(draws, "tail")
        columns["r_hat"] = chain_statistic(draws, "rhat")
        # A constant (the diagonal of a correlation matrix) has no R-hat; arviz reports full ESS for it.
        constant = np.ptp(draws.reshape(draws.shape[0], -1), axis=1) == 0
        for values in columns.values():
            values[constant] = np.nan
    return columns
