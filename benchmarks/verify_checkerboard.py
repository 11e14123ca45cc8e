"""Figures of a trained interpolant for the results page."""

from __future__ import annotations

from sections import Section, yes
from verify_particles import rows_of


def checkerboard_section() -> Section:
    """The checkerboard, beside plain flow matching with the same time."""
    import checkerboard

    ours, other = (checkerboard.Row(*row) for row in rows_of("checkerboard"))
    table = [
        (
            row.name,
            str(row.steps),
            f"{row.seconds:.0f}",
            f"{row.processor_seconds:.0f}",
            f"{row.nats:.3f} +- {row.nats_error:.3f}",
            f"{100.0 * row.share:.1f}",
            f"{row.mass:.4f}",
            yes(checkerboard.holds(ours, other)) if row is ours else "",
        )
        for row in (ours, other)
    ]
    note = (
        "Eight squares in two dimensions, four layers of 256 units, batches of 1,024, single precision, the same time "
        f"for both. Bounds: {checkerboard.SECONDS:.0f} s, {checkerboard.NATS} nats (floor 3.466), "
        f"{100.0 * checkerboard.SHARE:.0f} % of samples on the squares, an integral of 1 within {checkerboard.MASS}, "
        "and flow matching not better."
    )
    columns = ("method", "steps", "seconds", "of processors", "nats", "% on the squares", "integral", "holds")
    return Section("Trained checkerboard", note, columns, table, checkerboard.holds(ours, other))


SECTIONS = {"checkerboard": checkerboard_section}
