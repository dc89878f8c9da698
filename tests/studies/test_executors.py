"""Where runs go: whoever dies, nothing is lost, and nothing is run twice to its end."""

import io
import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import chz
import pytest
import small_run
from rich.console import Console

from trimask.core.errors import UsageError
from trimask.core.files import whole_lines
from trimask.studies import table
from trimask.studies.batch import Batch
from trimask.studies.conduct import conduct
from trimask.studies.executors import Executor, Here, Processes, Ray, Slurm, Task

PROGRAM = Path(small_run.__file__)
CELLS = 12
"""Runs of the study of `small_run`: three batches, with the rule and without, two seeds."""
STEPS = 60


def start(root: Path, folder: Path, *settings: str) -> subprocess.Popen:
    with open(f"{folder}.out", "a") as out:
        command = [sys.executable, str(PROGRAM), str(root), str(folder), str(STEPS), *settings]
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "OMP_NUM_THREADS": "1"}
        environment["RAY_worker_niceness"] = "0"  # 15 by default: beside other work they would not get on
        return subprocess.Popen(command, stdout=out, stderr=out, env=environment)


def after(folder: Path, rows: int, process: subprocess.Popen, limit: float = 120.0) -> None:
    """Wait until so many runs have ended."""
    until = time.monotonic() + limit
    while len(whole_lines(folder / table.TABLE)) < rows:
        assert process.poll() is None and time.monotonic() < until, Path(f"{folder}.out").read_text()
        time.sleep(0.02)


def whole(folder: Path) -> None:
    """Every run is there, and came to its end once; one may have failed before."""
    rows = table.read(folder)
    ended = [line for line in whole_lines(folder / table.TABLE) if not json.loads(line)["failure"]]
    assert len(ended) == len(rows) == CELLS, Path(f"{folder}.out").read_text()
    assert not [row.failure for row in rows if row.failure] and set(Counter(r.cell for r in rows).values()) == {1}
    assert (folder / "report.html").exists() and not list((folder / "runs").iterdir())


def workers(name: str) -> list[int]:
    """Processes whose title begins so."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            if (entry / "cmdline").read_bytes().startswith(name.encode()):
                found.append(int(entry.name))
        except OSError:
            continue
    return found


@pytest.mark.parametrize(
    "sign, places",
    [
        (signal.SIGKILL, (2,)),
        *(pytest.param(s, (2, 5), marks=pytest.mark.long) for s in (signal.SIGKILL, signal.SIGTERM, signal.SIGINT)),
    ],
)
def test_a_study_that_is_killed_goes_on(prepared, tmp_path, sign, places):
    folder = tmp_path / "study"
    for rows in places:
        process = start(prepared, folder)
        after(folder, rows, process)
        process.send_signal(sign)
        assert process.wait(60) in (-sign, 130)
    assert start(prepared, folder).wait(120) == 0
    whole(folder)


def test_runs_that_are_stopped_before_they_listen_have_not_failed(base, tmp_path):
    """A process that is asked to end while it starts ends without a word."""
    handles = Processes(jobs=1).open()
    study = Batch(powers=(-1, 0, 1))
    cell = study.plan(base, ())[0]
    handles.start(Task.of(study, base, cell, tmp_path / "log", 1))
    assert handles.stop() == [(cell, None)]


@pytest.mark.long
def test_slurm_runs_each_cell_in_a_job(prepared, tmp_path):
    """submitit's own local cluster stands in for one with Slurm."""
    executor = Slurm(cluster="local", cpus=1, jobs=2, logs=str(tmp_path / "logs"))
    study = Batch(powers=(-1, 0, 1), horizons=(1,), seeds=2, executor=executor)
    assert conduct(study, small_run.config(prepared), tmp_path / "study", Console(file=io.StringIO()))
    assert len(table.read(tmp_path / "study")) == CELLS
    with pytest.raises(UsageError, match=r"study\.executor=Slurm"):
        Slurm(cluster="slurm", logs=str(tmp_path / "logs")).open()


@pytest.mark.parametrize(
    "make", [lambda: Processes(jobs=0), lambda: Here(jobs=2)], ids=["no jobs", "two runs in one process"]
)
def test_what_cannot_be_is_refused(make):
    with pytest.raises(UsageError, match="jobs"):
        make()


def test_executors_are_chosen_by_name():
    def chosen(*settings: str) -> Executor:
        return chz.Blueprint(Batch).make_from_argv(list(settings)).executor

    assert chosen() == Processes() and chosen("executor=Here") == Here()
    assert chosen("executor=Ray", "executor.cpus=4") == Ray(cpus=4)
    assert chosen("executor=Slurm", "executor.partition=gpu", "executor.gpus=8").jobs == 16


@pytest.mark.long
def test_ray_and_its_workers_may_die(prepared, tmp_path):
    """First a worker is killed, whose run another goes on with; then Ray itself, and the same command goes on."""
    folder, ray = tmp_path / "study", ("executor=Ray", "executor.jobs=2")
    process = start(prepared, folder, *ray)
    after(folder, 1, process)
    os.kill(workers("ray::run")[0], signal.SIGKILL)
    after(folder, 4, process)
    assert "tried again: WorkerCrashedError" in Path(f"{folder}.out").read_text()
    for name in ("ray::run", str(Path(sys.prefix) / "lib")):
        for pid in workers(name):
            os.kill(pid, signal.SIGKILL)
    assert process.wait(180) != 0
    assert start(prepared, folder, *ray).wait(180) == 0
    whole(folder)
