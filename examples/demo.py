"""Real data, three guides and NUTS, measured against published answers; one Pyro model beside its NumPyro twin.

Writes ``demo-output/``: a picture, the table, and one posterior as a netCDF file. Under three minutes on two cores.
"""

from __future__ import annotations

import statistics
import time
from pathlib import Path

import jax
import numpy as np
from rich.console import Console
from rich.table import Table

import pushforward as pf
from pushforward.models import zoo

OUTPUT = Path("demo-output")
GUIDES = {"mean-field": pf.MeanField(), "full-rank": pf.FullRank(), "Laplace": pf.Laplace()}
PROBLEMS = ("german_credit", "eight_schools_noncentered")


def errors(posterior: pf.Posterior, reference: dict) -> tuple[float, float, float]:
    """Over all reference scalars: largest error of a mean in sds, largest and mean relative error of an sd."""
    mean_errors, sd_errors = [], []
    for site, truth in reference.items():
        draws = np.asarray(posterior.data["posterior"][site])
        draws = draws.reshape(-1, *draws.shape[2:])
        mean_errors.append(np.abs(draws.mean(0) - truth.mean) / truth.sd)
        sd_errors.append(np.abs(draws.std(0) / truth.sd - 1))
    flat = np.concatenate([np.ravel(e) for e in sd_errors])
    return float(max(np.max(e) for e in mean_errors)), float(flat.max()), float(flat.mean())


def run_all() -> tuple[list[list[str]], dict[str, dict[str, pf.Posterior]]]:
    """Fit every guide and run NUTS on every problem."""
    rows, posteriors = [], {}
    for name in PROBLEMS:
        entry = zoo.load(name)
        target = entry.target()
        posteriors[name] = {}
        for method in (*GUIDES, "NUTS"):
            began = time.perf_counter()
            if method == "NUTS":
                kernel = pf.NUTS(target_accept=0.9)
                posterior = pf.sample(
                    target, kernel, key=jax.random.key(1), num_steps=1000, num_warmup=1000, num_chains=4
                )
            else:
                posterior = pf.fit(target, GUIDES[method], key=jax.random.key(1), num_draws=4000)
            seconds = time.perf_counter() - began
            worst_mean, worst_sd, mean_sd = errors(posterior, entry.reference)
            khat = posterior.verdict.details.get("khat")
            rows.append(
                [
                    name,
                    method,
                    f"{worst_mean:.2f}",
                    f"{100 * worst_sd:.0f} %",
                    f"{100 * mean_sd:.0f} %",
                    "" if khat is None else f"{khat:.2f}",
                    posterior.verdict.status,
                    f"{seconds:.1f}",
                ]
            )
            posteriors[name][method] = posterior
    return rows, posteriors


def pyro_twin() -> list[list[str]]:
    """Milliseconds per value-and-gradient of the German credit model: Pyro itself, Pyro compiled here, NumPyro."""
    import pyro
    import torch

    entry = zoo.load("german_credit")
    model, args, kwargs = entry.pyro()
    compiled, native = entry.pyro_target(), entry.target()
    position = native.initial(jax.random.key(0))
    many = native.initial(jax.random.key(1), 1000)

    def in_pyro() -> float:
        weights = torch.tensor(np.asarray(position["weights"]), dtype=torch.float64, requires_grad=True)
        trace = pyro.poutine.trace(pyro.poutine.condition(model, data={"weights": weights})).get_trace(*args, **kwargs)
        value = trace.log_prob_sum()
        value.backward()
        return value.item()

    one = {name: jax.jit(jax.value_and_grad(t.logdensity)) for name, t in (("compiled", compiled), ("native", native))}
    batch = jax.jit(jax.vmap(jax.value_and_grad(compiled.logdensity)))
    values = [in_pyro(), float(one["compiled"](position)[0]), float(one["native"](position)[0])]
    np.testing.assert_allclose(values, values[0], rtol=1e-10)

    def median_ms(call, repeats: int) -> float:  # type: ignore[no-untyped-def]
        call()
        times = []
        for _ in range(repeats):
            began = time.perf_counter()
            call()
            times.append(1e3 * (time.perf_counter() - began))
        return statistics.median(times)

    pyro_ms = median_ms(in_pyro, 50)
    rows = [["Pyro (torch autograd)", f"{pyro_ms:.3f}", "1x"]]
    for label, name in (("the same Pyro program, compiled to JAX", "compiled"), ("its NumPyro twin", "native")):
        ms = median_ms(lambda name=name: jax.block_until_ready(one[name](position)), 500)
        rows.append([label, f"{ms:.4f}", f"{pyro_ms / ms:.0f}x"])
    ms = median_ms(lambda: jax.block_until_ready(batch(many)), 20) / 1000
    rows.append(["compiled, per particle of 1,000", f"{ms:.5f}", f"{pyro_ms / ms:.0f}x"])
    return rows


