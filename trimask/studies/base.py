"""What a study is: a plan of trainings that depends on those that are finished, and a report of all."""

import dataclasses
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field

import chz
from matplotlib.figure import Figure

from trimask.core.errors import UsageError
from trimask.studies import training
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


@chz.chz
class Study(ABC):
    """Settings that all studies have. A study reads rows and never logs."""

    jobs: int = chz.field(default=2, doc="runs at a time; each has its share of the cores")

    @chz.validate
    def _check_jobs(self):
        if self.jobs < 1:
            raise UsageError(f"study.jobs={self.jobs} must be at least 1")

    def work(self, config: TrainConfig, cell: Cell) -> Row | None:
        """One cell, in a process of its own; None when a signal ended it."""
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
