"""Progress of long data work: a bar on a terminal, a plain line now and then elsewhere."""

import time
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from trimask.core.units import si

LOG_SECONDS = 10.0
"""Time between plain lines where the output is not a terminal."""


class Counter:
    """Counts `done` of `total` (None: unknown) things called `unit`, and shows it."""

    def __init__(self, console: Console, title: str, unit: str, total: int | None = None):
        self._console, self._title, self._unit, self._total = console, title, unit, total
        self._done, self._start, self._last = 0, time.monotonic(), time.monotonic()
        self._bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[note]}"),
            TimeElapsedColumn(),
            console=console,
            disable=not console.is_terminal,
            transient=True,
        )
        self._task = self._bar.add_task(title, total=total, note=unit)

    def __enter__(self) -> Self:
        self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.stop()

    def advance(self, count: int, note: str = "") -> None:
        """Add `count`; `note` is shown beside it."""
        self._done += count
        speed = f"{si(self._done / max(time.monotonic() - self._start, 1e-3))} {self._unit}/s"
        self._bar.update(self._task, completed=self._done, note=f"{speed} {note}")
        if not self._console.is_terminal and time.monotonic() - self._last > LOG_SECONDS:
            self._last = time.monotonic()
            total = f"/{self._total}" if self._total else ""
            self._console.print(f"{self._title}: {self._done}{total} {self._unit}, {speed} {note}".rstrip())
