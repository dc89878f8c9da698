"""Running the cells of a study, some at a time, each in a process of its own; what is finished is never run again."""

import contextlib
import multiprocessing
import os
import shutil
import signal
import time
import traceback
from collections.abc import Sequence
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from trimask.core.config import from_json, to_json
from trimask.core.errors import TrainingError
from trimask.core.running import Interrupt, end_with_parent, interruptible, progress
from trimask.data.stream import Stream
from trimask.studies import table
from trimask.studies.base import Study
from trimask.studies.table import Cell, Row
from trimask.studies.training import configuration
from trimask.train import record
from trimask.train.config import TrainConfig
from trimask.train.resolve import resolve
from trimask.train.steptime import measured_step

RUNS = "runs"
PATIENCE = 1.0
"""Seconds between two looks at whether an end was asked for."""


def sweep(study: Study, base: TrainConfig, folder: Path, total: int, console: Console) -> tuple[list[Row], Interrupt]:
    """Run what a study's plan asks for until it asks for nothing new; rows are in `folder` as they come.

    `total` is the number of runs expected in all. After a signal the runs at hand save where they are. Raises
    `TrainingError` when a run fails for a reason that is not the run's own.
    """
    rows = table.read(folder)
    running: dict[Connection, tuple[Any, Cell]] = {}

    def collect(end: Connection) -> Cell:
        """Take in what a process has sent before it ended."""
        process, cell = running.pop(end)
        row = _received(end, cell, folder)
        process.join()
        if row is not None:
            table.append(folder, row)
            rows.append(row)
            _discard(folder / RUNS, cell)
        return cell

    _tidy(folder / RUNS, rows)
    with interruptible() as asked, progress(console, total, len(rows), "runs") as show:
        try:
            while not asked:
                busy = {cell for _, cell in running.values()} | {*table.known(rows)}
                todo = list(dict.fromkeys(cell for cell in study.plan(base, rows) if cell not in busy))
                if not todo and not running:
                    break
                for cell in todo[: study.jobs - len(running)]:
                    end, process = _start(study, base, folder, cell)
                    running[end] = process, cell
                for end in wait(list(running), timeout=PATIENCE):
                    assert isinstance(end, Connection)
                    cell = collect(end)
                    show(len(rows), f"{cell.key}: {rows[-1].loss:.4f}")
        finally:
            for process, _ in running.values():
                process.terminate()  # a run that is asked to end saves its state first
            for process, _ in running.values():
                process.join()
            for end in list(running):
                with contextlib.suppress(TrainingError):
                    collect(end)  # it may have come to its end all the same
    return rows, asked


def _start(study: Study, base: TrainConfig, folder: Path, cell: Cell) -> tuple[Connection, Any]:
    spawned = multiprocessing.get_context("spawn")
    here, there = spawned.Pipe(duplex=False)
    made = configuration(base, cell, folder / RUNS)
    arguments = (there, type(study), to_json(study), to_json(made), cell, folder / RUNS)
    process = spawned.Process(target=_work, args=arguments)
    # Ctrl-C is for the parent alone, which asks for the end once; a child inherits what is ignored here.
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        process.start()
    finally:
        signal.signal(signal.SIGINT, before)
    there.close()
    return here, process


def _work(
    end: Connection, kind: type[Study], settings: dict[str, Any], config: dict[str, Any], cell: Cell, runs: Path
) -> None:
    """In the process of a cell: train, and send what came of it."""
    os.setsid()
    end_with_parent()
    runs.mkdir(parents=True, exist_ok=True)
    with (runs / f"{cell.key}.log").open("a") as log, contextlib.redirect_stdout(log), contextlib.redirect_stderr(log):
        try:
            study = from_json(kind, settings, cell.key)
            torch.set_num_threads(threads(study))
            end.send(study.work(from_json(TrainConfig, config, cell.key), cell))
        except Exception as e:
            traceback.print_exc()
            end.send(f"{type(e).__name__}: {e}")


def _received(end: Connection, cell: Cell, folder: Path) -> Row | None:
    try:
        message = end.recv()
    except EOFError:
        message = "its process ended without a word (out of memory?)"
    if isinstance(message, str):
        raise TrainingError(
            f"the run {cell.key} failed: {message}. Its output is in {folder / RUNS / cell.key}.log; the same command "
            "goes on from there"
        )
    return message


def _discard(runs: Path, cell: Cell) -> None:
    """Delete the run of a finished cell. Renamed first: a kill while deleting must not leave half a run."""
    run, doomed = runs / cell.key, runs / f".{cell.key}.old"
    if run.exists():
        run.rename(doomed)
    shutil.rmtree(doomed, ignore_errors=True)
    (runs / f"{cell.key}.log").unlink(missing_ok=True)


def _tidy(runs: Path, rows: Sequence[Row]) -> None:
    """Clear what a kill has left: runs whose row is there, half deleted ones, folders that never became a run."""
    for row in rows:
        _discard(runs, row.cell)
    for found in runs.glob("*"):
        if found.is_dir() and (found.name.startswith(".") or not (found / record.CONFIG).exists()):
            shutil.rmtree(found)


def threads(study: Study) -> int:
    """Threads of each of the runs that go on at a time."""
    return max(1, (os.cpu_count() or 1) // study.jobs)


def price(study: Study, base: TrainConfig, folder: Path, cells: Sequence[Cell], console: Console) -> float:
    """Core-seconds that these cells will take: steps of each shape, timed on real batches one after the other."""
    before, jobs = torch.get_num_threads(), study.jobs
    torch.set_num_threads(threads(study))
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
        f"{len(cells)} runs to do: about {threads(study) * seconds / 3600:.1f} core-hours, "
        f"{seconds / jobs / 3600:.1f} hours "
        f"with {jobs} at a time (steps of {len(times)} shapes timed in {time.monotonic() - started:.0f} s; without "
        "validation)",
        highlight=False,
    )
    return threads(study) * seconds
