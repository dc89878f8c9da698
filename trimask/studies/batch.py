"""`trimask study batch`: does the physical batch change the loss, and where does it begin to?

At a fixed number of tokens the batch grows in powers of two, with settings that follow kappa and with settings that
do not. With the rule the loss must stay within seed noise up to the critical batch; the fewest steps with which it
does is S_crit, measured at several horizons since it should be the same at all.
"""

import math
from collections.abc import Mapping, Sequence

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
        if base.base is None:
            raise UsageError("study batch compares settings that follow a base point with such that do not: add bases")
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
        rows, tokens = first.rows * 2.0**power, horizon * first.steps * first.rows
        if rows != int(rows) or rows < 1 or tokens % rows:
            raise UsageError(
                f"study.powers: 2^{power} times {first.rows} rows is no batch that divides {horizon} times "
                f"{first.steps} steps; leave it out"
            )
        return cell_of(base, rows=int(rows), steps=round(tokens / rows), scaled=scaled, seed=seed)

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
                basin = {b: g for (s, b, n), g in groups.items() if s == scaled and b * n == tokens}
                if not basin:
                    continue
                curves["with the rule" if scaled else "without"] = means = fits.adjusted(basin)
                for b, loss in means.items():
                    gap, error, _ = fits.compared(basin[b], basin.get(first.rows, {}))
                    lines.append(
                        [str(horizon), "yes" if scaled else "no", f"{b:g}", f"{tokens / b:.0f}", f"{loss:.4f}",
                         f"{gap:+.4f} +- {error:.4f}"]
                    )  # fmt: skip
                paired = fits.residual(basin)
                label = "with" if scaled else "without"
                out.findings.append(
                    f"Horizon {horizon}, {label} the rule: from {min(basin)} to {max(basin)} rows the loss ranges over "
                    f"{max(means.values()) - min(means.values()):.4f} nats; noise that seeds do not share {paired:.4f}."
                )
                if scaled and len(means) == len(self.powers):
                    there = knee(means, paired / math.sqrt(self.seeds))
                    out.findings.append(
                        f"Horizon {horizon}: no critical batch up to {max(basin)} rows: S_crit is at most "
                        f"{tokens / max(basin):.0f} steps."
                        if there is None
                        else f"Horizon {horizon}: the loss leaves its floor at {there:.0f} rows: "
                        f"S_crit = {tokens / there:.0f} steps."
                    )
            if curves:
                out.plots[f"horizon-{horizon}"] = plots.basins(curves, f"horizon {horizon}", "rows of a step")
        columns = ["horizon", "rule", "rows", "steps", "loss", f"above {first.rows} rows (paired)"]
        out.tables.append(("Final loss", columns, lines))
        return out


def knee(means: Mapping[float, float], error: float) -> float | None:
    """Rows at which the mean loss leaves its floor by twice its error, by interpolation in the log of the rows.

    The floor is the mean of the better half. None where the largest batch is still on it, or the error is not known.
    """
    floor = float(np.mean(sorted(means.values())[: math.ceil(len(means) / 2)]))
    limit = floor + 2 * error
    sizes = sorted(means)
    fine = [b for b in sizes if means[b] <= limit]
    if not fine or fine[-1] == sizes[-1]:
        return None
    low, high = fine[-1], sizes[sizes.index(fine[-1]) + 1]
    share = (limit - means[low]) / (means[high] - means[low]) if math.isfinite(means[high]) else 0.0
    return low * (high / low) ** share
