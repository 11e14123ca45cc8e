"""Checks on Markov chains: movement, R-hat, ESS, divergences, energy, tree depth."""

from __future__ import annotations

import warnings
from collections.abc import Hashable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from ._arviz import array_stats
from ._tree import flat_names, group, stacked_draws
from ._verdict import Finding

if TYPE_CHECKING:
    import xarray as xr

RHAT_MAX = 1.01
"""Vehtari, Gelman, Simpson, Carpenter, Buerkner 2021, arXiv:1903.08008, sec. 4."""
ESS_PER_CHAIN_MIN = 100
"""Same source: below it R-hat and the Monte Carlo errors are themselves unreliable."""
BFMI_MIN = 0.3
"""Betancourt 2016, arXiv:1604.00695: the momentum is refreshed too slowly for the spread of the energy."""
TREE_DEPTH_SHARE_MAX = 0.05
"""Share of transitions cut off at the largest tree depth; above it the chains explore by diffusion."""
MC_ERROR_MAX = 0.1
KEPT_MIN = 200
"""Draws per chain from which on intervals are judged, where means are judged by figures of all steps."""
CHECKED_MAX = 2000
"""Scalars examined with rank-based statistics; beyond it a cheap screen picks the worst of all."""


def check_mcmc(tree: xr.DataTree) -> tuple[list[Finding], dict[str, Any]]:
    """Check Markov chains.

    ``failed`` means that there are no usable chains: a chain that never moved, or divergences in at least half of the
    transitions. Everything else is ``doubtful``, however large the figure: chains stuck in different modes still tell
    the reader something.
    """
    dataset = group(tree, "unconstrained_posterior")
    names = [label for name in dataset.data_vars for label in flat_names(dataset, str(name))]
    draws = np.concatenate([stacked_draws(dataset, str(name)) for name in dataset.data_vars])
    _, num_chains, num_draws = draws.shape
    details: dict[str, Any] = {"num_chains": num_chains, "num_draws": num_draws, "num_parameters": len(names)}
    findings: list[Finding] = []
    stuck = [chain for chain in range(num_chains) if num_draws > 1 and (np.ptp(draws[:, chain], axis=-1) == 0).all()]
    if stuck:
        findings.append(
            Finding(
                "failed",
                f"Chain(s) {stuck} never moved: every proposal was rejected. Lower the step size or give more warm-up "
                "(num_warmup), and start from a fit.",
            )
        )
    elif "online" in tree.children:
        findings += _check_mixing_online(group(tree, "online"), list(dataset.data_vars), draws, names, details)
    else:
        findings += _check_mixing(draws, names, details)
    findings += _check_transitions(group(tree, "sample_stats"), tree.attrs, details)
    if num_chains < 4:
        findings.append(
            Finding("note", f"{num_chains} chain(s): R-hat and ESS see more with 4 or more (num_chains=4).")
        )
    return findings, details


def _check_mixing(draws: np.ndarray, names: list[str], details: dict[str, Any]) -> list[Finding]:
    if draws.shape[2] < 4:
        return [_too_few(draws.shape[2])]
    labels, rhat, bulk, tail = _chain_figures(draws, names, details)
    findings = _judge_rhat(rhat, labels, RHAT_MAX, details)
    findings += _judge_ess(bulk, labels, "bulk", draws.shape[1], details)
    findings += _judge_ess(tail, labels, "tail", draws.shape[1], details)
    return findings + _judge_error("bulk", draws.shape[1], details)


