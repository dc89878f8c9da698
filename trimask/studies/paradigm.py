"""`trimask study paradigm`: masked diffusion against autoregression, in the same model, data and loop."""

import dataclasses
import math
from collections.abc import Sequence
from typing import ClassVar

import chz

from trimask.core.errors import UsageError
from trimask.studies.base import Report, cell_of
from trimask.studies.compare import Compare, Variant, row_key
from trimask.studies.table import Cell, Row, known
from trimask.train.config import TrainConfig

CAUSAL: Variant = (("model.vocabulary.sight", "causal"),)


@chz.chz
class Paradigm(Compare):
    """Both ways to train, in the recipe's layout and with a position a code, each at its own best learning rate.

    The loss of masked diffusion is a bound, that of autoregression exact; where codes share a position the latter draws
    them independently of each other. Every length tries the rates on the first seed; the best has the others.
    """

    lengths: tuple[float, ...] = chz.field(default=(1, 4), doc="lengths of runs, in budgets of the recipe")
    powers: tuple[int, ...] = chz.field(default=(-1, 0, 1), doc="learning rates, as powers of two times the recipe's")

    title: ClassVar[str] = "Masked diffusion and autoregression"
    threats: ClassVar[tuple[str, ...]] = (
        "The loss of masked diffusion is an upper bound, that of autoregression is exact.",
        "Multipliers of the parts were searched for masked diffusion; only the rate is tuned for both.",
    )

    @chz.validate
    def _check_grid(self):
        if not self.lengths or min(self.lengths) <= 0 or not self.powers:
            raise UsageError("study.lengths must be positive numbers and study.powers must not be empty")

    def variants(self, base: TrainConfig) -> dict[str, Variant]:
        if base.model.vocabulary.causal:
            raise UsageError("study paradigm sets model.vocabulary.sight itself: give it a recipe that is not causal")
        single: Variant = ()
        for number, row in enumerate(base.model.vocabulary.modalities):
            single += ((f"{row_key(number)}.patch", 1),) if row.patch > 1 else ()
            single += ((f"{row_key(number)}.stack", "False"),) if row.stack else ()
        out: dict[str, Variant] = {"masked diffusion": (), "autoregression": CAUSAL}
        if single:
            out |= {f"{name}, a position a code": (*single, *variant) for name, variant in out.items()}
        return out

    def plan(self, base: TrainConfig, rows: Sequence[Row]) -> list[Cell]:
        tried = [cell for cells in self._tried(base).values() for cell in cells]
        sure = [dataclasses.replace(cell, seed=s) for cell in self._best(base, rows) for s in range(1, self.seeds)]
        return [*tried, *sure]

    def expected(self, base: TrainConfig) -> list[Cell]:
        first = [cells[0] for cells in self._tried(base).values()]
        return [*self.plan(base, ()), *(dataclasses.replace(c, seed=s) for c in first for s in range(1, self.seeds))]

    def report(self, base: TrainConfig, rows: Sequence[Row]) -> Report:
        out, best = Report(self.title), self._best(base, rows)
        names = {variant: name for name, variant in self.variants(base).items()}
        for steps in self._steps(base):
            chosen = {cell.variant: cell for cell in best if cell.steps == steps}
            own = [r for r in rows if r.cell.steps == steps and r.cell.rate == _rate(chosen, r.cell.variant)]
            part = super().report(base, own)
            rates = ", ".join(f"{names[v]} {cell.rate:.4g}" for v, cell in chosen.items())
            out.findings += [f"{steps} steps, best rates: {rates}.", *(f"{steps} steps: {f}" for f in part.findings)]
            out.tables += [(f"{steps} steps. {caption}", head, lines) for caption, head, lines in part.tables]
        return out

    def _steps(self, base: TrainConfig) -> list[int]:
        return [round(length * cell_of(base).steps) for length in self.lengths]

    def _tried(self, base: TrainConfig) -> dict[tuple[Variant, int], list[Cell]]:
        """Cells of the first seed, by variant and steps."""
        rates = [base.optimizer.rate * 2.0**power for power in self.powers]
        return {
            (variant, steps): [cell_of(base, rate=rate, steps=steps, variant=variant) for rate in rates]
            for steps in self._steps(base)
            for variant in self.variants(base).values()
        }

    def _best(self, base: TrainConfig, rows: Sequence[Row]) -> list[Cell]:
        """Of every variant and length whose rates are all tried the cell with the lowest loss."""
        done = known(rows)
        whole = [cells for cells in self._tried(base).values() if all(cell in done for cell in cells)]
        best = [min(cells, key=lambda cell: done[cell].loss) for cells in whole]
        return [cell for cell in best if math.isfinite(done[cell].loss)]


def _rate(chosen: dict[Variant, Cell], variant: Variant) -> float | None:
    return chosen[variant].rate if variant in chosen else None
