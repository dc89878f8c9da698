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
from trimask.core.rng import generator
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
            there = knee(basins[True], self._logical(base, horizon))
            upto, tokens = there[0] if there else max(sizes), max(b * n for b, n in sizes.items())
            out.findings.append(
                f"Horizon {horizon}: "
                + (
                    f"no critical batch up to {upto:g} rows: S_crit is at most {tokens / upto:.0f} steps."
                    if there is None
                    else f"the loss leaves its floor at {there[0]:.0f} rows ({there[1]:.0f} to {there[2]:.0f}): "
                    f"S_crit = {tokens / there[0]:.0f} steps, 95 % interval {tokens / there[2]:.0f} to "
                    f"{tokens / there[1]:.0f}."
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
    def _logical(base: TrainConfig, horizon: int) -> float:
        """Rows of the logical batch."""
        assert base.base is not None  # plan() sees to it
        return cell_of(base).rows * horizon**base.base.gamma

    @staticmethod
    def _lines(start: list[str], basin: Basin, steps: Mapping[float, int], home: float) -> list[list[str]]:
        out = []
        for rows, loss in fits.adjusted(basin).items():
            gap, error, _ = fits.compared(basin[rows], basin.get(home, {}))
            out.append([*start, f"{rows:g}", f"{steps[rows]}", f"{loss:.4f}", f"{gap:+.4f} +- {error:.4f}"])
        return out


RISE = 0.01
"""Share of the floor by which a loss has risen at the critical batch."""
RESAMPLES = 1000


def knee(basin: Basin, logical: float) -> tuple[float, float, float] | None:
    """Rows at which the mean loss is `RISE` above its floor, with the ends of a 95 % interval.

    The floor is the mean of the batches up to the logical one, what lies between two batches is interpolated in log
    rows, and the interval is that of a bootstrap of what is left when seeds and batches are taken off. None where the
    largest batch is still below. Runs that diverged count as the worst of the others.
    """
    sizes, seeds = sorted(basin), sorted({s for of in basin.values() for s in of})
    if sizes[0] > logical or len(seeds) < 2 or any({*of} != {*seeds} for of in basin.values()):
        return None
    losses_BS = fits.finite([[basin[b][s] for s in seeds] for b in sizes], 0.0)
    mean_B, at_B = losses_BS.mean(1), np.log(sizes)
    place = _risen(at_B, mean_B, math.log(logical))
    if place is None:
        return None
    left_BS = losses_BS - mean_B[:, None] - (losses_BS.mean(0) - losses_BS.mean())
    count = losses_BS.size
    left_BS *= math.sqrt(count / max(1, count - len(sizes) - len(seeds) + 1))
    rng = generator("batch", "bootstrap")
    drawn = [mean_B + rng.choice(left_BS.ravel(), left_BS.shape).mean(1) for _ in range(RESAMPLES)]
    found = [_risen(at_B, again_B, math.log(logical)) for again_B in drawn]
    low, high = np.quantile([at_B[-1] if x is None else x for x in found], (0.025, 0.975))
    return math.exp(place), math.exp(low), math.exp(high)


def _risen(at_B: np.ndarray, mean_B: np.ndarray, logical: float) -> float | None:
    """log rows where the means pass the limit for good."""
    limit = (1 + RISE) * mean_B[at_B <= logical + 1e-9].mean()
    above_B = mean_B > limit
    if not above_B[-1]:
        return None
    first = len(mean_B) - int(np.argmin(above_B[::-1])) if not above_B.all() else 0
    if first == 0:
        return float(at_B[0])
    share = (limit - mean_B[first - 1]) / (mean_B[first] - mean_B[first - 1])
    return float(at_B[first - 1] + share * (at_B[first] - at_B[first - 1]))
