"""`trimask study mixture`: in which shares are the sources best mixed, and does one modality help another?

Mixtures are spread evenly over the simplex, none without some of every source. Each is trained at several sizes, and at
the smallest one at several lengths. A law of mixtures (Shukor et al. 2025, arXiv 2507.09404, additive) is fitted to the
loss of each modality; the shares for which it predicts the lowest mean loss are then trained, beside the best mixture
that was tried and equal shares, on seeds that no law has seen.
"""

import math
from collections.abc import Sequence
from functools import lru_cache
from itertools import combinations, count
from typing import ClassVar

import chz
import numpy as np

from trimask.core.errors import UsageError
from trimask.model.config import width_at
from trimask.studies import fits, plots
from trimask.studies.base import Report, Study, cell_of
from trimask.studies.compare import judged
from trimask.studies.fitting import Fit, best_shares, fit
from trimask.studies.laws import Mixture as Law
from trimask.studies.laws import Table, Units
from trimask.studies.table import Cell, Row, Setting
from trimask.train.config import TrainConfig

Shares = tuple[float, ...]
BEST, TRIED, EVEN = "the law's best", "the best tried", "equal shares"
STARTS = 12
"""Random starts of a law."""
FRESH = 100
"""First seed of the runs that compare what was found."""


@chz.chz
class Mixture(Study):
    """Mixtures times sizes, and lengths of the smallest; then the best of the law beside what was tried."""

    count: int = chz.field(default=12, doc="mixtures, at least")
    least: float = chz.field(default=0.1, doc="smallest share of a source")
    depths: tuple[int, ...] = chz.field(default=(2, 3, 4), doc="sizes: the dial of the family")
    horizons: tuple[float, ...] = chz.field(default=(0.5, 1.0, 2.0), doc="lengths of the smallest size")
    seeds: int = chz.field(default=3, doc="seeds of the comparison at the end")
    threats: ClassVar[tuple[str, ...]] = (
        "A mixture changes how often the tokens of a source are repeated, which the law does not know.",
        "The objective is the plain mean of the losses of the modalities; with other weights another mixture is best.",
    )

    @chz.validate
    def _check(self):
        if len({*self.depths}) < 3 or len({*self.horizons}) < 3 or 1.0 not in self.horizons or self.seeds < 2:
            raise UsageError("study: at least three depths, three horizons with 1 among them, and two seeds are needed")
        if not 0 <= self.least < 0.5 or self.count < 4:
            raise UsageError("study: count must be at least 4, and least a share below a half")

    def mixtures(self, base: TrainConfig) -> list[Shares]:
        """Points of an even grid of the simplex, its middle, and the recipe's own shares."""
        k = len(base.data.sources)
        if k < 2 or k * self.least >= 1:
            raise UsageError(f"{k} sources cannot be mixed with at least {self.least:g} of each")
        own = np.array([s.weight for s in base.data.sources])
        more = [np.full(k, 1 / k), own / own.sum()]
        out: list[Shares] = []
        for steps in count(1):
            grid = [self.least + (1 - k * self.least) * part / steps for part in _parts(steps, k)]
            out = list(dict.fromkeys(tuple(round(float(x), 4) for x in shares) for shares in [*grid, *more]))
            if len(out) >= self.count:
                break
        return out

    def plan(self, base: TrainConfig, rows: Sequence[Row]) -> list[Cell]:
        cells = self._searched(base)
        known = fits.losses(rows)
        if not all(cell in known for cell in cells):
            return cells
        chosen = self._chosen(base, rows)
        return [*cells, *(self._cell(base, h, depth=self._largest, seed=FRESH + s) for s in range(self.seeds)
                          for h in dict.fromkeys(chosen.values()))]  # fmt: skip

    def expected(self, base: TrainConfig) -> list[Cell]:
        even = self.mixtures(base)[0]
        last = [self._cell(base, even, depth=self._largest, seed=FRESH + n) for n in range(3 * self.seeds)]
        return [*self._searched(base), *last]

    @property
    def _largest(self) -> int:
        return max(self.depths)

    def _searched(self, base: TrainConfig) -> list[Cell]:
        sizes = [(depth, 1.0) for depth in sorted({*self.depths})]
        lengths = [(min(self.depths), h) for h in sorted({*self.horizons}) if h != 1.0]
        return [
            self._cell(base, m, depth, horizon) for depth, horizon in [*sizes, *lengths] for m in self.mixtures(base)
        ]

    def _cell(self, base: TrainConfig, shares: Shares, depth: int, horizon: float = 1.0, seed: int = 0) -> Cell:
        width = width_at(depth, base.model.aspect, base.model.head_dim)
        steps = round(horizon * cell_of(base).steps)
        variant: tuple[tuple[str, Setting], ...] = tuple(
            (f"data.sources.{n}.weight", share) for n, share in enumerate(shares)
        )
        return cell_of(base, width=width, depth=depth, steps=steps, seed=seed, variant=variant)

    def _found(self, base: TrainConfig, rows: Sequence[Row]) -> list[Row]:
        """The rows that laws are fitted to."""
        searched = {*self._searched(base)}
        return [row for row in rows if row.cell in searched and math.isfinite(row.loss)]

    def _laws(self, rows: Sequence[Row]) -> dict[str, Fit]:
        """A law for each modality."""
        targets = sorted({name for row in rows for name in row.errors})
        return {target: _fitted(losses_of(rows, target)) for target in targets}

    def _chosen(self, base: TrainConfig, rows: Sequence[Row]) -> dict[str, Shares]:
        """What is compared at the end, at the largest size."""
        found = self._found(base, rows)
        large = [row for row in found if row.cell.depth == self._largest]
        params, tokens = float(large[0].params), float(np.mean([row.tokens for row in large]))
        shares = best_shares([*self._laws(found).values()], params, tokens)
        tried = min(large, key=mean_loss)
        k = len(base.data.sources)
        return {
            BEST: tuple(round(float(x), 3) for x in shares / shares.sum()),
            TRIED: shares_of(tried),
            EVEN: (round(1 / k, 4),) * k,
        }

    def report(self, base: TrainConfig, rows: Sequence[Row]) -> Report:
        out = Report("Mixtures of sources")
        names = [s.path.rpartition("/")[2] for s in base.data.sources]
        found = self._found(base, rows)
        targets = sorted({name for row in found for name in row.errors})
        lines = [
            [str(row.cell.depth), str(row.cell.steps), *(f"{x:.3f}" for x in shares_of(row)),
             *(f"{row.values[t]:.4f}" for t in targets), f"{mean_loss(row):.4f}"]
            for row in sorted(found, key=lambda row: (row.cell.depth, row.cell.steps, shares_of(row)))
        ]  # fmt: skip
        columns = ["blocks", "steps", *names, *targets, "mean"]
        out.tables.append(("Bounds by shares of positions, nats a token", columns, lines))
        known = fits.losses(rows)
        if not all(cell in known for cell in self._searched(base)):
            return out
        for target, law in self._laws(found).items():
            out.findings.append(
                f"{target}: the law errs by {law.error(table_of(losses_of(found, target))):.2%} on the mean. "
                + helped(found, target, names)
            )
        chosen = self._chosen(base, rows)
        out.findings += [f"{name}: {', '.join(f'{n} {x:.3f}' for n, x in zip(names, h, strict=True))}."
                         for name, h in chosen.items()]  # fmt: skip
        fresh = {
            name: {row.cell.seed: mean_loss(row) for row in rows if row.cell.seed >= FRESH and shares_of(row) == h}
            for name, h in chosen.items()
        }
        for other in (TRIED, EVEN):
            if fresh[BEST] and fresh[other] and chosen[other] != chosen[BEST]:
                gap = judged(fresh[BEST], fresh[other])
                out.findings.append(
                    f"Trained on fresh seeds, {BEST} is {gap.verdict or 'not different for sure'} beside {other}: "
                    f"{gap.cell} nats a token, mean over modalities."
                )
        out.plots["shares"] = _plot(found, targets, names)
        return out