def _check_mixing_online(
    online: xr.Dataset, sites: list[Hashable], draws: np.ndarray, names: list[str], details: dict[str, Any]
) -> list[Finding]:
    """Means by the figures of all steps; tails, and what the chains' means do not show, by the draws that were kept.

    The figures are of the user's space. Scalars that are constant there (a diagonal of ones) have none.
    """
    _, num_chains, num_draws = draws.shape
    details["num_steps"] = steps = int(online.attrs["num_steps"])
    if steps < 4:
        return [_too_few(steps)]
    figures = {name: online.sel(statistic=name) for name in ("sd", "r_hat", "ess")}
    figured = [str(name) for name, figure in online.data_vars.items() if "statistic" in figure.dims]
    # Not what is computed from the latent sites, where these have the same names in both spaces.
    used = [name for name in figured if name in sites] or figured
    labels = [label for site in used for label in flat_names(figures["sd"], site)]
    sd, rhat, ess = (np.concatenate([np.ravel(figures[f][site].values) for site in used]) for f in figures)
    moving = np.flatnonzero(sd > 0)
    labels = [labels[i] for i in moving]
    findings: list[Finding] = []
    if labels:
        findings += _judge_rhat(rhat[moving], labels, RHAT_MAX, details)
        findings += _judge_ess(ess[moving], labels, "mean", num_chains, details)
        findings += _judge_error("mean", num_chains, details)
    if num_draws < KEPT_MIN:
        few = f"{num_draws} draws per chain were kept, too few for intervals: {KEPT_MIN} or more (max_draws=1000)."
        return [*findings, Finding("note", few)]
    kept: dict[str, Any] = {}
    labels, rhat, _, tail = _chain_figures(draws, names, kept)
    # Chance alone takes the R-hat of few independent draws to about this.
    apart = _judge_rhat(rhat, labels, max(RHAT_MAX, 1.0 + 10.0 / num_draws), kept)
    details["rhat_kept_max"] = kept["rhat_max"]
    findings = findings or apart
    return findings + _judge_ess(tail, labels, "tail", num_chains, details)


def _chain_figures(
    draws: np.ndarray, names: list[str], details: dict[str, Any]
) -> tuple[list[str], np.ndarray, np.ndarray, np.ndarray]:
    """Labels, R-hat, bulk and tail effective sample sizes of all scalars, or of the worst of very many."""
    chosen = np.arange(len(names))
    if len(names) > CHECKED_MAX:
        chosen = _worst_by_screen(draws)
        details["num_checked"] = chosen.size
    subset = draws[chosen]
    with np.errstate(all="ignore"), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        rhat = array_stats().rhat(subset, chain_axis=1, draw_axis=2)
        bulk = array_stats().ess(subset, chain_axis=1, draw_axis=2, method="bulk")
        tail = array_stats().ess(subset, chain_axis=1, draw_axis=2, method="tail", prob=(0.05, 0.95))
    return [names[i] for i in chosen], rhat, bulk, tail


def _too_few(num_draws: int) -> Finding:
    return Finding("doubtful", f"{num_draws} draws per chain are too few for R-hat and ESS (at least 4). Draw more.")


def _judge_rhat(rhat: np.ndarray, labels: list[str], allowed: float, details: dict[str, Any]) -> list[Finding]:
    worst = int(np.argmax(np.where(np.isnan(rhat), np.inf, rhat)))
    details.update(rhat_max=float(rhat[worst]), rhat_max_at=labels[worst])
    if rhat[worst] <= allowed:
        return []
    severe = " The chains do not describe one distribution: read them separately." if rhat[worst] > 1.1 else ""
    return [
        Finding(
            "doubtful",
            f"R-hat of {labels[worst]} is {rhat[worst]:.3f} (at most {allowed:.4g}): the chains have not mixed."
            f"{severe} Run longer, give more warm-up, or reparameterise; if the chains sit in separate modes no length "
            "helps.",
        )
    ]


def _judge_ess(
    ess: np.ndarray, labels: list[str], which: str, num_chains: int, details: dict[str, Any]
) -> list[Finding]:
    minimum = ESS_PER_CHAIN_MIN * num_chains
    low = int(np.argmin(np.where(np.isnan(ess), -np.inf, ess)))
    details.update({f"ess_{which}_min": float(ess[low]), f"ess_{which}_min_at": labels[low]})
    if ess[low] >= minimum:
        return []
    return [
        Finding(
            "doubtful",
            f"The {which} effective sample size of {labels[low]} is {ess[low]:.0f} (at least {minimum}, 100 per "
            f"chain): {'intervals' if which == 'tail' else 'means and sds'} are imprecise. Draw about "
            f"{_times_longer(ess[low], minimum)} as many (num_steps), or reparameterise.",
        )
    ]


