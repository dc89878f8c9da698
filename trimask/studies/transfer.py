"""`trimask study transfer`: does the best learning rate stay where it is when width and depth grow?

At every shape a grid of rates in powers of two with one seed, widened until its best is not at an end; then the other
seeds at the best and its neighbours. Rates are those at the base: what a shape really uses follows from the
parametrization. A rate is compared with another on the same seeds.
"""

import math
from collections.abc import Sequence

import chz

from trimask.core.errors import UsageError
from trimask.studies import fits, plots
from trimask.studies.base import Report, Study, cell_of
from trimask.studies.table import Cell, Row
from trimask.train.config import TrainConfig

WIDEST = 6
"""Powers of two by which a grid is widened at most, on either side."""


@chz.chz
class Transfer(Study):
    """A basin of learning rates at every width and every depth."""

    widths: tuple[int, ...] = (64, 256, 512)
    depths: tuple[int, ...] = (2, 8, 16)
    parametrizations: tuple[str, ...] = ("completep", "standard")
    powers: tuple[int, ...] = chz.field(default=(-2, -1, 0, 1), doc="first grid: powers of two of optimizer.rate")
    seeds: int = chz.field(default=3, doc="seeds at the best rate and its neighbours")

    @chz.validate
    def _check(self):
        if len(self.powers) < 3 or self.seeds < 1 or sorted(self.powers) != list(self.powers):
            raise UsageError("study: powers must be at least three, rising; seeds at least 1")

    def shapes(self, base: TrainConfig) -> list[tuple[int, int]]:
        """(width, depth), the base first, small ones before large ones."""
        home = (base.model.base_width, base.model.base_depth)
        found = [home, *((w, home[1]) for w in self.widths), *((home[0], d) for d in self.depths)]
        return sorted(dict.fromkeys(found), key=lambda s: (s != home, s[0] ** 2 * s[1]))

    def plan(self, base: TrainConfig, rows: Sequence[Row]) -> list[Cell]:
        out: list[Cell] = []
        for p in self.parametrizations:
            home: int | None = None
            for number, shape in enumerate(self.shapes(base)):
                cells, lowest = self._basin(base, rows, p, shape, home)
                home = home if number else lowest
                out += cells
        return out

    def expected(self, base: TrainConfig) -> list[Cell]:
        powers = [*self.powers, *([0] * (3 * (self.seeds - 1)))]
        return [
            self._cell(base, p, shape, power, seed=n)
            for p in self.parametrizations
            for shape in self.shapes(base)
            for n, power in enumerate(powers)
        ]

    def _cell(self, base: TrainConfig, p: str, shape: tuple[int, int], power: int, seed: int = 0) -> Cell:
        rate = base.optimizer.rate * 2.0**power
        return cell_of(base, width=shape[0], depth=shape[1], rate=rate, seed=seed, parametrization=p)

    def _basin(
        self, base: TrainConfig, rows: Sequence[Row], p: str, shape: tuple[int, int], home: int | None
    ) -> tuple[list[Cell], int | None]:
        """The cells of a shape: its grid, what widens that, the seeds at its best and the base's best; and its best."""
        known = fits.losses(rows)
        powers = list(self.powers)
        while True:
            cells = [self._cell(base, p, shape, power) for power in powers]
            if not all(c in known for c in cells):
                return cells, None
            lowest = min(powers, key=lambda power: known[self._cell(base, p, shape, power)])
            if lowest == powers[0] > self.powers[0] - WIDEST:
                powers.insert(0, lowest - 1)
            elif lowest == powers[-1] < self.powers[-1] + WIDEST:
                powers.append(lowest + 1)
            else:
                break
        near = [lowest, *([] if home is None else [home]), lowest - 1, lowest + 1]
        return [*cells, *(self._cell(base, p, shape, power, s) for power in near for s in range(self.seeds))], lowest

    def report(self, base: TrainConfig, rows: Sequence[Row]) -> Report:
        out = Report("The best learning rate over width and depth")
        groups = fits.by(rows, "parametrization", "width", "depth", "rate")
        out.findings.append(fits.seed_noise(list(groups.values())))
        lines: list[list[str]] = []
        for p in self.parametrizations:
            basins: dict[tuple[int, int], dict[float, dict[int, float]]] = {}
            for (q, width, depth, rate), by_seed in groups.items():
                if q == p:
                    basins.setdefault((width, depth), {})[rate] = by_seed
            home = basins.get((base.model.base_width, base.model.base_depth))
            if not home:
                continue
            tuned = fits.best(home)
            moves, regrets = [0.0], [0.0]
            for shape, basin in sorted(basins.items()):
                own = fits.best(basin)
                moves.append(math.log2(own / tuned))
                regret, error, seeds = fits.compared(basin.get(tuned, {}), basin[own])
                regrets += [regret] if math.isfinite(regret) else []
                lines.append(
                    [p, str(shape[0]), str(shape[1]), f"2^{math.log2(own):g}", f"{moves[-1]:+g}",
                     f"{fits.adjusted(basin)[own]:.4f}", f"{regret:.4f} +- {error:.4f}", str(seeds)]
                )  # fmt: skip
            worst = max(moves, key=abs)
            out.findings.append(
                f"{p}: over widths {self.widths} and depths {self.depths} the best rate moves by at most "
                f"2^{worst:+g}; the base's rate loses at most {max(regrets):.4f} nats against a "
                "shape's own."
            )
            for axis, other in (("width", "depth"), ("depth", "width")):
                fixed = getattr(base.model, f"base_{other}")
                chosen = {s: b for s, b in basins.items() if s[axis == "width"] == fixed}
                labelled = {f"{axis} {s[axis == 'depth']}": fits.adjusted(b) for s, b in chosen.items()}
                out.plots[f"{axis}-{p}"] = plots.basins(labelled, f"{p}, {axis}", "learning rate at the base")
        columns = ["parametrization", "width", "depth", "best rate", "moved (powers of 2)", "loss there",
                   "loss of the base's rate above it", "seeds"]  # fmt: skip
        out.tables.append(("Best rates, and what the base's rate costs (paired by seed)", columns, lines))
        return out
