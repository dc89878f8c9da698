"""Where the runs of a study go: this process, processes of this machine, a Ray cluster, Slurm.

A run is a function of its task and of its folder: one that is stopped saves its state there, and whoever gets the task
next goes on from it. So an executor keeps nothing, and all of them can be killed. Those on other machines need a
folder that all of them share.
"""

import contextlib
import multiprocessing
import os
import signal
import time
import traceback
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import TYPE_CHECKING, Any

import chz
import torch

from trimask.core.compute import usable_cores
from trimask.core.config import from_json, to_json
from trimask.core.errors import TrainingError, UsageError
from trimask.core.extras import joined_ray, needed
from trimask.core.running import end_with_parent
from trimask.studies.table import Cell, Row
from trimask.train.config import TrainConfig

if TYPE_CHECKING:
    from trimask.studies.base import Study


@dataclass(frozen=True)
class Task:
    """A run, as another process or machine can be told of it."""

    study: "type[Study]"
    settings: Mapping[str, Any]
    """Of the study, as JSON."""
    config: Mapping[str, Any]
    """Of the run, as JSON."""
    cell: Cell
    log: Path
    """Gets what the run prints."""
    threads: int | None = None
    """CPU threads; None leaves them as they are."""

    @classmethod
    def of(cls, study: "Study", config: TrainConfig, cell: Cell, log: Path, threads: int | None) -> "Task":
        return cls(type(study), to_json(study), to_json(config), cell, log, threads)


Outcome = Row | str | None
"""What became of a run: its row; why it failed; None when it was stopped."""


def run(task: Task) -> Outcome:
    """Do a task, here."""
    task.log.parent.mkdir(parents=True, exist_ok=True)
    with task.log.open("a") as log, contextlib.redirect_stdout(log), contextlib.redirect_stderr(log):
        try:
            study = from_json(task.study, dict(task.settings), task.cell.key)
            if task.threads is not None:
                torch.set_num_threads(task.threads)
            return study.work(from_json(TrainConfig, dict(task.config), task.cell.key), task.cell)
        except Exception as e:
            traceback.print_exc()
            return f"{type(e).__name__}: {e}"


class Handles(ABC):
    """Runs that were begun and have not been seen to end."""

    @abstractmethod
    def start(self, task: Task) -> None:
        """Begin a run."""

    @abstractmethod
    def ended(self, seconds: float) -> list[tuple[Cell, Outcome]]:
        """Runs that have ended, after waiting at most so long for the first."""

    @abstractmethod
    def stop(self) -> list[tuple[Cell, Outcome]]:
        """Ask all runs to save their state and to end, and wait until they have; some may have come to their end."""


@chz.chz
class Executor(ABC):
    """How many runs go on at a time, and where."""

    jobs: int = chz.field(default=2, doc="runs at a time")

    @chz.validate
    def _check_jobs(self):
        if self.jobs < 1:
            raise UsageError(f"study.executor.jobs={self.jobs} must be at least 1")

    @abstractmethod
    def open(self) -> Handles:
        """Ready to begin runs. Raises `UsageError` where what it needs is not installed or cannot be reached."""

    @property
    def threads(self) -> int | None:
        """CPU threads of a run, None where another machine decides."""
        return None


@chz.chz
class Here(Executor):
    """This process, one run after the other: the simplest to debug."""

    jobs: int = 1

    @chz.validate
    def _check_one(self):
        if self.jobs != 1:
            raise UsageError("study.executor=Here runs one after the other: jobs=1")

    def open(self) -> Handles:
        return _Here()


class _Here(Handles):
    def __init__(self):
        self.done: list[tuple[Cell, Outcome]] = []

    def start(self, task: Task) -> None:
        # A signal ends the run at hand, whose outcome then says so.
        self.done.append((task.cell, run(task)))

    def ended(self, seconds: float) -> list[tuple[Cell, Outcome]]:
        done, self.done = self.done, []
        return done

    def stop(self) -> list[tuple[Cell, Outcome]]:
        return self.ended(0.0)


