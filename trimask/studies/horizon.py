"""`trimask study horizon`: by what power of the horizon does the logical batch grow?

At the base's batch and several lengths of a run kappa is set by hand over a grid. What is best falls as k0 m_D^-gamma,
where k0 is the best at the base's own length (1 if its rate is): both are fitted at once, by parabolas in log kappa of
one width, with a level for every seed at every length and an interval from a bootstrap of what they leave. A longer
run that the fit has not seen is then trained with the kappa that follows and with its neighbours.
"""

import math
from collections.abc import Mapping, Sequence

import chz
import numpy as np

from trimask.core.config import POSITIVE, check
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
        check(self, "study", POSITIVE, "horizons", "held_out")
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
        gamma, best = self.fitted(self.losses(base, rows))
        if math.isnan(gamma):
            return fitted
        own = self._rounded(best * self.held_out**-gamma)
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
        steps = round(m * cell_of(base).steps)
        if steps < 1:
            raise UsageError(f"study.horizons: {m:g} times {cell_of(base).steps} steps is no step")
        return cell_of(base, steps=steps, seed=seed, variant=((KAPPA, kappa),))

    def fitted(self, basins: Mapping[float, np.ndarray]) -> tuple[float, float]:
        """gamma, and the best kappa at the horizon 1. Losses are (kappa, seed). nan where the basins open downwards."""
        design, losses = self._equations(basins)
        return _solved(np.linalg.lstsq(design, losses)[0])

    def interval(self, basins: Mapping[float, np.ndarray]) -> tuple[float, float]:
        """Ends of the interval of 95 % of gamma, from resampled residuals."""
        design, losses = self._equations(basins)
        fitted = design @ np.linalg.lstsq(design, losses)[0]
        free = max(1, len(losses) - design.shape[1])
        left = (losses - fitted) * math.sqrt(len(losses) / free)
        rng = generator("horizon", "bootstrap")
        again = fitted + rng.choice(left, (RESAMPLES, len(left)))
        drawn = [_solved(found)[0] for found in np.linalg.lstsq(design, again.T)[0].T]
        low, high = np.nanquantile(drawn, (0.025, 0.975))
        return float(low), float(high)

    def _equations(self, basins: Mapping[float, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
        """Loss = a x^2 + b x + c x log m_D + a level of (m_D, seed), x = log kappa: a line and a loss for each run."""
        lines, losses, levels = [], [], []
        for m, of in basins.items():
            for kappa, by_seed in zip(self._kappas(m), of, strict=True):
                x = math.log(kappa)
                lines += [(x * x, x, x * math.log(m))] * len(by_seed)
                levels += [(m, seed) for seed in range(len(by_seed))]
                losses += [*by_seed]
        known = {level: i for i, level in enumerate(dict.fromkeys(levels))}
        level = np.eye(len(known))[[known[one] for one in levels]]
        return np.concatenate([np.array(lines), level], 1), np.array(losses)

    def _kappas(self, m: float) -> list[float]:
        return [self._grid(m, power) for power in self.powers]

    def losses(self, base: TrainConfig, rows: Sequence[Row]) -> dict[float, np.ndarray]:
        """Losses (kappa, seed) of every horizon that is fitted on; those that diverged a little above the worst."""
        known = fits.losses(rows)
        return {
            m: fits.finite(
                [[known[self._cell(base, m, k, s)] for s in range(self.seeds)] for k in self._kappas(m)], DIVERGED
            )
            for m in self.horizons
        }

    def _basin(self, base: TrainConfig, rows: Sequence[Row], m: float) -> dict[float, dict[int, float]]:
        steps = round(m * cell_of(base).steps)
        out: dict[float, dict[int, float]] = {}
        for row in rows:
            if row.cell.steps == steps and row.cell.variant:
                out.setdefault(float(row.cell.variant[0][1]), {})[row.cell.seed] = row.loss
        return out

    def report(self, base: TrainConfig, rows: Sequence[Row]) -> Report:
        out = Report("How settings follow the length of a run")
        basins = {m: self._basin(base, rows, m) for m in (*self.horizons, self.held_out)}
        shown = {f"m_D {m:g}": fits.adjusted(basin) for m, basin in basins.items() if basin}
        if not shown:
            return out
        out.plots["kappa"] = plots.basins(shown, "horizons", "kappa")
        out.findings.append(fits.seed_noise([seeds for basin in basins.values() for seeds in basin.values()]))
        known = fits.losses(rows)
        cells = [self._cell(base, m, k, n) for m in self.horizons for k in self._kappas(m) for n in range(self.seeds)]
        if all(cell in known for cell in cells):
            losses = self.losses(base, rows)
            (gamma, at_base), (low, high) = self.fitted(losses), self.interval(losses)
            out.findings.append(
                f"gamma = {gamma:.2f}, 95 % interval {low:.2f} to {high:.2f} (bootstrap of residuals); the best kappa "
                f"at m_D = 1 is {at_base:.2f}."
            )
            lines = []
            for m in losses:
                fitted, grid = at_base * m**-gamma, self._kappas(m)
                inside = "yes" if grid[0] < fitted < grid[-1] else "no"
                lines.append([f"{m:g}", f"{fitted:.3f}", f"{fits.best(basins[m]):.3f}", inside])
            out.tables.append(("Best kappa", ["m_D", "fitted", "best of the grid", "fitted within the grid"], lines))
            if basin := basins[self.held_out]:
                own, fitted = fits.best(basin), at_base * self.held_out**-gamma
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


def _solved(found: np.ndarray) -> tuple[float, float]:
    a, b, c = found[:3]
    return (float(c / (2 * a)), math.exp(-b / (2 * a))) if a > 0 else (math.nan, math.nan)
