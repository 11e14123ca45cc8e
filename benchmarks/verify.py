"""Every figure the project promises, measured and written to ``docs/results.md`` with date and versions.

``make verify`` runs all tests first, the slow ones included, and then this. Parts can be named:
``python benchmarks/verify.py overhead``; the page then keeps the other parts as they were measured, each
with its own date (``docs/results.json`` holds them). A figure that misses its bound is written down as measured.
"""

from __future__ import annotations

import datetime
import importlib.metadata
import json
import platform
import statistics
import subprocess
import sys
import time
import xml.etree.ElementTree
from pathlib import Path

import jax
import verify_interpolants
import verify_particles
import verify_transport
import verify_vi
from sections import Section, yes

from pushforward.models import zoo

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "results.md"
RECORD = ROOT / "docs" / "results.json"
TESTS = ROOT / ".cache" / "tests.xml"
"""What `make verify` has pytest write."""
PACKAGES = ("pushforward", "jax", "numpyro", "equinox", "optax", "pyro-ppl", "torch", "arviz-stats", "numpy")


def zoo_section() -> Section:
    """NUTS on the fifteen posteriors."""
    import verify_zoo

    table, missed, false_alarm, holds = [], [], 0.0, True
    for name in zoo.names():
        began = time.perf_counter()
        rows = verify_zoo.verify(name)
        seconds = time.perf_counter() - began
        passed = all(row.passes for row in rows)
        holds &= passed
        missed += [row.describe() for row in rows if not row.passes]
        false_alarm += sum(row.false_alarm for row in rows)
        worst_mean, worst_sd = max(abs(r.standard_errors) for r in rows), max(abs(r.sd_error) for r in rows)
        table.append(
            (
                name,
                str(len(rows)),
                f"{worst_mean:.2f}",
                f"{100 * worst_sd:.1f} %",
                "yes" if passed else "no",
                f"{seconds:.0f}",
            )
        )
        print(table[-1], flush=True)
    note = (
        "NUTS against the published references: every mean within 4 combined standard errors, every sd within 10 %. "
        "Probability that a correct sampler fails somewhere in this table (family-wise false-alarm rate, a union "
        f"bound): {100 * false_alarm:.1f} %." + "".join(f" Missed: {text}." for text in missed)
    )
    columns = ("posterior", "scalars", "worst mean error (standard errors)", "worst sd error", "holds", "seconds")
    return Section("Fifteen posteriors with NUTS", note, columns, table, holds)


def overhead_section() -> Section:
    """Loop and front-end overhead."""
    import overhead

    rows = [
        (str(r["what"]), f"{r['ratio']:.3f}", str(r["limit"]), "yes" if r["ratio"] <= r["limit"] else "no")
        for r in overhead.main()
    ]
    note = (
        "20,000 steps on a 100 x 3 regression with progress, guard and k-hat against a bare lax.scan; "
        "compile time apart; median of ratios."
    )
    return Section("Overhead", note, ("what", "ratio", "bound", "holds"), rows, all(r[-1] == "yes" for r in rows))


def pyro_section() -> Section:
    """Compiled Pyro programs against Pyro."""
    import pyro_speed

    rows: list[tuple[str, ...]] = []
    count = 0
    for r in pyro_speed.main():
        one, particle = r.pyro / r.one, r.pyro / r.particle
        good = one >= pyro_speed.TARGET_ONE and particle >= pyro_speed.TARGET_PARTICLE
        count += good
        speeds = (f"{1e3 * r.pyro:.3f}", f"{1e3 * r.one:.4f}", f"{one:.0f}x", f"{particle:.0f}x")
        rows.append((r.name, *speeds, "yes" if good else "no"))
    holds = count >= pyro_speed.NUM_MODELS
    note = (
        "One value and gradient: Pyro (trace and autograd) against the compiled program, one position and "
        "per particle of 1,000. Bounds 40x and 1,000x."
    )
    return Section(
        "Pyro programs compiled to JAX",
        note,
        ("model", "Pyro ms", "compiled ms", "speed-up", "per particle", "holds"),
        rows,
        holds,
    )


