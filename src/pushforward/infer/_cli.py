"""The command line: ``pushforward run | resume | diagnose | compare | compare-estimators | info``.

Exit codes: 0 a result with verdict ok (or doubtful, without ``--strict``); 1 an error; 2 wrong usage; 3 verdict failed;
4 verdict doubtful under ``--strict``; 130 interrupted.
"""

from __future__ import annotations

import contextlib
import enum
import importlib.metadata
import json
import os
import platform
import re
import secrets
import sys
import textwrap
import traceback
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import typer

from ._script_estimators import GUIDES

ERROR, FAILED, DOUBTFUL, INTERRUPTED = 1, 3, 4, 130

app = typer.Typer(
    name="pushforward",
    help="Run inference on NumPyro and Pyro models, and say whether the answer can be trusted.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)


class Front(enum.StrEnum):
    """Language of the model file."""

    auto = "auto"
    numpyro = "numpyro"
    pyro = "pyro"


class Method(enum.StrEnum):
    """What to run."""

    fit = "fit"
    nuts = "nuts"


Out = Annotated[Path, typer.Option("--out", "-o", help="Result file (.nc); replaced only when the run is complete.")]
Strict = Annotated[bool, typer.Option("--strict", help="Exit with code 4 when the verdict is doubtful.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="No progress, no table; only a bad verdict, on stderr.")]
Debug = Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")]
X64 = Annotated[bool, typer.Option("--x64", help="Compute in double precision.")]


@app.command()
def run(
    model: Annotated[str, typer.Argument(help="FILE.py:NAME or PACKAGE.MODULE:NAME; NAME is 'model' if left out.")],
    out: Out,
    data: Annotated[
        Path | None,
        typer.Option("--data", "--args", help="The model's keyword arguments: a JSON object or an .npz archive."),
    ] = None,
    front: Annotated[Front, typer.Option(help="Language of the model; auto looks at what it uses.")] = Front.auto,
    method: Annotated[Method, typer.Option(help="fit: variational inference; nuts: No-U-Turn sampler.")] = Method.fit,
    guide: Annotated[
        str | None,
        typer.Option(
            help=f"One of {', '.join(GUIDES)}, or FILE.py:NAME, a NumPyro program. Default: full-rank if small."
        ),
    ] = None,
    num_steps: Annotated[int | None, typer.Option(min=1, help="Steps of the fit, or draws per chain.")] = None,
    num_particles: Annotated[int | None, typer.Option(min=1, help="Draws of the guide per step.")] = None,
    num_warmup: Annotated[int | None, typer.Option(min=0, help="Warm-up steps per chain (nuts). Default 1000.")] = None,
    num_chains: Annotated[int | None, typer.Option(min=1, help="Chains (nuts). Default 4.")] = None,
    seed: Annotated[int | None, typer.Option(help="Seed; drawn and printed when left out.")] = None,
    coords: Annotated[Path | None, typer.Option(help="JSON object: labels per dimension.")] = None,
    checkpoint: Annotated[Path | None, typer.Option(help="File for checkpoints, to resume from.")] = None,
    x64: X64 = False,
    strict: Strict = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Run inference on a model and save the result."""
    with _reporting(debug, checkpoint):
        from ._script import build_target, check_writable, load_object, read_mapping
        from ._script_estimators import build_guide

        if method is Method.fit and (num_warmup is not None or num_chains is not None):
            raise ValueError("--num-warmup and --num-chains belong to --method nuts. Leave them out or add it.")
        if method is Method.nuts and (guide is not None or num_particles is not None):
            raise ValueError("--guide and --num-particles belong to --method fit. Leave them out of --method nuts.")
        check_writable(out, "--out")
        if checkpoint is not None:
            check_writable(checkpoint, "--checkpoint")
        _set_precision(x64)
        arguments = read_mapping(data, "data") if data is not None else {}
        labels = _read_coords(coords)
        program = load_object(model)
        family = build_guide(guide) if guide is not None else None
        target = build_target(program, arguments, front=front.value, coords=labels)

        if seed is None:
            seed = secrets.randbelow(2**31)
            print(f"seed {seed} (add --seed {seed} to repeat this run)", file=sys.stderr)
        common: dict[str, Any] = {"key": _key(seed), "progress": not quiet, "checkpoint": checkpoint}
        if method is Method.fit:
            from ._fit import fit

            given: dict[str, Any] = {"num_steps": num_steps, "num_particles": num_particles}
            given = {name: value for name, value in given.items() if value is not None}
            posterior = fit(target, family, **common, **given)
        else:
            from ..samplers import NUTS
            from ._sample import sample

            posterior = sample(
                target,
                NUTS(),
                num_steps=1000 if num_steps is None else num_steps,
                num_warmup=1000 if num_warmup is None else num_warmup,
                num_chains=4 if num_chains is None else num_chains,
                **common,
            )
        posterior.data.attrs.update(seed=seed, command_line_model=model)
        posterior.save(out)
    _conclude(posterior, out=out, strict=strict, quiet=quiet)


@app.command()
def resume(
    checkpoint: Annotated[Path, typer.Argument(help="A checkpoint of run. It holds pickled code: open only your own.")],
    out: Annotated[Path | None, typer.Option("--out", "-o", help="Default: the checkpoint's name, as .nc.")] = None,
    num_steps: Annotated[
        int | None, typer.Option(min=1, help="New total of steps. Default: as first asked for.")
    ] = None,
    strict: Strict = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Go on with an interrupted run from its checkpoint and save the result."""
    with _reporting(debug, checkpoint):
        from ._resume import resume as resume_run
        from ._script import check_writable

        if not checkpoint.exists():
            raise ValueError(f"There is no checkpoint {checkpoint}. Give the path that --checkpoint had.")
        out = checkpoint.with_suffix(".nc") if out is None else out
        if out == checkpoint:
            raise ValueError(f"--out {out} would overwrite the checkpoint. Give another name.")
        check_writable(out, "--out")
        _set_precision(_is_double(checkpoint))
        posterior = resume_run(checkpoint, num_steps=num_steps, progress=not quiet)
        posterior.save(out)
    _conclude(posterior, out=out, strict=strict, quiet=quiet)


@app.command()
def diagnose(
    result: Annotated[Path, typer.Argument(help="A result file (.nc).")],
    strict: Strict = False,
    debug: Debug = False,
) -> None:
    """Check a saved result again; print its summary, the verdict and the reasons. The file is not changed."""
    with _reporting(debug):
        from ._storage import load

        posterior = load(result)
        posterior.diagnose()
    _conclude(posterior, out=None, strict=strict, quiet=False, whole=True)


@app.command()
def compare(
    results: Annotated[list[Path], typer.Argument(help="Two or more result files (.nc).")],
    site: Annotated[str | None, typer.Option(help="Observed site to score; needed when there are several.")] = None,
    reference: Annotated[str | None, typer.Option(help="Fit to measure against. Default: the first.")] = None,
    debug: Debug = False,
) -> None:
    """Compare saved results: predictive accuracy, and how far their posteriors are apart."""
    with _reporting(debug):
        from ._compare import compare as compare_fits
        from ._storage import load

        if len(results) < 2:
            raise ValueError(f"compare needs at least two result files, got {len(results)}.")
        stems = [path.stem for path in results]
        names = stems if len(set(stems)) == len(stems) else [str(path) for path in results]
        if len(set(names)) < len(names):
            raise ValueError(f"compare needs different files, got {', '.join(names)}.")
        comparison = compare_fits(
            {name: load(path) for name, path in zip(names, results, strict=True)}, site=site, reference=reference
        )
    typer.echo(repr(comparison))


@app.command()
def compare_estimators(
    model: Annotated[str, typer.Argument(help="FILE.py:NAME or PACKAGE.MODULE:NAME; NAME is 'model' if left out.")],
    data: Annotated[Path | None, typer.Option("--data", "--args", help="As for run.")] = None,
    front: Annotated[Front, typer.Option(help="Language of the model; auto looks at what it uses.")] = Front.auto,
    guide: Annotated[str | None, typer.Option(help="As for run.")] = None,
    estimators: Annotated[
        str, typer.Option(help="Comma-separated: reparam, path, auto, score, score-average, or FILE.py:NAME.")
    ] = "reparam,path",
    objective: Annotated[
        str, typer.Option(help="elbo, iwelbo, vis, tvo, forward-kl, cubo[:ORDER], renyi:ALPHA, or FILE.py:NAME.")
    ] = "elbo",
    num_particles: Annotated[str, typer.Option(help="Comma-separated numbers of draws per gradient.")] = "1,4,16",
    num_repeats: Annotated[int, typer.Option(min=16, help="Gradients per measurement.")] = 1000,
    at: Annotated[str, typer.Option(help="Comma-separated: start, middle, optimum; or path.")] = "start,middle,optimum",
    seed: Annotated[int, typer.Option(help="Seed.")] = 0,
    out: Annotated[Path | None, typer.Option("--out", "-o", help="File for the whole table (.csv).")] = None,
    plot: Annotated[Path | None, typer.Option(help="File for the plot (.png, .pdf, .svg).")] = None,
    x64: X64 = False,
    debug: Debug = False,
) -> None:
    """Measure gradient estimators on a model: bias, variance, signal-to-noise and cost, with a recommendation."""
    with _reporting(debug):
        from ._laboratory import compare_estimators as measure
        from ._script import build_target, check_writable, load_object, read_mapping
        from ._script_estimators import build_gradient, build_guide, build_objective, read_numbers

        for path, option in ((out, "--out"), (plot, "--plot")):
            if path is not None:
                check_writable(path, option)
        _set_precision(x64)
        target = build_target(
            load_object(model), read_mapping(data, "data") if data is not None else {}, front=front.value, coords=None
        )
        comparison = measure(
            target,
            build_guide(guide) if guide is not None else None,
            {name: build_gradient(name) for name in estimators.split(",")},
            objective=build_objective(objective),
            num_particles=read_numbers(num_particles, "--num-particles"),
            num_repeats=num_repeats,
            key=_key(seed),
            at=at.split(","),
        )
        if out is not None:
            comparison.table.to_csv(out, index=False)
        if plot is not None:
            comparison.plot().savefig(plot)
    typer.echo(repr(comparison))


@app.command()
def info() -> None:
    """Show versions, devices, precision and which extras are installed."""
    import jax

    typer.echo(f"pushforward {importlib.metadata.version('pushforward')}")
    lines = {"python": f"{platform.python_version()} on {platform.platform()}"}
    extras: dict[str, list[str]] = {}
    for line in importlib.metadata.requires("pushforward") or ():
        name = re.split(r"[\[<>=!~; ]", line, maxsplit=1)[0]
        extra = re.search(r"extra == ['\"](.+?)['\"]", line)
        if extra is None:
            lines[name] = _installed(name) or "missing"
        else:
            # The CUDA extras are extras of JAX: what they add is the plugin.
            cuda = re.fullmatch(r"cuda\d+", extra.group(1))
            extras.setdefault(extra.group(1), []).append(f"jax-{cuda.group()}-plugin" if cuda else name)
    try:
        devices = jax.devices()
        lines["devices"] = f"{len(devices)} x {devices[0].device_kind} ({devices[0].platform})"
    # JAX fails in several ways, an empty AssertionError among them, when the platform it is told to use is absent.
    except Exception as error:
        reason = " ".join(str(error).split()) or f"no device of JAX_PLATFORMS={os.environ.get('JAX_PLATFORMS')}"
        lines["devices"] = f"none: {reason}"
    lines["default dtype"] = (
        "float64" if jax.config.read("jax_enable_x64") else "float32 (run --x64, or pf.enable_x64())"
    )
    for name, names in sorted(extras.items()):
        missing = [dependency for dependency in names if _installed(dependency) is None]
        found = ", ".join(f"{dependency} {_installed(dependency)}" for dependency in names if dependency not in missing)
        lines[f"extra {name}"] = f"not installed (without {', '.join(missing)})" if missing else f"installed ({found})"
    width = max(map(len, lines))
    for name, text in lines.items():
        typer.echo(f"  {name:<{width}}  {text}")


def main() -> None:
    """Run the command line and exit with its code."""
    app()


def _installed(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def _key(seed: int) -> Any:
    import jax

    return jax.random.key(seed)


def _set_precision(x64: bool) -> None:
    # The program on the command line is an application, so it may choose what the library leaves alone.
    import jax

    if x64:
        jax.config.update("jax_enable_x64", True)
        if "torch" in sys.modules or _installed("torch") is not None:
            import torch

            torch.set_default_dtype(torch.float64)


def _is_double(checkpoint: Path) -> bool:
    """Whether a checkpoint was written in double precision; what is wrong with a damaged one, reading it will say."""
    try:
        with zipfile.ZipFile(checkpoint) as archive:
            return bool(json.loads(archive.read("header.json"))["x64"])
    except (zipfile.BadZipFile, KeyError, TypeError, ValueError, OSError):
        return False


def _read_coords(path: Path | None) -> dict[str, Any] | None:
    if path is None:
        return None
    from ._script import read_mapping

    return {name: list(labels) for name, labels in read_mapping(path, "coords").items()}


@contextlib.contextmanager
def _reporting(debug: bool, checkpoint: Path | None = None) -> Iterator[None]:
    """Turn any error into one paragraph on stderr and exit code 1."""
    try:
        yield
    except KeyboardInterrupt:
        hint = f" Go on with: pushforward resume {checkpoint}" if checkpoint is not None and checkpoint.exists() else ""
        print(f"interrupted.{hint}", file=sys.stderr)
        raise typer.Exit(INTERRUPTED) from None
    except typer.Exit:
        raise
    except Exception as error:
        if debug:
            traceback.print_exc()
        else:
            print(_paragraph(error), file=sys.stderr)
        raise typer.Exit(ERROR) from None


def _paragraph(error: Exception) -> str:
    """The message of an error; with its kind and place if it is not one of ours."""
    text = " ".join(str(error).split()) or "no message"
    if not isinstance(error, ValueError | OSError | FloatingPointError | MemoryError):
        frames = [frame for frame in traceback.extract_tb(error.__traceback__) if "site-packages" not in frame.filename]
        place = f" at {frames[-1].filename}:{frames[-1].lineno}" if frames else ""
        text = f"{type(error).__name__}{place}: {text} (add --debug for the traceback)"
    return textwrap.fill(f"error: {text}", width=110, break_long_words=False, break_on_hyphens=False)


def _conclude(posterior: Any, *, out: Path | None, strict: bool, quiet: bool, whole: bool = False) -> None:
    """Show the result, say where it lies, and exit with the code of its verdict."""
    verdict = posterior.verdict
    if not quiet:
        if whole:
            typer.echo(posterior.summary().to_string(float_format=lambda value: f"{value:.4g}"))
            typer.echo(str(verdict))
        else:
            typer.echo(repr(posterior))
        if out is not None:
            typer.echo(f"saved {out}")
    elif verdict.status != "ok":
        print(verdict, file=sys.stderr)
    if verdict.status == "failed":
        raise typer.Exit(FAILED)
    if verdict.status == "doubtful" and strict:
        raise typer.Exit(DOUBTFUL)
