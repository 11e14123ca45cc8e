"""How a result looks: in a terminal, in a notebook, and as a plot."""

from __future__ import annotations

import html
from typing import TYPE_CHECKING, Any

from ._arviz import arviz_plots, pyplot
from ._summary import check_sites, summarise
from ._tree import group

if TYPE_CHECKING:
    import pandas as pd

    from ._posterior import Posterior

MAX_ROWS = 12

_PLOTS = {
    "dist": "plot_dist",
    "trace": "plot_trace",
    "rank": "plot_rank",
    "pair": "plot_pair",
    "forest": "plot_forest",
    "energy": "plot_energy",
    "predictive": "plot_ppc_dist",
}


def as_text(posterior: Posterior) -> str:
    """Table of the first scalars, then the verdict."""
    table = _short_table(posterior)
    lines = [_headline(posterior)]
    if len(table):
        lines.append(table.to_string(float_format=_number))
    hidden = _num_scalars(posterior) - len(table)
    if hidden > 0:
        lines.append(f"... {hidden} more: .summary()")
    lines.append(str(posterior.verdict))
    return "\n".join(lines)


def as_html(posterior: Posterior) -> str:
    """The same for notebooks."""
    table = _short_table(posterior)
    verdict = posterior.verdict
    colour = {"ok": "#2e7d32", "doubtful": "#b26a00", "failed": "#c62828"}[verdict.status]
    hidden = _num_scalars(posterior) - len(table)
    parts = [
        f"<div><b>{html.escape(_headline(posterior))}</b>",
        table.to_html(float_format=_number, border=0) if len(table) else "",
        f"<p>... {hidden} more: <code>.summary()</code></p>" if hidden > 0 else "",
        f'<p>verdict: <b style="color:{colour}">{verdict.status}</b></p>',
        "<ul>" + "".join(f"<li>{html.escape(reason)}</li>" for reason in verdict.reasons) + "</ul></div>",
    ]
    return "".join(parts)


def plot(posterior: Posterior, kind: str = "auto", **kwargs: Any) -> Any:
    """Draw a result with arviz-plots; see `Posterior.plot`."""
    if kind == "auto":
        kind = "trace" if posterior.kind == "mcmc" else "dist"
    if kind == "loss":
        return _plot_loss(posterior)
    if kind not in _PLOTS:
        raise ValueError(f"Unknown kind of plot {kind!r}: expected 'auto', 'loss' or one of {sorted(_PLOTS)}.")
    if kind in ("trace", "rank", "energy") and posterior.kind != "mcmc":
        raise ValueError(
            f"plot(kind={kind!r}) shows how Markov chains mix, and this is a {posterior.kind} result. Use "
            "kind='dist', 'pair' or 'loss'."
        )
    if kind == "predictive" and "posterior_predictive" not in posterior.data.children:
        raise ValueError("plot(kind='predictive') needs posterior predictive draws: call .predict(key) first.")
    if "var_names" in kwargs and kind != "predictive":
        kwargs["var_names"] = check_sites(posterior.data["posterior"].to_dataset(), kwargs["var_names"])
    if kind == "predictive":
        sizes = posterior.data["posterior_predictive"].sizes
        kwargs.setdefault("num_samples", min(100, sizes["chain"] * sizes["draw"]))
    return getattr(arviz_plots(), _PLOTS[kind])(posterior.data, **kwargs)


def _plot_loss(posterior: Posterior) -> Any:
    record = group(posterior.data, "optimization")
    if "loss" not in record:
        raise ValueError(
            f"plot(kind='loss') needs the record of an optimisation; this {posterior.kind} result has none."
        )
    loss = record["loss"]
    figure, axes = pyplot().subplots()
    steps = loss.dims[-1]
    for line in loss.values.reshape(-1, loss.sizes[steps]):
        axes.plot(loss[steps].values if steps in loss.coords else range(len(line)), line, linewidth=0.8)
    axes.set(xlabel=str(steps), ylabel="loss (nats)")
    # The first steps of an optimisation are often orders of magnitude above the rest.
    axes.set_yscale("symlog", linthresh=max(1.0, float(abs(loss[..., -1]).max())))
    return figure


def _headline(posterior: Posterior) -> str:
    attrs = posterior.data.attrs
    sizes = posterior.data["posterior"].sizes
    evidence = ""
    if "log_evidence" in attrs:
        evidence = f", log evidence {attrs['log_evidence']:.4g} (se {attrs['log_evidence_error']:.2g})"
    return (
        f"Posterior of {attrs.get('model', 'a model')}: {attrs.get('algorithm', '?')} ({posterior.kind}), "
        f"{sizes['chain']} chain{'s' if sizes['chain'] > 1 else ''} x {sizes['draw']} draws, "
        f"{attrs.get('dtype', '?')}{evidence}"
    )


def _short_table(posterior: Posterior) -> pd.DataFrame:
    return summarise(posterior.data, max_rows=MAX_ROWS)


def _num_scalars(posterior: Posterior) -> int:
    sizes = posterior.data["posterior"].sizes
    draws = sizes["chain"] * sizes["draw"]
    return sum(variable.size // draws for variable in posterior.data["posterior"].data_vars.values())


def _number(value: float) -> str:
    return f"{value:.0f}" if abs(value) >= 1e4 else f"{value:.3g}"
