"""Live progress, drawn between chunks. Nothing here is called from inside a compiled program."""

from __future__ import annotations

import sys
import time
from types import TracebackType
from typing import Any


class Progress:
    """One line that says how far a run is: a live bar on a terminal or in a notebook, sparse plain lines elsewhere.

    Args:
        label: what is running.
        plain_every: seconds between lines when the output is not a terminal.
    """

    def __init__(self, label: str, *, plain_every: float = 10.0) -> None:
        self.label = label
        self.plain_every = plain_every
        self._bar: Any = None
        self._task: Any = None
        self._began = time.monotonic()
        self._last_plain = self._began

    def __enter__(self) -> Progress:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
        from rich.progress import Progress as Bar

        console = Console(file=sys.stderr)
        if console.is_terminal or console.is_jupyter:
            self._bar = Bar(
                TextColumn("{task.description}"),
                BarColumn(bar_width=24),
                MofNCompleteColumn(),
                TextColumn("{task.fields[figures]}"),
                TimeElapsedColumn(),
                TimeRemainingColumn(),
                console=console,
                auto_refresh=False,
            )
            self._bar.start()
            self._task = self._bar.add_task(self.label, total=None, figures="compiling")
            self._bar.refresh()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.stop()

    def update(self, step: int, total: int, figures: dict[str, str]) -> None:
        """Show that ``step`` of ``total`` steps are done."""
        text = "  ".join(f"{k} {v}" for k, v in figures.items())
        if self._bar is not None:
            self._bar.update(self._task, completed=step, total=total, figures=text)
            self._bar.refresh()
            return
        now = time.monotonic()
        if now - self._last_plain >= self.plain_every:
            self._last_plain = now
            print(
                f"{self.label}: step {step}/{total}  {text}  ({now - self._began:.0f} s)", file=sys.stderr, flush=True
            )