def draw_picture(posteriors: dict[str, dict[str, pf.Posterior]], path: Path) -> None:
    """Posterior means and 90 % intervals of every method beside the published ones."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, 2, figsize=(13, 6), constrained_layout=True, gridspec_kw={"width_ratios": [1.6, 1]})
    sites = {"german_credit": ["weights"], "eight_schools_noncentered": ["theta", "mu", "tau"]}
    titles = {
        "german_credit": "German credit: 25 weights of a logistic regression",
        "eight_schools_noncentered": "Eight schools",
    }
    colours = {"mean-field": "#d95f02", "full-rank": "#1b9e77", "Laplace": "#7570b3", "NUTS": "#e7298a"}
    for axis, name in zip(axes, PROBLEMS, strict=True):
        reference = zoo.load(name).reference
        truth_mean = np.concatenate([np.ravel(reference[s].mean) for s in sites[name]])
        truth_sd = np.concatenate([np.ravel(reference[s].sd) for s in sites[name]])
        where = np.arange(truth_mean.size)
        axis.bar(
            where,
            2 * 1.645 * truth_sd,
            0.9,
            bottom=truth_mean - 1.645 * truth_sd,
            color="#d8d8d8",
            label="published, +- 1.645 sd",
        )
        axis.hlines(truth_mean, where - 0.45, where + 0.45, color="#555555", lw=1.2)
        for shift, (method, posterior) in zip((-0.27, -0.09, 0.09, 0.27), posteriors[name].items(), strict=True):
            data = posterior.data["posterior"]
            draws = np.concatenate(
                [np.asarray(data[s]).reshape(-1, int(np.size(reference[s].mean))) for s in sites[name]], axis=1
            )
            mean, sd = draws.mean(0), draws.std(0)
            label = f"{method} ({posterior.verdict.status})"
            axis.errorbar(where + shift, mean, 1.645 * sd, fmt="o", ms=2.5, lw=1.2, color=colours[method], label=label)
        labels = [
            s if np.ndim(reference[s].mean) == 0 else f"{s}[{i}]"
            for s in sites[name]
            for i in range(int(np.size(reference[s].mean)))
        ]
        axis.set_xticks(where, labels, rotation=90, fontsize=7)
        axis.set_title(titles[name])
        axis.set_ylabel("posterior mean +- 1.645 sd")
        low, high = (truth_mean - 1.645 * truth_sd).min(), (truth_mean + 1.645 * truth_sd).max()
        axis.set_ylim(low - 0.35 * (high - low), high + 0.35 * (high - low))
        axis.legend(fontsize=8)
        axis.margins(x=0.01)
    figure.savefig(path, dpi=130)
    plt.close(figure)


def show(console: Console, title: str, columns: list[str], rows: list[list[str]]) -> None:
    """Print a table."""
    table = Table(title=title)
    for i, column in enumerate(columns):
        table.add_column(column, justify="left" if i == 0 else "right")
    for row in rows:
        table.add_row(*row)
    console.print(table)


def main() -> None:
    """Run the demo."""
    pf.enable_x64()
    began = time.perf_counter()
    OUTPUT.mkdir(exist_ok=True)
    console = Console(record=True, width=118)
    rows, posteriors = run_all()
    columns = [
        "posterior",
        "method",
        "worst mean error (sd)",
        "worst sd error",
        "mean sd error",
        "k-hat",
        "verdict",
        "seconds",
    ]
    show(console, "Errors against the published posterior", columns, rows)
    show(console, "One Pyro model (German credit), value and gradient", ["", "ms", "speed-up"], pyro_twin())
    for name, methods in posteriors.items():
        for method, posterior in methods.items():
            for reason in posterior.verdict.reasons:
                console.print(f"[bold]{name}, {method}[/bold]: {reason}")
    posteriors["eight_schools_noncentered"]["NUTS"].save(OUTPUT / "eight_schools.nc")
    again = pf.load(OUTPUT / "eight_schools.nc")
    console.print(again)
    draw_picture(posteriors, OUTPUT / "demo.png")
    (OUTPUT / "demo.txt").write_text(console.export_text())
    print(f"Wrote {OUTPUT}/demo.png, demo.txt and eight_schools.nc in {time.perf_counter() - began:.0f} s.")


if __name__ == "__main__":
    main()