def _parts(steps: int, k: int) -> list[np.ndarray]:
    """All ways to give so many steps to k sources: where k - 1 bars stand among them."""
    bars = combinations(range(steps + k - 1), k - 1)
    return [np.diff([-1, *places, steps + k - 1]) - 1 for places in bars]


def shares_of(row: Row) -> Shares:
    return tuple(float(value) for _, value in row.cell.variant)


Losses = tuple[tuple[Shares, int, int, float], ...]
"""(shares, parameters, tokens, loss) of each run."""


def losses_of(rows: Sequence[Row], target: str) -> Losses:
    """The losses of a modality."""
    return tuple((shares_of(row), row.params, row.tokens, row.values[target]) for row in rows)


def table_of(runs: Losses) -> Table:
    """The same as laws take them; every run is a training of its own."""
    shares, params, tokens, losses = zip(*runs, strict=True)
    shares_RK = np.array(shares) / np.sum(shares, 1, keepdims=True)
    return Table(np.array(params, float), np.array(tokens, float), np.array(losses), np.arange(len(runs)), shares_RK)


@lru_cache(maxsize=64)
def _fitted(runs: Losses) -> Fit:
    """Their law: a plan is asked for often, and a fit takes seconds."""
    table = table_of(runs)
    return fit(Law(Units.of(table), sources=len(runs[0][0]), count=STARTS), table)


