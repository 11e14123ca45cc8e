"""Figures of interpolants for the results page: a trained one, inverse problems, programs as end points."""

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


def inverse_section() -> Section:
    """Posteriors under a prior of 25 modes, the baselines beside."""
    import inverse

    rows = [inverse.Row(*row) for row in rows_of("inverse")]
    table = []
    for row in rows:
        weighted = row.method == "posterior"
        table.append(
            (
                str(row.problem),
                row.method,
                str(row.steps),
                f"{row.ratio:.2f}",
                f"{row.variation:.3f}",
                f"{row.evidence:+.3f} +- {row.standard_error:.3f}" if weighted else "none",
                f"{row.seconds:.1f}",
                yes(row.holds) if weighted else "",
            )
        )
    note = (
        f"A prior of 25 modes in {inverse.DIM} dimensions with exact fields, one noisy linear observation, "
        f"{inverse.PARTICLES:,} particles, against the posterior in closed form. Bounds for `posterior`: sliced W2 "
        f"{inverse.RATIO} of that of two exact samples, total variation of mode weights {inverse.VARIATION}, log "
        f"evidence {inverse.EVIDENCE}. The others are baselines; seconds of the first problem with compilation."
    )
    columns = ("problem", "method", "steps", "sliced W2", "modes", "log evidence, error", "seconds", "holds")
    good = all(row.holds for row in rows if row.method == "posterior")
    return Section("Inverse problems with a diffusion prior", note, columns, table, good)


def density_end_section() -> Section:
    """NumPyro programs as ends of a learned interpolant."""
    import density_end

    rows = [density_end.Row(*row) for row in rows_of("density_end")]
    table = [
        (
            row.posterior,
            f"{row.mean_error:.3f}",
            f"{row.log_evidence:.3f} +- {row.evidence_error:.3f}",
            f"{row.smc:.3f} +- {row.smc_error:.3f}",
            f"{row.apart:.2f}",
            f"{100.0 * row.share:.0f}",
            f"{100.0 * row.share_untrained:.0f}",
            f"{row.seconds:.0f}",
            yes(row.holds),
        )
        for row in rows
    ]
    note = (
        "Posteriors of NumPyro programs by a velocity learned from the variance of the weights: the worst mean in "
        f"posterior standard deviations (bound {density_end.MEAN}) and the evidence beside that of SMC (bound "
        f"{density_end.ERRORS:.0f} standard errors of the difference). Seconds with compilation, without SMC."
    )
    columns = (
        "posterior",
        "worst mean",
        "log evidence",
        "SMC",
        "standard errors apart",
        "% effective",
        "% untrained",
        "seconds",
        "holds",
    )
    return Section("NumPyro programs as end points", note, columns, table, all(row.holds for row in rows))


def sde_section() -> Section:
    """Fixed and adaptive steps with noise."""
    import sde_speed

    speed, laws = rows_of("sde_speed")
    moved, laws = [sde_speed.Timed(*row) for row in speed], [sde_speed.Law(*row) for row in laws]
    over, faster = sde_speed.ratios(moved)
    fixed, adapted = laws[:2]
    share = adapted.evaluations / fixed.evaluations
    good = [over <= sde_speed.OVER, faster >= sde_speed.FASTER]
    good.append(share <= 1.0 / 3.0 and adapted.excess <= max(fixed.excess, 0.0) + sde_speed.EXCESS)
    table = [
        ("time over a scan by hand", f"{over:.2f}", f"{sde_speed.OVER}", yes(good[0])),
        ("time of diffrax over ours", f"{faster:.0f}", f"{sde_speed.FASTER}", yes(good[1])),
        (
            "adaptive: share of 1,000 evaluations; energy distance beyond chance (fixed)",
            f"{share:.3f}; {adapted.excess:+.3f} ({fixed.excess:+.3f})",
            f"0.333; {sde_speed.EXCESS} more",
            yes(good[2]),
        ),
    ]
    note = (
        f"{sde_speed.PARTICLES:,} particles in two dimensions over {sde_speed.STEPS:,} steps of Euler's method between "
        "normal laws, single precision, medians; diffrax with a virtual Brownian tree, per particle. The energy "
        "distance is squared, to the law itself, as a share of that of two exact samples of 5,000."
    )
    return Section("Moving clouds with noise", note, ("figure", "measured", "bound", "holds"), table, all(good))


SECTIONS = {
    "checkerboard": checkerboard_section,
    "inverse": inverse_section,
    "density_end": density_end_section,
    "sde": sde_section,
}
