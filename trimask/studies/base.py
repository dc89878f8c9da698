"""What a study is: a plan of trainings that depends on those that are finished, and a report of all."""

import dataclasses
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import chz
from matplotlib.figure import Figure

from trimask.core.errors import UsageError
from trimask.studies import training
from trimask.studies.executors import Executor, Processes
from trimask.studies.table import Cell, Row
from trimask.train.config import TrainConfig


@dataclass
class Report:
    """What a study found: sentences, tables of text, and plots by name."""

    title: str
    findings: list[str] = field(default_factory=list)
    tables: list[tuple[str, list[str], list[list[str]]]] = field(default_factory=list)
    """(caption, columns, lines)."""
    plots: dict[str, Figure] = field(default_factory=dict)
    data: dict[str, Any] = field(default_factory=dict)
    """What programs go on with, by name: JSON beside the page."""


@chz.chz
class Study(ABC):
    """Settings that all studies have. A study reads rows and never logs."""

    threats: ClassVar[tuple[str, ...]] = ()
    """What may make its findings wrong, or true of its runs alone."""

    executor: Executor = chz.field(
        default_factory=Processes,
        meta_factory=chz.factories.subclass(Executor, default_cls=Processes),
        doc="where runs go: Here, Processes, Ray or Slurm",
    )
    retries: int = chz.field(default=1, doc="how often a run that fails is tried again, from where it was")
    partial: bool = chz.field(default=False, doc="report what there is although runs have failed")

    @chz.validate
    def _check_retries(self):
        if self.retries < 0:
            raise UsageError(f"study.retries={self.retries} must not be negative")

    def work(self, config: TrainConfig, cell: Cell) -> Row | None:
        """One cell, wherever the executor puts it; None when a signal ended it."""
        return training.work(config, cell)

    @abstractmethod
    def plan(self, base: TrainConfig, rows: Sequence[Row]) -> list[Cell]:
        """All cells that can be run now that `rows` are known, the finished ones among them, most telling first."""

    @abstractmethod
    def expected(self, base: TrainConfig) -> list[Cell]:
        """The cells of the whole study, as far as they can be told before it starts: for its price."""

    @abstractmethod
    def report(self, base: TrainConfig, rows: Sequence[Row]) -> Report:
        """What the rows say so far."""


def cell_of(base: TrainConfig, **changes) -> Cell:
    """The cell of the base configuration, changed."""
    model, steps = base.model, base.budget.steps
    if steps is None:
        raise UsageError("a study needs a budget in steps; write budget.steps=1000 and no other budget")
    rule = model.parametrization
    first = Cell(model.width, model.depth, base.rows, steps, base.optimizer.rate, parametrization=rule)
    return dataclasses.replace(first, **changes)
