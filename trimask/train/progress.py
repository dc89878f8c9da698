"""What the user sees of a run: a live bar on a terminal, plain lines elsewhere."""

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

from trimask.core.units import duration, si

LINE_SECONDS = 5.0
"""Plain lines come no more often than this."""


class Display:
    """Prints messages and the state of a run."""

    def __init__(self, console: Console, bar: Progress | None):
        self.console, self.bar = console, bar
        self.task = bar.add_task("train", total=1.0, text="") if bar else None
        self.last = -LINE_SECONDS

    def say(self, text: str) -> None:
        """A line that stays."""
        self.console.print(text, markup=False, highlight=False, soft_wrap=True)

    def advance(self, progress: float) -> None:
        """Move the bar."""
        if self.bar and self.task is not None:
            self.bar.update(self.task, completed=min(progress, 1.0))

    def row(self, step: int, progress: float, seconds: float, row: Mapping[str, Any], final: bool = False) -> None:
        """Show a row of metrics."""
        text = describe(row)
        if self.bar and self.task is not None:
            self.bar.update(self.task, text=f"step {step}  {text}")
        elif final or time.monotonic() - self.last >= LINE_SECONDS:
            self.last = time.monotonic()
            left = duration(seconds * (1 - progress) / progress) if 0 < progress < 1 else "0s"
            self.say(f"step {step}  {min(progress, 1):.0%}  {text}  {left} left")


def describe(row: Mapping[str, Any]) -> str:
    """Losses per modality in nats per token, speed, and the share of the matmul rate that is reached."""
    losses = " ".join(f"{name} {value:.3f}" for name, value in row["losses"].items())
    speed = f"{si(row['tokens_per_second'], ' tokens/s')}  {si(row['flops_per_second'], 'FLOP/s')}"
    return f"loss {row['loss']:.3f} ({losses})  {speed} ({row['matmul_share']:.0%} of matmul)"


@contextmanager
def display(console: Console | None = None, quiet: bool = False) -> Iterator[Display]:
    """A display for the standard output; a quiet one shows nothing."""
    console = console or Console(quiet=quiet)
    if not console.is_terminal:
        yield Display(console, None)
        return
    columns = [BarColumn(bar_width=24), TaskProgressColumn(), TextColumn("{task.fields[text]}"), TimeRemainingColumn()]
    with Progress(*columns, console=console, speed_estimate_period=300) as bar:
        yield Display(console, bar)