def _judge_error(which: str, num_chains: int, details: dict[str, Any]) -> list[Finding]:
    ess, where = details[f"ess_{which}_min"], details[f"ess_{which}_min_at"]
    details["mc_error"] = mc_error = 1.0 / np.sqrt(max(ess, 1e-12))
    if not mc_error > MC_ERROR_MAX or not ess >= ESS_PER_CHAIN_MIN * num_chains:
        return []
    return [
        Finding(
            "doubtful",
            f"The Monte Carlo error of the mean of {where} is {mc_error:.2f} posterior sd (at most {MC_ERROR_MAX}). "
            "Draw more (num_steps).",
        )
    ]


def _worst_by_screen(draws: np.ndarray) -> np.ndarray:
    """Pick the scalars with the largest split variance ratio or lag-one autocorrelation: both cost one pass."""
    half = draws.shape[-1] // 2
    split = np.concatenate([draws[..., :half], draws[..., -half:]], axis=1)
    centred = split - split.mean(axis=-1, keepdims=True)
    within = np.maximum((centred**2).mean(axis=(1, 2)), np.finfo(float).tiny)
    between = split.mean(axis=-1).var(axis=-1) / within
    lag_one = (centred[..., 1:] * centred[..., :-1]).mean(axis=(1, 2)) / within
    count = CHECKED_MAX // 2
    return np.unique(np.concatenate([np.argsort(between)[-count:], np.argsort(lag_one)[-count:]]))


def _times_longer(ess: float, minimum: float) -> str:
    return f"{np.ceil(minimum / ess):.0f} times" if ess > 0 and minimum / ess < 1000 else "1,000 times"


def _check_transitions(stats: xr.Dataset, attrs: Mapping[Any, Any], details: dict[str, Any]) -> list[Finding]:
    findings: list[Finding] = []
    if "diverging" in stats:
        count, total = int(stats["diverging"].values.sum()), int(stats["diverging"].size)
        details["divergences"] = count
        if count:
            findings.append(
                Finding(
                    "failed" if 2 * count >= total else "doubtful",
                    f"{count} of {total} transitions diverged (none should): the chains miss a region of high "
                    "curvature and the draws are biased. Raise target_accept (0.95, 0.99), reparameterise "
                    "(non-centred), or warm start from a fit.",
                )
            )
    if "reached_max_treedepth" in stats:
        hit = float(np.mean(stats["reached_max_treedepth"].values.astype(bool)))
    elif "tree_depth" in stats and "max_tree_depth" in attrs:
        hit = float(np.mean(stats["tree_depth"].values >= attrs["max_tree_depth"]))
    else:
        hit = 0.0
    details["max_tree_depth_share"] = hit
    if hit > TREE_DEPTH_SHARE_MAX:
        findings.append(
            Finding(
                "doubtful",
                f"{100 * hit:.0f} % of the transitions hit the largest tree depth (at most "
                f"{100 * TREE_DEPTH_SHARE_MAX:.0f} %): trajectories are cut short. Raise max_tree_depth, use a dense "
                "mass matrix, or rescale the parameters.",
            )
        )
    if "energy" in stats and stats.sizes["draw"] >= 10:
        energy = np.asarray(stats["energy"].values, np.float64)
        spread = energy.var(axis=1, ddof=1)
        if (spread > 0).all():
            bfmi = (np.diff(energy, axis=1) ** 2).mean(axis=1) / spread
            details["bfmi_min"] = float(bfmi.min())
            if bfmi.min() < BFMI_MIN:
                findings.append(
                    Finding(
                        "doubtful",
                        f"E-BFMI is {bfmi.min():.2f} in chain {int(bfmi.argmin())} (at least {BFMI_MIN}): the sampler "
                        "crosses the energy levels too slowly, which heavy tails cause. Reparameterise (non-centred) "
                        "or run longer.",
                    )
                )
    if "acceptance_rate" in stats:
        details["acceptance_rate"] = float(stats["acceptance_rate"].values.mean())
    return findings
