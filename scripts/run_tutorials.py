"""Run every tutorial from top to bottom in a fresh kernel; leave the committed notebooks as they are.

With ``PUSHFORWARD_FAST=1`` the notebooks choose small sizes. ``--write`` keeps the new outputs in the files.
"""

from __future__ import annotations

import argparse
import concurrent.futures
import functools
import sys
import time
from pathlib import Path

import nbformat
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError

FOLDER = Path(__file__).resolve().parents[1] / "tutorials"


def run(path: Path, write: bool) -> tuple[float, str]:
    """Execute one notebook; seconds, and what went wrong."""
    start = time.perf_counter()
    notebook = nbformat.read(path, as_version=4)
    try:
        resources = {"metadata": {"path": path.parent}}
        NotebookClient(notebook, timeout=600, kernel_name="python3", resources=resources).execute()
    except CellExecutionError as error:
        return time.perf_counter() - start, str(error)
    if write:
        nbformat.write(notebook, path)
    return time.perf_counter() - start, ""


def main() -> None:
    """Run the notebooks named on the command line, or all of them."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("notebooks", nargs="*", type=Path, help="default: every notebook in tutorials/")
    parser.add_argument("--write", action="store_true", help="write the executed notebooks back")
    parser.add_argument("--workers", type=int, default=1, help="notebooks side by side")
    options = parser.parse_args()
    notebooks = options.notebooks or sorted(FOLDER.glob("*.ipynb"))
    if not notebooks:
        sys.exit(f"no notebooks in {FOLDER}")
    with concurrent.futures.ProcessPoolExecutor(options.workers) as pool:
        results = pool.map(functools.partial(run, write=options.write), notebooks)
        for path, (seconds, error) in zip(notebooks, results, strict=True):
            if error:
                pool.shutdown(cancel_futures=True)
                sys.exit(f"{path.name} failed:\n{error}")
            print(f"{path.name}: {seconds:.0f} s", flush=True)


if __name__ == "__main__":
    main()
