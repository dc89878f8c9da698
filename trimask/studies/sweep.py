"""Running the cells of a study, some at a time; what is finished is never run again, what failed is tried again."""

import shutil
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from rich.console import Console

from trimask.core.running import Interrupt, interruptible, progress
from trimask.data.stream import Stream
from trimask.studies import table
from trimask.studies.base import Study
from trimask.studies.executors import Handles, Outcome, Task
from trimask.studies.table import Cell, Row
from trimask.studies.training import configuration
from trimask.train import record
from trimask.train.config import TrainConfig
from trimask.train.resolve import resolve
from trimask.train.steptime import measured_step

RUNS = "runs"
PATIENCE = 1.0
"""Seconds between two looks at whether an end was asked for."""


@dataclass(frozen=True)
class Swept:
    """What a sweep came to."""

    rows: list[Row]
    """All that is in the table now."""
    failed: list[Row]
    """Of this sweep, without a loss after all tries."""
    stopped: str | None
    """The signal that ended it."""


def sweep(study: Study, base: TrainConfig, folder: Path, total: int, console: Console) -> Swept:
    """Run what a study's plan asks for until it asks for nothing new; rows are in `folder` as they come.

    `total` is the number of runs expected in all. A run that fails is tried again `study.retries` times, from where it
    was; then its row says why, and the others go on. After a signal the runs at hand save where they are.
    """
    rows = {row.cell: row for row in table.read(folder)}
    before = len(table.finished([*rows.values()]))
    tries: Counter[Cell] = Counter()
    begun: set[Cell] = set()
    _tidy(folder / RUNS, [*rows.values()])

    def take_in(ended: Sequence[tuple[Cell, Outcome]], asked: Interrupt) -> None:
        """Rows of what has ended; what was stopped is left as it is, what failed may begin again."""
        for cell, outcome in ended:
            begun.discard(cell)
            if outcome is None:
                asked.name = asked.name or "a signal"
            elif isinstance(outcome, Row):
                table.append(folder, outcome)
                rows[cell] = outcome
                _discard(folder / RUNS, cell)
                show(len(table.finished([*rows.values()])), f"{cell.key}: {outcome.loss:.4f}")
            elif tries[cell] <= study.retries:
                console.print(f"{cell.key} failed, tried again: {outcome}", highlight=False, markup=False)
            else:
                rows[cell] = Row(cell, float("nan"), {}, 0, 0.0, failure=outcome)
                table.append(folder, rows[cell])
                console.print(f"{cell.key} failed: {outcome}", highlight=False, markup=False)

    with interruptible() as asked, progress(console, total, before, "runs") as show:
        handles: Handles = study.executor.open()
        try:
            while not asked:
                done = table.known([*rows.values()])
                given_up = {cell for cell in tries if cell not in done and tries[cell] > study.retries}
                plan = dict.fromkeys(study.plan(base, [*done.values()]))
                todo = [cell for cell in plan if cell not in done and cell not in begun and cell not in given_up]
                if not todo and not begun:
                    break
                for cell in todo[: study.executor.jobs - len(begun)]:
                    tries[cell] += 1
                    begun.add(cell)
                    config = configuration(base, cell, folder / RUNS)
                    log = folder / RUNS / f"{cell.key}.log"
                    handles.start(Task.of(study, config, cell, log, study.executor.threads))
                take_in(handles.ended(PATIENCE), asked)
        finally:
            take_in(handles.stop(), asked)
    failed = [row for cell, row in rows.items() if row.failure and tries[cell]]
    return Swept([*rows.values()], failed, asked.name)


def _discard(runs: Path, cell: Cell) -> None:
    """Delete the run of a finished cell. Renamed first: a kill while deleting must not leave half a run."""
    run, doomed = runs / cell.key, runs / f".{cell.key}.old"
    if run.exists():
        run.rename(doomed)
    shutil.rmtree(doomed, ignore_errors=True)
    (runs / f"{cell.key}.log").unlink(missing_ok=True)


def _tidy(runs: Path, rows: Sequence[Row]) -> None:
    """Clear what a kill has left: runs whose row is there, half deleted ones, folders that never became a run."""
    for row in table.finished(rows):
        _discard(runs, row.cell)
    for found in runs.glob("*"):
        if found.is_dir() and (found.name.startswith(".") or not (found / record.CONFIG).exists()):
            shutil.rmtree(found)


def price(study: Study, base: TrainConfig, folder: Path, cells: Sequence[Cell], console: Console) -> float:
    """Core-seconds that these cells would take on this machine: steps of each shape, timed on real batches."""
    before, jobs = torch.get_num_threads(), study.executor.jobs
    threads = study.executor.threads or before
    torch.set_num_threads(threads)
    times: dict[tuple[int, int, int], float] = {}
    started = time.monotonic()
    try:
        for cell in cells:
            shape = (cell.width, cell.depth, cell.rows)
            if shape not in times:
                config = configuration(base, cell, folder)
                source = Stream(config.data, config.model.vocabulary)
                times[shape] = measured_step(resolve(config), source, config.dtype)
    finally:
        torch.set_num_threads(before)
    seconds = sum(cell.steps * times[cell.width, cell.depth, cell.rows] for cell in cells)
    console.print(
        f"{len(cells)} runs to do: about {threads * seconds / 3600:.1f} core-hours, {seconds / jobs / 3600:.1f} hours "
        f"with {jobs} at a time (steps of {len(times)} shapes timed in {time.monotonic() - started:.0f} s; without "
        "validation)",
        highlight=False,
    )
    return threads * seconds
