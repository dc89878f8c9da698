"""Conducting a study: its folder, its price, its runs, its report.

study.json     the study's settings, the configuration that its runs share, the machine, the price
table.jsonl    a run that ended a line (`studies.table`); table.parquet is made of it
report.html    what they say, with plots; NAME.png beside it
runs/          runs that are not finished
"""

import fcntl
import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rich.console import Console

from trimask.core.config import to_json
from trimask.core.errors import TrainingError, UsageError
from trimask.core.files import read_json, write_json
from trimask.data.manifest import read_manifest
from trimask.studies import STUDIES, report, sweep, table
from trimask.studies.base import Study
from trimask.studies.table import Cell, Row
from trimask.train.config import TrainConfig
from trimask.train.record import environment

STUDY = "study.json"
THREATS = (
    "What is not varied is as the recipe has it: settings tuned for one side of a comparison may not suit the other.",
    "Losses are bounds on one held-out sample of the same data, shared by all runs: it has an error of its own, beside "
    "each loss, that no comparison sees.",
)
"""Of every study."""
LEFT_OUT = ("executor", "retries", "partial", "run", "tokenizers")
"""Settings that are not kept, since they do not change a row: the sets' fingerprints say which tokenizers."""


def conduct(study: Study, base: TrainConfig, folder: Path, console: Console | None = None, command: str = "") -> bool:
    """Run what is missing and write the report. False when a signal ended it; the same call goes on.

    The study's own settings may change between calls (one more width, one more seed): rows that are there stay and
    are used where they fit. `command` is what was typed, for the report. Raises `UsageError` when the folder holds rows
    of runs with other settings, or the runs have no validation, `TrainingError` when it is in use, and after runs that
    failed, unless `study.partial`.
    """
    console = console or Console()
    if base.validation is None:
        raise UsageError("a study compares losses on held-out data: the recipe needs a validation")
    with held(folder):
        now = _content(study, base)
        before = _agreed(now, folder)
        rows = table.read(folder)
        known = table.known(rows)
        left: list[Cell] = []
        if missing := [cell for cell in study.plan(base, [*known.values()]) if cell not in known]:
            left = [*missing, *study.expected(base)[len(known) + len(missing) :]]
            hours = round(sweep.price(study, base, folder, left, console) / 3600, 2)
            write_json(folder / STUDY, {**now, "core_hours": before.get("core_hours", hours)})
            if before and before["environment"]["source"] != now["environment"]["source"]:
                console.print("the package has changed since this study began; its rows are of both", highlight=False)
        swept = sweep.sweep(study, base, folder, len(known) + len(left), console)
        done = table.finished(swept.rows)
        table.write_parquet(folder, swept.rows)
        if swept.failed and not study.partial:
            raise TrainingError(_failures(swept.failed, folder))
        made_of = f"{len(done)} runs" + (f", {len(swept.failed)} more failed" if swept.failed else "")
        kept = {**now, **(read_json(folder / STUDY) if (folder / STUDY).exists() else {}), "settings": now["settings"]}
        frame = _frame(study, base, kept, command)
        written = report.write(study.report(base, done), made_of, folder, frame)
        console.print(f"{made_of}; {written}", highlight=False)
        if swept.stopped:
            console.print(f"stopped by {swept.stopped}, the same command goes on", highlight=False)
        return not swept.stopped


def _frame(study: Study, base: TrainConfig, kept: Mapping[str, Any], command: str) -> report.Frame:
    """What stands around the findings: of the study, its runs, and the machine that it began on."""
    own = ", ".join(f"{k} = {_told(v)}" for k, v in kept["settings"].items() if not str(v).startswith("class "))
    machine, model = kept["environment"], base.model
    data = ", ".join(f"{Path(path).parent.name}/{Path(path).name} ({mark[:8]})" for path, mark in kept["sets"].items())
    return report.Frame(
        STUDIES.get(type(study).__name__.lower(), ""),
        (
            f"Settings of the study: {own}.",
            f"Its runs, where nothing else is said: {model.depth} blocks of width {model.width}, heads of "
            f"{model.head_dim}, {base.rows} rows of {base.data.slots} positions a step, rate "
            f"{base.optimizer.rate:.4g}, {base.budget.steps} steps, {base.dtype}; all settings are in {STUDY}.",
            f"Data, with the beginnings of their fingerprints: {data}.",
            f"Begun on {machine['processor']}, {machine['threads']} threads, trimask {machine['trimask']}; about "
            f"{kept.get('core_hours', 0):.3g} core-hours were expected.",
        ),
        (*study.threats, *THREATS),
        command,
    )


def _told(value: object) -> str:
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)


def _failures(failed: Sequence[Row], folder: Path) -> str:
    """What failed and why, each reason once."""
    reasons: dict[str, list[str]] = {}
    for row in failed:
        reasons.setdefault(row.failure, []).append(row.cell.key)
    more = {why: f" and {len(keys) - 1} more" if len(keys) > 1 else "" for why, keys in reasons.items()}
    told = "; ".join(f"{why} ({keys[0]}{more[why]})" for why, keys in reasons.items())
    return (
        f"{len(failed)} runs failed: {told}. What they printed is in {folder / sweep.RUNS}. The same command tries "
        "them again; with study.partial=True the report is made of the others"
    )


@contextmanager
def held(folder: Path) -> Iterator[None]:
    """The folder for this process alone."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / ".lock").open("a") as handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise TrainingError(f"{folder} is in use by another study; wait for it or choose another --out") from None
        yield


def _content(study: Study, base: TrainConfig) -> dict[str, Any]:
    """What is written down before a study starts, without what is this machine's alone."""

    def kept(config: object) -> dict[str, Any]:
        return {k: v for k, v in to_json(config).items() if k.split(".")[0] not in LEFT_OUT}

    assert base.validation is not None
    sets = [s.path for s in (*base.data.sources, *base.validation.data.sources)]
    machine = environment()
    names = ("trimask", "source", "python", "packages", "processor", "threads", "gpus")
    content = {
        "study": type(study).__name__,
        "settings": kept(study),
        "runs": kept(base),
        "sets": {path: read_manifest(path).fingerprint for path in sets},
        "environment": {k: machine[k] for k in names},
    }
    return json.loads(json.dumps(content))


def _agreed(now: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    """What the folder was begun with, empty where it is new. Raises `UsageError` where its runs are others."""
    if not (folder / STUDY).exists():
        return {}
    saved = read_json(folder / STUDY)
    for part in ("runs", "sets"):
        for key in sorted({*saved[part], *now[part]}):
            old, new = saved[part].get(key), now[part].get(key)
            if old != new:
                raise UsageError(
                    f"{folder} was begun with {key}={old}, not {new}: its rows would not be comparable. Give the same "
                    "settings to go on, or another --out"
                )
    return saved
