"""`trimask study batch`: does the physical batch change the loss, and where does it begin to?

At a fixed number of tokens the batch grows in powers of two, with settings that follow kappa and with settings that
do not. With the rule the loss must stay within seed noise up to the critical batch; the fewest steps with which it
does is S_crit, measured at several horizons since it should be the same at all.
"""

import math
from collections.abc import Sequence

import chz
import numpy as np

from trimask.core.errors import UsageError
from trimask.studies import fits, plots
from trimask.studies.base import Report, Study, cell_of
from trimask.studies.table import Cell, Row
from trimask.train.config import TrainConfig


@chz.chz
class Batch(Study):
    """Batches in powers of two around the base's, at one horizon with and without the rule, at others with it."""

    powers: tuple[int, ...] = chz.field(default=(-3, -2, -1, 0, 1, 2, 3, 4), doc="powers of two of the base's rows")
    horizons: tuple[int, ...] = chz.field(default=(1, 4), doc="tokens of a run, in runs of the base")
    seeds: int = 3

    @chz.validate
    def _check(self):
        if len(self.powers) < 3 or 0 not in self.powers or self.seeds < 2 or min(self.horizons) < 1:
            raise UsageError("study: at least three powers with 0 among them, two seeds, and horizons of 1 or more")

    def plan(self, base: TrainConfig, rows: Sequence[Row]) -> list[Cell]:
        return [
            self._cell(base, power, horizon, scaled, seed)
            for seed in range(self.seeds)
            for horizon in self.horizons
            for scaled in ((True, False) if horizon == self.horizons[0] else (True,))
            for power in self.powers
        ]

    def expected(self, base: TrainConfig) -> list[Cell]:
        return self.plan(base, ())

    def _cell(self, base: TrainConfig, power: int, horizon: int, scaled: bool, seed: int) -> Cell:
        first = cell_of(base)
        rows = first.rows * 2.0**power
        steps = horizon * first.steps * first.rows / rows
        if rows < 1 or steps < 1:
            raise UsageError(f"study.powers: 2^{power} times {first.rows} rows is no batch of {horizon} base runs")
        return cell_of(base, rows=round(rows), steps=round(steps), scaled=scaled, seed=seed)

    def report(self, base: TrainConfig, rows: Sequence[Row]) -> Report:
        out = Report("Final loss against the physical batch")
        first = cell_of(base)
        groups = fits.by(rows, "scaled", "rows", "steps")
        noise = fits.spread(list(groups.values()))
        out.findings.append(f"Seed noise (standard deviation of one setting over its seeds): {noise:.4f} nats a token.")
        lines: list[list[str]] = []
        for horizon in self.horizons:
            tokens = horizon * first.steps * first.rows
            curves = {}
            for scaled in (True, False):
                basin = {b: g for (s, b, n), g in groups.items() if s == scaled and round(b * n / tokens, 1) == 1}
                if not basin:
                    continue
                curves["with the rule" if scaled else "without"] = means = fits.adjusted(basin)
                for b, loss in means.items():
                    gap, error, _ = fits.compared(basin[b], basin.get(first.rows, {}))
                    lines.append(
                        [str(horizon), "yes" if scaled else "no", f"{b:g}", f"{tokens / b:.0f}", f"{loss:.4f}",
                         f"{gap:+.4f} +- {error:.4f}"]
                    )  # fmt: skip
                if scaled and len(means) == len(self.powers):
                    rows_there, steps_there = knee(means, tokens, noise)
                    out.findings.append(
                        f"Horizon {horizon}: the loss rises by twice the seed noise beyond {rows_there:.0f} rows: "
                        f"S_crit = {steps_there:.0f} steps."
                    )
            if curves:
                out.plots[f"horizon-{horizon}"] = plots.basins(curves, f"horizon {horizon}", "rows of a step")
        columns = ["horizon", "rule", "rows", "steps", "loss", f"above {first.rows} rows (paired)"]
        out.tables.append(("Final loss", columns, lines))
        return out


def knee(means: "dict[float, float]", tokens: float, noise: float) -> tuple[float, float]:
    """(rows, steps) at which the loss leaves its floor by twice the noise, between two batches by interpolation.

    The floor is the mean of the better half. `tokens` is rows times steps. Infinite where it never leaves it.
    """
    floor = float(np.mean(sorted(means.values())[: math.ceil(len(means) / 2)]))
    limit = floor + 2 * noise
    sizes = sorted(means)
    above = [b for b in sizes if means[b] > limit]
    fine = [b for b in sizes if means[b] <= limit]
    if not above or not fine or above[-1] < fine[-1]:
        return math.inf, 0.0
    low = fine[-1]
    high = next(b for b in sizes if b > low)
    share = (limit - means[low]) / (means[high] - means[low])
    rows = low * (high / low) ** share
    return rows, tokens / rows
