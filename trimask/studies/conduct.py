"""Conducting a study: its folder, its price, its runs, its report.

study.json     the study's settings, the configuration that its runs share, the machine, the price
table.jsonl    a finished run a line (`studies.table`)
report.html    what they say, with plots; NAME.png beside it
runs/          runs that are not finished
"""

import fcntl
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rich.console import Console

from trimask.core.config import to_json
from trimask.core.errors import TrainingError, UsageError
from trimask.core.files import read_json, write_json
from trimask.studies import report, sweep, table
from trimask.studies.base import Study
from trimask.train.config import TrainConfig
from trimask.train.record import environment

STUDY = "study.json"
LEFT_OUT = ("jobs", "run", "tokenizers")
"""Settings that are not kept, since they do not change a row: the data and the vocabulary say which tokenizers."""


def conduct(study: Study, base: TrainConfig, folder: Path, console: Console | None = None) -> bool:
    """Run what is missing and write the report. False when a signal ended it; the same call goes on.

    Raises `UsageError` when the folder holds rows of other settings, `TrainingError` when it is in use.
    """
    console = console or Console()
    with _held(folder):
        begun = _agreed(study, base, folder)
        rows = table.read(folder)
        known = table.known(rows)
        expected = study.expected(base)
        if missing := [cell for cell in study.plan(base, rows) if cell not in known]:
            left = [*missing, *expected[len(rows) + len(missing) :]]
            seconds = sweep.price(study, base, folder, left, console)
            if not begun:
                content = {**_settings(study, base), "environment": _machine(), "core_hours": round(seconds / 3600, 2)}
                write_json(folder / STUDY, content)
        rows, asked = sweep.sweep(study, base, folder, len(expected), console)
        written = report.write(study.report(base, rows), rows, folder)
        console.print(f"{len(rows)} runs; {written}", highlight=False)
        if asked:
            console.print(f"stopped by {asked.name}, the same command goes on", highlight=False)
        return not asked


@contextmanager
def _held(folder: Path) -> Iterator[None]:
    """The folder for this process alone."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / ".lock").open("a") as handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise TrainingError(f"{folder} is in use by another study; wait for it or choose another --out") from None
        yield


def _settings(study: Study, base: TrainConfig) -> dict[str, Any]:
    def kept(config: object, prefix: str) -> dict[str, Any]:
        values = to_json(config).items()
        return {f"{prefix}{k}": v for k, v in values if k.split(".")[0] not in LEFT_OUT}

    return {"study": type(study).__name__, "settings": {**kept(study, "study."), **kept(base, "")}}


def _machine() -> dict[str, Any]:
    """Versions and processor, without what is this machine's alone."""
    found = environment()
    return {k: found[k] for k in ("trimask", "source", "python", "packages", "processor", "threads", "gpus")}


def _agreed(study: Study, base: TrainConfig, folder: Path) -> bool:
    """Whether the folder has begun this very study."""
    if not (folder / STUDY).exists():
        return False
    saved, now = read_json(folder / STUDY)["settings"], json.loads(json.dumps(_settings(study, base)["settings"]))
    for key in sorted({*saved, *now}):
        old, new = saved.get(key), now.get(key)
        if old != new:
            raise UsageError(
                f"{folder} was begun with {key}={old}, not {new}: its rows would not be comparable. Give the same "
                "settings to go on, or another --out"
            )
    return True
