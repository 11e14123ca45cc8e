"""Figures of optimal transport for the results page: plans, sliced distances, the light Schroedinger bridge."""

from __future__ import annotations

from sections import Section, yes
from verify_particles import rows_of


def sliced_section() -> Section:
    """Control variates for sliced distances."""
    import sliced

    rows = [sliced.Row(*row) for row in rows_of("sliced")]
    table = [
        (
            r.what,
            f"{r.variance:.4f}",
            f"{r.cost:.2f}",
            f"{r.bias:+.1e} +- {r.bias_error:.0e}",
            yes(r.holds) if r.promised else "",
        )
        for r in rows
    ]
    note = (
        "Ten directions, 50 dimensions, shifted anisotropic clouds; relative to plain Monte Carlo. Bounds: variance "
        f"{sliced.VARIANCE}, cost {sliced.COST}, bias {sliced.BIAS}. Regressed: the published estimators, whose "
        "coefficients come from the directions themselves."
    )
    columns = ("control", "variance", "cost", "relative bias and its standard error", "holds")
    return Section("Sliced distances with controls", note, columns, table, all(r.holds for r in rows if r.promised))


def lightsb_section() -> Section:
    """The light Schroedinger bridge with its defaults."""
    import light_bridge

    rows = [light_bridge.Row(*row) for row in rows_of("light_bridge")]
    table = [
        (
            str(r.dim),
            str(r.epsilon),
            f"{r.conditional:.3f}",
            f"{r.marginal:.3f}",
            str(r.num_components),
            f"{r.seconds:.0f}",
            f"{r.processor_seconds:.0f}",
            yes(r.holds),
        )
        for r in rows
    ]
    note = (
        "One default setting, 20,000 points of each side, against plans known in closed form: Bures-Wasserstein errors "
        f"in per cent. Bounds: {light_bridge.CONDITIONAL:.0f} given x, {light_bridge.MARGINAL:.0f} without, "
        f"{light_bridge.SECONDS:.0f} s with compilation."
    )
    columns = ("d", "epsilon", "error given x", "error", "components", "seconds", "seconds of processors", "holds")
    return Section("Light Schroedinger bridge", note, columns, table, all(r.holds for r in rows))


def transport_section() -> Section:
    """Entropic transport: iterations, float32, closed forms, memory."""
    import transport_truth

    rows = [transport_truth.Row(*row) for row in rows_of("transport_truth")]
    table = [(r.what, r.figure, r.bound, yes(r.holds)) for r in rows]
    note = (
        "Iterations are sweeps + Newton steps to the marginal error given, in float64; at eta = 1e4 the plan is an "
        "assignment in all but name. Float32: whether `converged` agrees with the error computed again in float64."
    )
    return Section("Optimal transport", note, ("what", "figure", "bound", "holds"), table, all(r.holds for r in rows))


def peers_section() -> Section:
    """Seconds beside those of other libraries."""
    import transport_speed as speed

    rows = [speed.Row(*row) for row in rows_of("transport_speed")]
    bounds = {row: speed.bound(row) for row in rows}
    table = []
    for row, bound in bounds.items():
        named = f"{bound:g}" if bound else ""
        held = yes(row.ratio >= bound) if bound else ""
        table.append(
            (row.problem, row.solver, f"{row.seconds:.3g}", f"{row.error:.1e}", f"{row.ratio:.3g}", named, held)
        )
    note = (
        "The same marginal error asked of all, compilation apart, in one process in turn; ratios are of times to ours. "
        "How slow plain sweeps are at a small regularisation depends on the problem (a factor of eight "
        "between seeds) and, with an underflowing kernel, on the processor: POT's ratio at eta 1,200 was 27 on another."
    )
    columns = ("problem", "solver", "seconds", "marginal error", "ratio", "at least", "holds")
    good = all(row.ratio >= bound for row, bound in bounds.items() if bound)
    return Section("Optimal transport beside other libraries", note, columns, table, good)


SECTIONS = {
    "transport": transport_section,
    "transport_speed": peers_section,
    "sliced": sliced_section,
    "lightsb": lightsb_section,
}