@chz.chz
class Processes(Executor):
    """Processes of this machine; each has its share of the cores."""

    @property
    def threads(self) -> int | None:
        return max(1, usable_cores() // self.jobs)

    def open(self) -> Handles:
        return _Processes()


class _Processes(Handles):
    def __init__(self):
        self.running: dict[Connection, tuple[Any, Cell]] = {}

    def start(self, task: Task) -> None:
        spawned = multiprocessing.get_context("spawn")
        here, there = spawned.Pipe(duplex=False)
        process = spawned.Process(target=_send, args=(there, task))
        # Ctrl-C is for the parent alone, which asks for the end once; a child inherits what is ignored here.
        before = signal.signal(signal.SIGINT, signal.SIG_IGN)
        try:
            process.start()
        finally:
            signal.signal(signal.SIGINT, before)
        there.close()
        self.running[here] = process, task.cell

    def ended(self, seconds: float) -> list[tuple[Cell, Outcome]]:
        return [self._collect(end) for end in wait(list(self.running), timeout=seconds) if isinstance(end, Connection)]

    def stop(self) -> list[tuple[Cell, Outcome]]:
        for process, _ in self.running.values():
            process.terminate()  # a run that is asked to end saves its state first
        # One that had not begun to listen ends without a word.
        return [self._collect(end, silent=None) for end in list(self.running)]

    def _collect(
        self, end: Connection, silent: Outcome = "its process ended without a word (out of memory?)"
    ) -> tuple[Cell, Outcome]:
        process, cell = self.running.pop(end)
        try:
            outcome: Outcome = end.recv()
        except EOFError:
            outcome = silent
        process.join()
        return cell, outcome


def _send(end: Connection, task: Task) -> None:
    os.setsid()
    end_with_parent()
    end.send(run(task))


@chz.chz
class Ray(Executor):
    """A Ray cluster, or Ray on this machine where there is none."""

    address: str | None = chz.field(default=None, doc="of the cluster; None: RAY_ADDRESS, else this machine")
    cpus: int = chz.field(default=1, doc="CPUs of a run")
    gpus: float = chz.field(default=0.0, doc="GPUs of a run")

    @property
    def threads(self) -> int | None:
        return self.cpus

    def open(self) -> Handles:
        return _Ray(joined_ray("study.executor=Ray", self.address), self.cpus, self.gpus)


class _Ray(Handles):
    def __init__(self, ray: Any, cpus: int, gpus: float):
        self.ray = ray
        # Whether a run is tried again is decided where failures are counted.
        self.remote = ray.remote(num_cpus=cpus, num_gpus=gpus, max_retries=0)(run)
        self.running: dict[Any, Cell] = {}

    def start(self, task: Task) -> None:
        self.running[self._asked(lambda: self.remote.remote(task))] = task.cell

    def ended(self, seconds: float) -> list[tuple[Cell, Outcome]]:
        ready, _ = self._asked(lambda: self.ray.wait(list(self.running), timeout=seconds))
        return [self._collect(one) for one in ready]

    def stop(self) -> list[tuple[Cell, Outcome]]:
        for one in self.running:
            self._asked(lambda one=one: self.ray.cancel(one, force=False))  # as Ctrl-C: the run saves its state
        return [self._collect(one) for one in list(self.running)]

    def _collect(self, one: Any) -> tuple[Cell, Outcome]:
        cell = self.running.pop(one)
        try:
            return cell, self.ray.get(one)
        except self.ray.exceptions.TaskCancelledError:
            return cell, None
        except self.ray.exceptions.RayError as e:
            return cell, f"{type(e).__name__}: {str(e).strip().splitlines()[0]}"

    def _asked(self, what: Any) -> Any:
        try:
            return what()
        except (self.ray.exceptions.RayError, ConnectionError) as e:
            raise TrainingError(f"Ray does not answer ({type(e).__name__}); the same command goes on") from None


@chz.chz
class Slurm(Executor):
    """Jobs of a Slurm cluster, through submitit."""

    jobs: int = chz.field(default=16, doc="jobs at a time")
    minutes: int = chz.field(default=240, doc="limit of a job; what is not done by then has failed, and is tried on")
    cpus: int = chz.field(default=8, doc="CPUs of a job")
    gpus: int = chz.field(default=0, doc="GPUs of a job")
    partition: str | None = None
    cluster: str = chz.field(default="slurm", doc="slurm, or local for a try on this machine")
    logs: str = chz.field(default="slurm", doc="folder of what submitit writes, on the shared file system")

    @property
    def threads(self) -> int | None:
        return self.cpus

    def open(self) -> Handles:
        submitit = needed("submitit", "study.executor=Slurm", "slurm")
        try:
            made = submitit.AutoExecutor(self.logs, cluster=self.cluster)
        except (RuntimeError, ValueError) as e:
            raise UsageError(f"study.executor=Slurm: {e}") from None
        own = {"slurm_partition": self.partition} if self.partition else {}
        made.update_parameters(timeout_min=self.minutes, cpus_per_task=self.cpus, gpus_per_node=self.gpus, **own)
        return _Slurm(made)


class _Slurm(Handles):
    def __init__(self, executor: Any):
        self.executor, self.running = executor, {}

    def start(self, task: Task) -> None:
        self.running[self.executor.submit(run, task)] = task.cell

    def ended(self, seconds: float) -> list[tuple[Cell, Outcome]]:
        done = [job for job in self.running if job.done()]
        if not done:
            time.sleep(seconds)
        return [self._collect(job) for job in done]

    def stop(self) -> list[tuple[Cell, Outcome]]:
        for job in self.running:
            job.cancel()
        return [self._collect(job) for job in list(self.running)]

    def _collect(self, job: Any) -> tuple[Cell, Outcome]:
        cell = self.running.pop(job)
        try:
            return cell, job.result()
        except Exception as e:  # whatever the job raised, or that it has no result
            return cell, f"{type(e).__name__}: {str(e).strip().splitlines()[-1]}"