def mean_loss(row: Row) -> float:
    """Over modalities, each as much."""
    return float(np.mean([row.values[name] for name in row.errors]))


def helped(rows: Sequence[Row], target: str, names: Sequence[str]) -> str:
    """Which other sources help a modality: the slope of its loss over each share, its own best source held fixed."""
    shares_RK = np.array([shares_of(row) for row in rows])
    places = np.array([f"{row.cell.depth} {row.cell.steps}" for row in rows])
    loss_R = np.array([row.values[target] for row in rows])
    level = (places[:, None] == np.unique(places)).astype(float)
    # The source whose share lowers the loss most is its own.
    free = np.array([np.polyfit(np.log(shares_RK[:, k]), loss_R, 1)[0] for k in range(shares_RK.shape[1])])
    own = int(np.argmin(free))
    others = [k for k in range(len(names)) if k != own]
    if len(others) < 2:
        return ""
    # Shares sum to 1, so one of the others is left out: slopes are of one instead of it.
    *asked, left = others
    design = np.column_stack([level, np.log(shares_RK[:, own]), shares_RK[:, asked]])
    solved, *_ = np.linalg.lstsq(design, loss_R)
    free_of = max(1, len(loss_R) - design.shape[1])
    variance = ((loss_R - design @ solved) ** 2).sum() / free_of * np.linalg.pinv(design.T @ design)
    told = [
        f"{names[k]} instead of {names[left]} changes it by {solved[n]:+.3f} +- {math.sqrt(variance[n, n]):.3f} nats"
        for n, k in enumerate(asked, start=level.shape[1] + 1)
    ]
    return f"At one share of {names[own]}, {'; '.join(told)} (for all that is not {names[own]})."


def _plot(rows: Sequence[Row], targets: Sequence[str], names: Sequence[str]):
    """Losses of the modalities over the share of each source, at the largest size."""
    large = [row for row in rows if row.cell.depth == max(r.cell.depth for r in rows)]
    figure, panels = plots.panels(len(targets), "share of positions", "loss, nats a token")
    for target, plot in zip(targets, panels, strict=True):
        for k, name in enumerate(names):
            plot.plot([shares_of(r)[k] for r in large], [r.values[target] for r in large], ".", label=name)
        plot.set_title(target)
        plot.legend(fontsize=7)
    return figure
