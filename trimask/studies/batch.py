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

Basin = Mapping[float, Mapping[int, float]]
"""Loss by rows of a step, then by seed."""


@chz.chz
class Batch(Study):
    """Batches in powers of two around the base's, at one horizon with and without the rule; large ones at others."""

    powers: tuple[int, ...] = chz.field(
        default=(-3, -2, -1, 0, 1, 2, 3, 4), doc="powers of two of the base's rows, at the first horizon"
    )
    horizons: tuple[int, ...] = chz.field(default=(1, 4), doc="tokens of a run, in runs of the base; powers of two")
    seeds: int = 3

    @chz.validate
    def _check(self):
        if len(self.powers) < 3 or 0 not in self.powers or self.seeds < 2:
            raise UsageError("study: at least three powers with 0 among them, and two seeds")
        if any(h < 1 or h & (h - 1) for h in self.horizons) or [*self.horizons] != sorted({*self.horizons}):
            raise UsageError("study.horizons are powers of two from 1 on, rising")

    def batches(self, base: TrainConfig, horizon: int) -> dict[float, int]:
        """Rows of a step -> steps, all of the same tokens: the fewest that the largest batch divides.

        At horizons beyond the first from the base's batch on, and up to as few steps as at the first. Raises
        `UsageError` for a batch of no whole row.
        """
        first = cell_of(base)
        longer = (horizon // self.horizons[0]).bit_length() - 1
        powers = range(max(self.powers) + longer + 1) if longer else self.powers
        sizes = [first.rows * 2.0**power for power in sorted(powers)]
        if sizes[0] < 1 or sizes[0] % 1:
            raise UsageError(f"study.powers: 2^{min(powers)} times {first.rows} rows is no whole batch; leave it out")
        largest = round(sizes[-1])
        total = largest * math.ceil(horizon * first.steps * first.rows / largest)
        return {rows: total // round(rows) for rows in sizes}

    def plan(self, base: TrainConfig, rows: Sequence[Row]) -> list[Cell]:
        if base.base is None:
            raise UsageError("study batch compares settings that follow a base point with such that do not: add bases")
        return [
            cell_of(base, rows=round(size), steps=steps, scaled=scaled, seed=seed)
            for seed in range(self.seeds)
            for horizon in self.horizons
            for scaled in ((True, False) if horizon == self.horizons[0] else (True,))
            for size, steps in self.batches(base, horizon).items()
        ]

    def expected(self, base: TrainConfig) -> list[Cell]:
        return self.plan(base, ())

    def report(self, base: TrainConfig, rows: Sequence[Row]) -> Report:
        out = Report("Final loss against the physical batch")
        groups = fits.by(rows, "scaled", "rows", "steps")
        out.findings.append(fits.seed_noise([*groups.values()]))
        lines: list[list[str]] = []
        for horizon in self.horizons:
            sizes = self.batches(base, horizon)
            basins = {
                scaled: {b: groups[scaled, b, n] for b, n in sizes.items() if (scaled, b, n) in groups}
                for scaled in (True, False)
            }
            names = {scaled: "with the rule" if scaled else "without it" for scaled, basin in basins.items() if basin}
            curves = {name: fits.adjusted(basins[scaled]) for scaled, name in names.items()}
            for scaled, name in names.items():
                lines += self._lines([f"{horizon}", name], basins[scaled], sizes, cell_of(base).rows)
            if curves:
                out.plots[f"horizon-{horizon}"] = plots.basins(curves, f"horizon {horizon}", "rows of a step")
            if {*basins[True]} != {*sizes}:
                continue
            means = curves[names[True]]
            there = knee(means, fits.residual(basins[True]) / math.sqrt(self.seeds))
            upto, tokens = there or max(means), max(b * n for b, n in sizes.items())
            out.findings.append(
                f"Horizon {horizon}: "
                + (
                    f"no critical batch up to {upto:g} rows: S_crit is at most {tokens / upto:.0f} steps."
                    if there is None
                    else f"the loss leaves its floor at {there:.0f} rows: S_crit = {tokens / there:.0f} steps."
                )
            )
            for scaled, name in names.items():
                kept = {b: loss for b, loss in curves[name].items() if b <= upto}
                out.findings.append(
                    f"Horizon {horizon}, {name}: from {min(kept):g} to {max(kept):g} rows the loss ranges over "
                    f"{max(kept.values()) - min(kept.values()):.4f} nats; noise of a mean that seeds do not share "
                    f"{fits.residual(basins[scaled]) / math.sqrt(self.seeds):.4f}."
                )
        columns = ["horizon", "settings", "rows", "steps", "loss", "above the base's rows (paired)"]
        out.tables.append(("Final loss", columns, lines))
        return out

    @staticmethod
    def _lines(start: list[str], basin: Basin, steps: Mapping[float, int], home: float) -> list[list[str]]:
        out = []
        for rows, loss in fits.adjusted(basin).items():
            gap, error, _ = fits.compared(basin[rows], basin.get(home, {}))
            out.append([*start, f"{rows:g}", f"{steps[rows]}", f"{loss:.4f}", f"{gap:+.4f} +- {error:.4f}"])
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
