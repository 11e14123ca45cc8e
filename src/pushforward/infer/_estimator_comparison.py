"""What `compare_estimators` returns: a table, a recommendation, a plot."""

from __future__ import annotations

import dataclasses
import html
from typing import TYPE_CHECKING, Any

import numpy as np

from ._arviz import pyplot
from ._variance_bound import fit_bound

if TYPE_CHECKING:
    import pandas as pd

FALSE_ALARM = 1e-3
"""Probability that any unbiased estimator of one comparison is called biased."""
_SHOWN = ("estimator", "num_particles", "at", "z", "variance", "snr", "seconds", "evaluations", "variance_x_seconds")


@dataclasses.dataclass(frozen=True, repr=False)
class EstimatorComparison:
    """Measurements of gradient estimators on one model."""

    table: pd.DataFrame
    """One row per estimator, number of particles and place: ``estimator``, ``num_particles``, ``at``, ``z`` (largest
    |z| of the mean gradient against the reference), ``variance`` (trace), ``snr``, ``seconds`` and ``evaluations`` (of
    the log density) per gradient, ``variance_error``, ``variance_x_seconds``, ``variance_x_evaluations``, ``bias``
    (norm), ``p_value`` (of such a z without bias), ``gradient_norm``, ``value``, ``value_error``, ``loss``,
    ``compile_seconds``."""
    blocks: pd.DataFrame
    """The same per block of parameters: ``block``, ``size``, ``z``, ``variance``, ``snr``."""
    objective: str
    model: str
    disagreement: str = ""
    """Which of the library's own estimators disagree and whose word was taken; empty where all agree."""

    @property
    def biased(self) -> dict[str, float]:
        """Estimators whose mean gradient is off, and their largest |z|; at most one false alarm in 1,000 comparisons.

        The p-values are corrected for the parameters of a row and the rows of the table.
        """
        wrong = self.table[self.table["p_value"] < FALSE_ALARM / len(self.table)]
        return {str(name): float(z) for name, z in wrong.groupby("estimator", sort=False)["z"].max().items()}

    @property
    def recommendation(self) -> str:
        """The estimator to use on this model: least variance times time among those that show no bias."""
        sentences = [self.disagreement] if self.disagreement else []
        biased = self.biased
        for name, z in biased.items():
            sentences.append(f"'{name}' is biased: its mean gradient is off by {z:.1f} standard errors.")
        sound = self.table[~self.table["estimator"].isin(biased)]
        if not len(sound):
            return " ".join([*sentences, "No estimator without bias is left: compare with pf.Path() or pf.Reparam()."])
        last = list(dict.fromkeys(self.table["at"]))[-1]
        here = sound[sound["at"] == last]
        first, *others = [self._best(here[here["num_particles"] == k]) for k in dict.fromkeys(here["num_particles"])]
        if any(best["estimator"] != first["estimator"] for best in others):
            for best in (first, *others):
                sentences.append(f"With num_particles={best['num_particles']}: {self._reason(here, best)}")
        else:
            best = (first, *others)[len(others) // 2]
            sentences.append(self._reason(here, best))
        for place in dict.fromkeys(self.table["at"]):
            there = sound[(sound["at"] == place) & (sound["num_particles"] == first["num_particles"])]
            other = self._best(there)
            if place != last and other["estimator"] != first["estimator"]:
                sentences.append(
                    f"At '{place}' '{other['estimator']}' is the better one: gradient='auto' follows what is measured "
                    "along the way."
                )
                break
        return " ".join(sentences)

    def _best(self, rows: pd.DataFrame) -> Any:
        # Equal costs (two estimators without any variance) go to the faster one.
        return rows.sort_values(["variance_x_seconds", "seconds"], kind="stable").iloc[0]

    def _reason(self, rows: pd.DataFrame, best: Any) -> str:
        rivals = rows[(rows["num_particles"] == best["num_particles"]) & (rows["estimator"] != best["estimator"])]
        where = "" if best["at"] == "given" else f" at '{best['at']}'"
        head = f"Use '{best['estimator']}'{where}: variance {best['variance']:.3g} at {_seconds(best['seconds'])}"
        if not len(rivals):
            return f"{head}; nothing else without bias to compare with."
        rival = self._best(rivals)
        if best["variance_x_seconds"] <= 0:
            return f"{head}; '{rival['estimator']}' has variance {rival['variance']:.3g}."
        factor = rival["variance_x_seconds"] / best["variance_x_seconds"]
        return f"{head}, variance x time {factor:.3g} times less than that of '{rival['estimator']}'."

    def bound(self) -> pd.DataFrame:
        """Smallest A, B, C >= 0 with E|g|^2 <= A (F - F*) + B |grad F|^2 + C at every place measured.

        F is the loss and F* its least value measured (at the optimum). How the constants grow with dimension separates
        families: mean-field below full-rank. Measure with ``at="path"``.

        Returns:
            One row per estimator and number of particles: ``A``, ``B``, ``C`` and ``slack`` (mean of bound over
            E|g|^2).

        Raises:
            ValueError: with fewer than four places.

        Reference: Domke et al., arXiv:2306.03638; Kim et al., On the convergence of black-box variational inference,
        arXiv:2305.15349, assumption 4.
        """
        return fit_bound(self.table)

    def plot(self) -> Any:
        """Variance, signal-to-noise and variance x time against the number of particles, or along the way.

        Returns:
            A matplotlib figure (extra ``plots``).
        """
        plt = pyplot()
        table = self.table
        places = list(dict.fromkeys(table["at"]))
        along = len(places) > 1
        axis = "at" if along else "num_particles"
        columns = ("variance", "snr", "variance_x_seconds")
        figure, axes = plt.subplots(1, len(columns), figsize=(4.0 * len(columns), 3.4), layout="constrained")
        for column, panel in zip(columns, axes, strict=True):
            lines = table.groupby(["estimator", "num_particles"] if along else ["estimator"], sort=False)
            for label, rows in lines:
                name = f"{label[0]}, {label[1]}" if along else str(label[0])
                positive = rows[column].where(rows[column] > 0)
                panel.plot(range(len(rows)) if along else rows[axis], positive, marker="o", label=name)
            panel.set_yscale("log")
            panel.set(xlabel="place" if along else "particles", title=_TITLES[column])
            if along:
                panel.set_xticks(range(len(places)), places, rotation=30)
            else:
                panel.set_xscale("log", base=2)
        axes[0].legend()
        figure.suptitle(f"{self.objective} of {self.model}")
        return figure

    def __repr__(self) -> str:
        table = self._short().to_string(index=False, float_format=_number)
        return f"Gradient estimators of the {self.objective} of {self.model}\n{table}\n{self.recommendation}"

    def _repr_html_(self) -> str:
        head = html.escape(f"Gradient estimators of the {self.objective} of {self.model}")
        table = self._short().to_html(index=False, float_format=_number, border=0)
        return f"<div><b>{head}</b>{table}<p>{html.escape(self.recommendation)}</p></div>"

    def _short(self) -> pd.DataFrame:
        shown = self.table[list(_SHOWN)]
        return shown.drop(columns="at") if self.table["at"].nunique() == 1 else shown


_TITLES = {"variance": "variance (trace)", "snr": "signal-to-noise", "variance_x_seconds": "variance x seconds"}


def _number(value: float) -> str:
    return "nan" if np.isnan(value) else f"{value:.3g}"


def _seconds(value: float) -> str:
    unit, scale = ("s", 1.0) if value >= 1 else ("ms", 1e3) if value >= 1e-3 else ("us", 1e6)
    return f"{value * scale:.3g} {unit} a gradient"
