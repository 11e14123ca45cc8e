"""Figures of particle samplers for the results page: learning rates, constraints, speed, bounded memory."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from sections import Section, yes

LEAST = 5


def rows_of(module: str) -> list[list[Any]]:
    """The rows of another benchmark, run in a process of its own: it measures that process."""
    code = f"import json, {module} as m; rows = m.main(); print(json.dumps(rows if type(rows) is list else [rows]))"
    here = Path(__file__).parent
    done = subprocess.run([sys.executable, "-c", code], cwd=here, stdout=subprocess.PIPE, text=True, check=True)
    print(done.stdout, end="", flush=True)
    return json.loads(done.stdout.splitlines()[-1])


def coin_section() -> Section:
    """CoinSVGD against the best of 30 learning rates."""
    import coin

    rows = coin.main()
    table = [
        (r.target, f"{r.coin:.4f}", f"{r.best:.4f}", f"{r.ratio:.3f}", f"{coin.BOUND}", yes(r.holds)) for r in rows
    ]
    note = (
        "Median over 10 seeds of the IMQ kernel Stein discrepancy after 1,000 iterations of 20 particles. Expected: "
        f"within the bound on {LEAST} of 6 targets."
    )
    columns = ("target", "CoinSVGD", "best of 30 learning rates", "ratio", "bound", "holds")
    return Section("Coin sampling without a learning rate", note, columns, table, sum(r.holds for r in rows) >= LEAST)


def constrained_section() -> Section:
    """Mirrored samplers by coin betting on a simplex."""
    import constrained

    rows = constrained.main()
    table = [
        (
            r.target,
            r.method,
            f"{r.coin:.2g}",
            f"{min(r.tuned.values()):.2g}",
            f"{r.ratio:.2f}",
            str(r.outside),
            yes(r.holds),
        )
        for r in rows
    ]
    note = "Energy distance to 1,000 draws of the truth after 500 iterations of 50 particles. Bound: ratio 1.2."
    columns = ("target", "method", "coin", "best learning rate", "ratio", "outside", "holds")
    return Section("Constrained domains", note, columns, table, all(r.holds for r in rows))


def speed_section() -> Section:
    """A step of SVGD against the peers."""
    import svgd_speed

    rows = [svgd_speed.Row(*row) for row in rows_of("svgd_speed")]
    table = [
        (str(r.num_particles), f"{1e3 * r.ours:.1f}", peer, f"{1e3 * taken:.0f}", f"{taken / r.ours:.0f}x", "60x")
        for r in rows
        for peer, taken in r.peers.items()
    ]
    note = "One step with its bandwidth, d = 50, single precision, one thread, milliseconds; all in one process."
    columns = ("particles", "ours", "peer", "peer's", "ratio", "bound")
    return Section("A step of SVGD", note, columns, table, all(r.holds for r in rows))


def million_section() -> Section:
    """A million steps of 1,000 chains."""
    import million_steps

    row = million_steps.Row(*rows_of("million_steps")[0])
    table = [
        ("growth of memory, MB", f"{row.growth_mb:.1f}", f"{million_steps.GROWTH_MB:.0f}"),
        ("share of time for the progress line", f"{row.overhead:.1%}", f"{million_steps.OVERHEAD:.0%}"),
        ("programs of the loop, over twelve runs", str(row.compilations), "1"),
        ("largest relative error of a variance", f"{row.worst_variance:.4f}", ""),
        ("seconds", f"{row.seconds:.0f}", ""),
    ]
    note = "SGLD, 1,000 chains, d = 10, 1,000,000 steps; figures of all steps are kept, and 16 draws per chain."
    return Section("A million steps", note, ("what", "measured", "bound"), table, row.holds)


def chains_section() -> Section:
    """Many chains of stochastic-gradient samplers beside one."""
    import sgmcmc

    rows = [sgmcmc.Row(*row) for row in rows_of("sgmcmc")]
    table = [
        (
            r.sampler,
            f"{r.one:.2f}",
            f"{r.many:.2f}",
            f"{r.ratio:.2f}",
            f"{sgmcmc.BOUND:.0f}",
            yes(r.ratio <= sgmcmc.BOUND),
        )
        for r in rows
    ]
    note = (
        f"`pf.sample` from call to result, seconds, compilation included: 20,000 steps on minibatches of {sgmcmc.B} of "
        f"{sgmcmc.N:,} data, every chain with minibatches of its own."
    )
    columns = ("sampler", "one chain", f"{sgmcmc.CHAINS} chains", "ratio", "bound", "holds")
    return Section("Sixty-four chains", note, columns, table, all(row[-1] == "yes" for row in table))


SECTIONS = {
    "coin": coin_section,
    "constrained": constrained_section,
    "svgd": speed_section,
    "million": million_section,
    "chains": chains_section,
}
