"""`trimask study horizon`: by what power of the horizon does the logical batch grow?

At the base's batch and several lengths of a run kappa is set by hand over a grid. What is best falls as m_D^-gamma:
gamma is the slope of a line through the minima of parabolas, with an interval from a bootstrap over seeds. A longer
run that the fit has not seen is then trained with the fitted gamma and with others.
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

KAPPA = "batch.kappa"
RESAMPLES = 1000
DIVERGED = 0.5


@chz.chz
class Horizon(Study):
    """A basin of kappas at every horizon, and one more at a horizon that is held out."""

    horizons: tuple[float, ...] = chz.field(default=(0.5, 1.0, 2.0, 4.0), doc="in runs of the base")
    held_out: float = chz.field(default=8.0, doc="a longer one, not fitted on")
    powers: tuple[float, ...] = chz.field(default=(-2.0, -1.0, 0.0, 1.0), doc="powers of two of kappa, around m_D^-1/2")
    seeds: int = 3

    @chz.validate
    def _check(self):
        if len(self.horizons) < 2 or len(self.powers) < 3 or self.seeds < 2:
            raise UsageError("study: at least two horizons, three powers and two seeds are needed")
        if self.held_out <= max(self.horizons):
            raise UsageError("study.held_out must be longer than every horizon that is fitted on")

    def plan(self, base: TrainConfig, rows: Sequence[Row]) -> list[Cell]:
        fitted = [
            self._cell(base, m, self._grid(m, power), seed)
            for seed in range(self.seeds)
            for m in self.horizons
            for power in self.powers
        ]
        known = fits.losses(rows)
        if not all(cell in known for cell in fitted):
            return fitted
        gamma, _, _ = self.gamma(base, rows)
        own = self._rounded(self.held_out**-gamma)
        grid = [own * 2.0**power for power in (0, -1, 1)]
        return [*fitted, *(self._cell(base, self.held_out, k, s) for s in range(self.seeds) for k in grid)]

    def expected(self, base: TrainConfig) -> list[Cell]:
        fitted = self.plan(base, ())
        return [*fitted, *(self._cell(base, self.held_out, 1.0 + n, 0) for n in range(3 * self.seeds))]

    def _grid(self, m: float, power: float) -> float:
        """The middle of the grid follows the power 1/2, between the paper's 0.44 and the theory's 1."""
        return self._rounded(m**-0.5 * 2.0**power)

    @staticmethod
    def _rounded(kappa: float) -> float:
        return float(f"{kappa:.4g}")

    def _cell(self, base: TrainConfig, m: float, kappa: float, seed: int) -> Cell:
        return cell_of(base, steps=round(m * cell_of(base).steps), seed=seed, variant=((KAPPA, kappa),))

    def gamma(self, base: TrainConfig, rows: Sequence[Row]) -> tuple[float, float, float]:
        """gamma and the ends of its interval of 95 %."""
        basins = {m: self._basin(base, rows, m) for m in self.horizons}
        rng = generator("horizon", "bootstrap")
        drawn = [self._fit(basins, rng.integers(0, self.seeds, self.seeds)) for _ in range(RESAMPLES)]
        low, high = np.quantile(drawn, (0.025, 0.975))
        return self._fit(basins, np.arange(self.seeds)), float(low), float(high)

    def _fit(self, basins: Mapping[float, Mapping[float, Mapping[int, float]]], seeds: np.ndarray) -> float:
        best = [math.log(minimum(basin, seeds)) for basin in basins.values()]
        return -float(np.polyfit(np.log(list(basins)), best, 1)[0])

    def _basin(self, base: TrainConfig, rows: Sequence[Row], m: float) -> dict[float, dict[int, float]]:
        steps = round(m * cell_of(base).steps)
        out: dict[float, dict[int, float]] = {}
        for row in rows:
            if row.cell.steps == steps and row.cell.variant:
                out.setdefault(row.cell.variant[0][1], {})[row.cell.seed] = row.loss
        return out

    def report(self, base: TrainConfig, rows: Sequence[Row]) -> Report:
        out = Report("How settings follow the length of a run")
        basins = {m: self._basin(base, rows, m) for m in (*self.horizons, self.held_out)}
        shown = {f"m_D {m:g}": fits.adjusted(basin) for m, basin in basins.items() if basin}
        if not shown:
            return out
        out.plots["kappa"] = plots.basins(shown, "horizons", "kappa")
        noise = fits.spread([seeds for basin in basins.values() for seeds in basin.values()])
        out.findings.append(f"Seed noise (standard deviation of one setting over its seeds): {noise:.4f} nats a token.")
        if all(self._cell(base, m, self._grid(m, power), s) in fits.losses(rows) for m in self.horizons
               for power in self.powers for s in range(self.seeds)):  # fmt: skip
            gamma, low, high = self.gamma(base, rows)
            out.findings.append(f"gamma = {gamma:.2f}, 95 % interval {low:.2f} to {high:.2f} (bootstrap over seeds).")
            every = np.arange(self.seeds)
            out.tables.append(
                (
                    "Best kappa",
                    ["m_D", "kappa", "fitted m_D^-gamma"],
                    [[f"{m:g}", f"{minimum(basins[m], every):.3f}", f"{m**-gamma:.3f}"] for m in self.horizons],
                )
            )
            if basin := basins[self.held_out]:
                own, fitted = fits.best(basin), self.held_out**-gamma
                given = min(basin, key=lambda k: abs(math.log(k / fitted)))
                gap, error, seeds = fits.compared(basin[given], basin[own])
                out.findings.append(
                    f"Held out, m_D = {self.held_out:g}: the transferred kappa {given:.3f} is {gap:.4f} +- {error:.4f} "
                    f"nats above the best of {sorted(round(k, 3) for k in basin)}, which is {own:.3f} ({seeds} seeds)."
                )
        out.tables.append(
            (
                "Final loss, mean over seeds",
                ["m_D", "kappa", "loss", "seeds"],
                [
                    [f"{m:g}", f"{k:.3f}", f"{loss:.4f}", str(len(basins[m][k]))]
                    for m in basins
                    for k, loss in fits.adjusted(basins[m]).items()
                ],
            )
        )
        return out


def minimum(basin: Mapping[float, Mapping[int, float]], seeds: np.ndarray) -> float:
    """Where a parabola in log kappa through the losses of these seeds has its minimum, at most a step outside."""
    kappas = sorted(basin)
    losses = fits.finite([[basin[k][int(s)] for s in seeds] for k in kappas], DIVERGED).mean(1)
    x = np.log(kappas)
    a, b, _ = np.polyfit(x, losses, 2)
    step = x[1] - x[0]
    if a <= 0:
        return kappas[int(losses.argmin())]
    return float(np.exp(np.clip(-b / (2 * a), x[0] - step, x[-1] + step)))
