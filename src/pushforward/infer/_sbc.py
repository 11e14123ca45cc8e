"""Simulation-based calibration: does an inference recover the parameters that generated its data."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import equinox as eqx
import jax
import numpy as np

from ..models._types import Key, Position, Values
from ._arviz import pyplot
from ._posterior import Posterior
from ._predict import check_key
from ._tree import clean_name, flat_names, group, stacked_draws

if TYPE_CHECKING:
    import pandas as pd

    from ..models import Target

Infer = Callable[["Target", Key], Posterior]

_LOG_DENSITY = "log density"
_NULL_SIMULATIONS = 4000


@dataclasses.dataclass(frozen=True, repr=False)
class Calibration:
    """What `sbc` returns."""

    ranks: pd.DataFrame
    """Rank of the true value among the draws, 0 to ``num_draws``: one row per simulation, one column per scalar."""
    table: pd.DataFrame
    """Per scalar: ``p_value`` of uniform ranks (simultaneous over the whole ECDF), ``p_adjusted`` (Holm, over the
    scalars), ``mean_rank`` (0.5 when unbiased), ``rank_spread`` (1 when the width is right, more when too narrow)."""
    num_draws: int
    """Draws that each true value was ranked among."""
    verdicts: dict[str, int]
    """How many of the fits were ok, doubtful and failed."""

    @property
    def calibrated(self) -> bool:
        """Whether no scalar is rejected at a family-wise level of 5 %."""
        return bool((self.table["p_adjusted"] > 0.05).all())

    def __repr__(self) -> str:
        worst = self.table.sort_values("p_value").head(12)
        verdicts = ", ".join(f"{count} {status}" for status, count in self.verdicts.items())
        conclusion = "no deviation found" if self.calibrated else "NOT calibrated (family-wise 5 %)"
        return "\n".join(
            [
                f"Calibration over {len(self.ranks)} simulations, {self.num_draws} draws each ({verdicts}): "
                f"{conclusion}",
                worst.to_string(float_format=lambda value: f"{value:.3g}"),
            ]
        )

    def plot(self, sites: Sequence[str] | None = None) -> Any:
        """Plot ECDF minus uniform of the ranks with the simultaneous 95 % envelope (extra ``plots``).

        Args:
            sites: columns of ``ranks``; None shows the nine with the smallest p-values.

        Raises:
            ImportError: naming the extra.
        """
        chosen = self.table.sort_values("p_value").index[:9].astype(str).tolist() if sites is None else list(sites)
        grid = np.arange(1, self.num_draws + 1) / (self.num_draws + 1)
        low, high = envelope(len(self.ranks), self.num_draws, np.random.default_rng(0))
        columns = min(3, len(chosen))
        rows = -(-len(chosen) // columns)
        figure, axes = pyplot().subplots(rows, columns, squeeze=False, figsize=(3.2 * columns, 2.4 * rows), sharex=True)
        for axis, name in zip(axes.flat, chosen, strict=False):
            counts = _counts_below(self.ranks[name].to_numpy(), self.num_draws)
            axis.fill_between(grid, low - grid, high - grid, alpha=0.3, linewidth=0)
            axis.step(grid, counts / len(self.ranks) - grid, where="post")
            axis.set_title(f"{name} (p = {self.table.loc[name, 'p_value']:.2g})", fontsize=9)
        for axis in axes.flat[len(chosen) :]:
            axis.set_axis_off()
        figure.supylabel("ECDF of ranks - uniform", fontsize=9)
        figure.tight_layout()
        return figure


def sbc(
    target: Target,
    infer: Infer,
    *,
    key: Key,
    num_simulations: int = 100,
    num_draws: int = 100,
    sites: Sequence[str] | str | None = None,
) -> Calibration:
    """Check an inference by simulation-based calibration.

    Parameters and data are drawn from the model, the inference runs on the simulated data, and the true value of each
    scalar is ranked among posterior draws. For an exact inference the ranks are uniform. The log-density is ranked too:
    it sees an inference that ignores the data, which no parameter alone reveals (arXiv:2211.02383).

    Args:
        target: a target with proper priors and observed sites; their data only gives the shapes.
        infer: ``infer(target, key) -> Posterior``, for example ``lambda t, k: pf.fit(t, pf.FullRank, key=k)``.
        key: a typed key.
        num_simulations: how many data sets; 100 find gross errors, 1,000 a bias of a tenth of a posterior sd.
        num_draws: evenly spaced posterior draws to rank among. For Markov chains choose at most the effective sample
            size: correlated draws make the ranks look miscalibrated.
        sites: latent sites to rank; None takes all.

    Returns:
        Ranks, a table of p-values, and a plot.

    Raises:
        ValueError: for bad counts, a model that observes nothing or has an improper prior, or an ``infer`` that returns
            too few draws or no posterior.

    Cost: ``num_simulations`` runs of ``infer``.

    Reference: Talts et al. 2018, arXiv:1804.06788; p-values by the simultaneous ECDF envelope of Saeilynoja, Buerkner,
        Vehtari 2022, arXiv:2103.10522.
    """
    import pandas as pd

    check_key(key)
    for name, count, least in (("num_simulations", num_simulations, 10), ("num_draws", num_draws, 10)):
        if isinstance(count, bool) or not isinstance(count, int) or count < least:
            raise ValueError(f"{name} must be an integer of at least {least}, got {count!r}.")
    observed = [site.name for site in target.program.sites if site.kind == "observed"]
    if not observed:
        raise ValueError(
            f"{target.program.source} has no observed site, so there is no data to simulate. SBC needs a model with "
            "data: pass the observations, whose shapes are used."
        )
    latents = _latents(target, sites)
    rows: list[dict[str, int]] = []
    verdicts = {"ok": 0, "doubtful": 0, "failed": 0}
    for index in range(num_simulations):
        prior_key, infer_key, tie_key = jax.random.split(jax.random.fold_in(key, index), 3)
        truth = _draw_prior(target, prior_key)
        simulated = target.condition({name: truth[name] for name in observed})
        posterior = infer(simulated, infer_key)
        if not isinstance(posterior, Posterior):
            raise ValueError(f"infer must return a Posterior, got {type(posterior).__name__}.")
        verdicts[posterior.verdict.status] += 1
        ties = np.random.default_rng(np.asarray(jax.random.key_data(tie_key)))
        rows.append(_ranks(simulated, posterior, truth, latents, num_draws, ties))
    ranks = pd.DataFrame(rows)
    null = np.random.default_rng(np.asarray(jax.random.key_data(jax.random.fold_in(key, num_simulations))))
    return Calibration(ranks, _table(ranks, num_draws, null), num_draws, verdicts)


def envelope(num_ranks: int, num_draws: int, rng: np.random.Generator, level: float = 0.95) -> tuple[Any, Any]:
    """Simultaneous band of the ECDF of uniform ranks at i / (num_draws + 1), i = 1, ..., num_draws."""
    from scipy.stats import binom

    gamma = np.quantile(_null(num_ranks, num_draws, rng), 1 - level)
    grid = np.arange(1, num_draws + 1) / (num_draws + 1)
    return binom.ppf(gamma / 2, num_ranks, grid) / num_ranks, binom.isf(gamma / 2, num_ranks, grid) / num_ranks


def _latents(target: Target, sites: Sequence[str] | str | None) -> list[str]:
    known = [site.name for site in target.program.sites if site.kind == "latent"]
    wanted = known if sites is None else [sites] if isinstance(sites, str) else list(sites)
    unknown = [name for name in wanted if name not in known]
    if unknown:
        raise ValueError(f"Unknown latent site(s) {unknown}: this model has {known}.")
    return wanted


def _ranks(
    target: Target, posterior: Posterior, truth: Values, latents: list[str], num_draws: int, ties: np.random.Generator
) -> dict[str, int]:
    dataset = group(posterior.data, "posterior")
    available = dataset.sizes["chain"] * dataset.sizes["draw"]
    if available < num_draws:
        raise ValueError(
            f"infer returned {available} draws, and the true values are to be ranked among {num_draws}. Draw more, or "
            "lower num_draws."
        )
    chosen = np.linspace(0, available - 1, num_draws).round().astype(int)
    out: dict[str, int] = {}
    for site in latents:
        name = clean_name(site)
        draws = stacked_draws(dataset, name).reshape(-1, available)[:, chosen]
        true = np.asarray(truth[site], np.float64).reshape(-1)
        for label, value, column in zip(flat_names(dataset, name), true, draws, strict=True):
            # Structural constants, such as the zeros of a Cholesky factor, have no rank.
            if np.ptp(column) > 0 or column[0] != value:
                out[label] = _rank(value, column, ties)
    if posterior.kind != "point":
        position = target.unconstrain({name: truth[name] for name in _latents(target, None)})
        lp = group(posterior.data, "sample_stats")["lp"].values.reshape(-1)[chosen]
        out[_LOG_DENSITY] = _rank(float(_log_density(target, position)), lp, ties)
    return out


@eqx.filter_jit
def _draw_prior(target: Target, key: Key) -> Values:
    return target.prior(key)


@eqx.filter_jit
def _log_density(target: Target, position: Position) -> jax.Array:
    return target.logdensity(position)


def _rank(value: float, draws: np.ndarray, ties: np.random.Generator) -> int:
    """Number of draws below the value; equal ones are counted at random, which keeps the rank uniform."""
    return int((draws < value).sum() + ties.integers(0, (draws == value).sum(), endpoint=True))


def _table(ranks: pd.DataFrame, num_draws: int, rng: np.random.Generator) -> pd.DataFrame:
    import pandas as pd

    num_ranks = len(ranks)
    null = _null(num_ranks, num_draws, rng)
    records = []
    for name in ranks.columns:
        values = ranks[name].to_numpy()
        statistic = _statistic(_counts_below(values, num_draws)[None], num_ranks, num_draws)[0]
        p_value = (1 + np.sum(null <= statistic * (1 + 1e-12))) / (1 + null.size)
        scaled = (values + 0.5) / (num_draws + 1)
        records.append((p_value, scaled.mean(), np.sqrt(12 * np.mean((scaled - 0.5) ** 2))))
    table = pd.DataFrame(records, index=ranks.columns, columns=["p_value", "mean_rank", "rank_spread"])
    # Holm 1979: the k-th smallest p-value is multiplied by the number of those at least as large.
    order = np.argsort(table["p_value"].to_numpy(), kind="stable")
    scaled = table["p_value"].to_numpy()[order] * np.arange(len(order), 0, -1)
    adjusted = np.empty(len(order))
    adjusted[order] = np.minimum(np.maximum.accumulate(scaled), 1.0)
    table.insert(1, "p_adjusted", adjusted)
    return table


def _counts_below(ranks: np.ndarray, num_draws: int) -> np.ndarray:
    """Number of ranks below i, for i = 1, ..., num_draws."""
    return np.cumsum(np.bincount(ranks, minlength=num_draws + 1))[:num_draws]


def _statistic(counts: np.ndarray, num_ranks: int, num_draws: int) -> np.ndarray:
    """Smallest two-sided binomial tail probability along each ECDF (arXiv:2103.10522, eq. 7)."""
    from scipy.stats import binom

    grid = np.arange(1, num_draws + 1) / (num_draws + 1)
    support = np.arange(-1, num_ranks + 1)[:, None]
    # Looked up in a table: the same few thousand probabilities serve all simulations.
    below = binom.cdf(support, num_ranks, grid)
    columns = np.arange(num_draws)
    lower = below[counts + 1, columns]
    upper = 1.0 - below[counts, columns]
    return 2.0 * np.minimum(lower, upper).min(axis=-1)


def _null(num_ranks: int, num_draws: int, rng: np.random.Generator) -> np.ndarray:
    """The statistic of uniform ranks, simulated."""
    counts = np.stack(
        [_counts_below(rng.integers(0, num_draws + 1, num_ranks), num_draws) for _ in range(_NULL_SIMULATIONS)]
    )
    return _statistic(counts, num_ranks, num_draws)
