"""Figures of variational inference for the results page: bounds, costs, flows, discrete latents."""

from __future__ import annotations

import sys
from pathlib import Path

import jax
from sections import Section, yes

sys.path.append(str(Path(__file__).resolve().parents[1] / "examples"))

AIR_SECONDS, AIR_GOOD, AIR_BAD = 90.0, 0.95, 0.60


def cone_section() -> Section:
    """Hierarchical bounds on the cone model."""
    import cone

    rows = cone.main()
    table = [(r.what, f"{r.value:.4f}", f"{r.error:.4f}", r.bound, yes(r.holds), f"{r.seconds:.0f}") for r in rows]
    total = sum(r.seconds for r in rows)
    note = (
        f"Bounds on log p(z = 5) = {cone.LOG_EVIDENCE} from two programs, no density derived by hand; "
        f"{total:.0f} s in all, compilation included (bound: 60 s)."
    )
    columns = ("guide", "bound (nats)", "standard error", "expected", "holds", "seconds")
    return Section("Cone model", note, columns, table, all(r.holds for r in rows) and total <= 60)


def cost_section() -> Section:
    """Generic gradients and programs against code written out by hand."""
    import estimators

    rows = estimators.main()
    table = [
        (
            str(r["what"]),
            f"{r['generic_us']:.1f}",
            f"{r['by_hand_us']:.1f}",
            f"{r['ratio']:.3f}",
            str(r["limit"]),
            yes(r["ratio"] <= r["limit"]),
        )
        for r in rows
    ]
    note = "Median ratio of paired runs, microseconds per gradient, compile time apart."
    columns = ("what", "generic", "by hand", "ratio", "bound", "holds")
    return Section("Cost of generic gradients", note, columns, table, all(row[-1] == "yes" for row in table))


def counting_section() -> Section:
    """Attend-infer-repeat, the strategy swapped by site name."""
    import attend_infer_repeat

    table = []
    with jax.enable_x64(False):
        rows = attend_infer_repeat.main([])
    for row in rows:
        plain = row.strategy == "reinforce"
        judged = row.strategy in ("measure-valued", "leave-one-out", "reinforce")
        good = row.accuracy < AIR_BAD if plain else row.accuracy > AIR_GOOD and row.seconds <= AIR_SECONDS
        expected = f"< {AIR_BAD:.0%}" if plain else f"> {AIR_GOOD:.0%} in {AIR_SECONDS:.0f} s"
        table.append(
            (
                row.strategy,
                f"{row.accuracy:.1%}",
                f"{row.seconds:.0f}",
                expected if judged else "",
                yes(good) if judged else "",
            )
        )
    note = (
        "Share of images (16 x 16, up to two objects) whose objects are counted right. The same programs and budget; "
        "only the gradient of the presence sites changes. `reinforce` is the plain estimator; `local-reinforce` keeps "
        "to what depends on a site, which is what a program makes possible."
    )
    columns = ("gradient", "counted right", "seconds", "expected", "holds")
    return Section("Attend-infer-repeat", note, columns, table, all(row[-1] != "no" for row in table))


def flows_section() -> Section:
    """k-hat of Gaussian guides and of a spline flow."""
    import flow_khat

    rows = flow_khat.main()
    table = [
        (
            r.posterior,
            str(r.mean_field),
            str(r.full_rank),
            str(r.spline),
            str(r.steps),
            f"{r.seconds:.0f}",
            yes(r.holds),
        )
        for r in rows
    ]
    note = (
        f"PSIS k-hat of {flow_khat.NUM_DRAWS:,} draws, mean of {flow_khat.NUM_SETS} sets and its standard error. "
        "Expected: below 0.7 for the spline flow, above for both Gaussians. Left out are posteriors that full-rank "
        "Gaussians were found close enough to before, most with 16,384 draws: "
        + ", ".join(f"{name} ({khat:.2f})" for name, khat in flow_khat.LEFT_OUT.items())
        + "."
    )
    columns = ("posterior", "mean-field", "full-rank", "spline", "steps", "seconds", "holds")
    return Section("Spline flow against Gaussian guides", note, columns, table, all(r.holds for r in rows))


SECTIONS = {"cone": cone_section, "cost": cost_section, "air": counting_section, "flows": flows_section}