def import_section() -> Section:
    """Import cost beyond NumPyro, in fresh processes, paired."""

    def seconds(code: str) -> float:
        timed = f"import time; t = time.perf_counter(); {code}; print(time.perf_counter() - t)"
        return float(subprocess.run([sys.executable, "-c", timed], capture_output=True, text=True, check=True).stdout)

    extra = [seconds("import pushforward") - seconds("import numpyro") for _ in range(5)]
    median = statistics.median(extra)
    loaded = subprocess.run(
        [
            sys.executable,
            "-c",
            "import pushforward, sys; print([m for m in ('torch', 'pyro', 'arviz_base', 'arviz_stats', 'matplotlib') "
            "if m in sys.modules])",
        ],
        capture_output=True,
        text=True,
        check=True,
    ).stdout.strip()
    rows = [
        ("import pushforward beyond import numpyro", f"{median:.2f} s", "1 s", "yes" if median <= 1 else "no"),
        ("heavy modules imported", loaded, "[]", "yes" if loaded == "[]" else "no"),
    ]
    return Section(
        "Import",
        "Median of five paired fresh processes.",
        ("what", "measured", "bound", "holds"),
        rows,
        all(r[-1] == "yes" for r in rows),
    )


def _span(shown: list[str]) -> str:
    """A figure that several cases measured: the smallest and the largest, or all where they are no numbers."""
    if len(shown) == 1 or shown[0].startswith("("):
        return "; ".join(shown)
    return f"{min(shown, key=float)} to {max(shown, key=float)} ({len(shown)} cases)"


def tests_section() -> Section:
    """Figures that tests record with the fixture ``figure``."""
    if not TESTS.exists():
        raise SystemExit(f"{TESTS.relative_to(ROOT)} is missing: run pytest with --junitxml={TESTS.relative_to(ROOT)}.")
    found: dict[tuple[str, str], list[tuple[str, bool]]] = {}
    cases = xml.etree.ElementTree.parse(TESTS).getroot().findall(".//testcase")
    failed = [case for case in cases if case.find("failure") is not None or case.find("error") is not None]
    for case in cases:
        for note in case.findall("properties/property[@name='figure']"):
            what, shown, bound = json.loads(note.get("value", ""))
            found.setdefault((what, bound), []).append((shown, case not in failed))
    rows = [
        (what, _span([s for s, _ in each]), bound, yes(all(ok for _, ok in each)))
        for (what, bound), each in found.items()
    ]
    skipped = sum(case.find("skipped") is not None for case in cases)
    folders = sorted({(case.get("classname") or "").rpartition(".")[0].replace(".", "/") for case in cases})
    note = (
        f"{len(cases)} tests of {', '.join(folders)}, slow ones included: {len(cases) - len(failed) - skipped} passed, "
        f"{skipped} skipped, {len(failed)} failed"
        + ("." if not failed else ": " + ", ".join(f"{c.get('classname')}::{c.get('name')}" for c in failed) + ".")
        + " Figures that tests measure on their way:"
    )
    return Section("Tests", note, ("what", "measured", "bound", "test passes"), sorted(rows), not failed)


SECTIONS = {
    "tests": tests_section,
    "zoo": zoo_section,
    "overhead": overhead_section,
    "pyro": pyro_section,
    "import": import_section,
    **verify_vi.SECTIONS,
    **verify_particles.SECTIONS,
    **verify_transport.SECTIONS,
    **verify_interpolants.SECTIONS,
}


def circumstances() -> str:
    """When and with what a part was measured."""
    versions = ", ".join(f"{p} {importlib.metadata.version(p)}" for p in PACKAGES)
    device = jax.devices()[0]
    return (
        f"{datetime.date.today().isoformat()}, {device.device_kind} ({device.platform}), "
        f"Python {platform.python_version()}, {versions}"
    )


def record(name: str, section: Section) -> None:
    """Keep a part, and write the page of all parts."""
    kept = json.loads(RECORD.read_text()) if RECORD.exists() else {}
    kept[name] = section._replace(measured=circumstances())._asdict()
    RECORD.write_text(json.dumps({n: kept[n] for n in SECTIONS if n in kept}, indent=1) + "\n")
    lines = [
        "# Results",
        "",
        "Measured by `make verify`, part by part. Times are of one shared machine; ratios are what to read.",
    ]
    for part in (Section(**fields) for fields in json.loads(RECORD.read_text()).values()):
        lines += [
            "",
            f"## {part.title}",
            "",
            part.note,
            "",
            "| " + " | ".join(part.columns) + " |",
            "|" + " --- |" * len(part.columns),
            *("| " + " | ".join(row) + " |" for row in part.rows),
            "",
            f"All hold: {'yes' if part.holds else '**no**'}. Measured {part.measured}.",
        ]
    PAGE.write_text("\n".join(lines) + "\n")


def main() -> None:
    """Run the named parts (default: all) and write the page."""
    jax.config.update("jax_enable_x64", True)
    missed = []
    for name in sys.argv[1:] or list(SECTIONS):
        section = SECTIONS[name]()
        record(name, section)
        if not section.holds:
            missed.append(section.title)
    print(f"wrote {PAGE.relative_to(ROOT)}")
    if missed:
        print("bounds missed in: " + ", ".join(missed))


if __name__ == "__main__":
    main()
