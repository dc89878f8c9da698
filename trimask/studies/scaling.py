"""`trimask study scaling`: how the loss falls with the size of a model and with its tokens, and how to split a budget.

Models of a family, each at several lengths; every training comes to the end of its schedule, and its settings follow
its size and its length. A law of size N and tokens D is fitted to the loss over all modalities and to that of each,
L = E + A N^-alpha + B D^-beta or one whose terms are coupled, first without the largest size, which it then predicts.
`law.json` is what `trimask plan` reads.
"""

from collections.abc import Sequence
from typing import ClassVar, Literal

import chz
import numpy as np
from matplotlib.figure import Figure

from trimask.core.errors import UsageError
from trimask.model.accounting import parameters
from trimask.model.config import width_at
from trimask.studies import fits, plots
from trimask.studies.base import Report, Study, cell_of
from trimask.studies.laws import FLOPS, Table
from trimask.studies.table import Cell, Row
from trimask.studies.verdict import CHOSEN, FEWEST, Asked, judged
from trimask.train.config import TrainConfig

ALL = "all"
"""The loss over the tokens of all modalities."""
LAW = "law"


@chz.chz
class Scaling(Study):
    """Sizes times lengths, the smaller a size the longer; several seeds of some tell the noise."""

    depths: tuple[int, ...] = chz.field(default=(2, 3, 4, 5, 8), doc="sizes: the dial of the family")
    horizons: tuple[float, ...] = chz.field(
        default=(0.25, 0.35, 0.5, 0.7, 1.0, 1.4, 2.0, 2.8, 4.0, 5.6), doc="lengths, in runs of the base"
    )
    most: float = chz.field(default=2.8, doc="longest run of the largest size, in runs of the base")
    beyond: float = chz.field(default=8.0, doc="what the largest size may cost over what any smaller one may")
    seeds: int = chz.field(default=3, doc="seeds of each size at two of its lengths; of all others one")
    count: Literal["params", "body"] = chz.field(default="params", doc="what N counts: body leaves embeddings out")
    law: Literal["chosen", "power", "coupled"] = chz.field(
        default=CHOSEN, doc="form of the law; chosen: of each loss the one that predicts the largest size fitted better"
    )
    held_out: int = chz.field(default=1, doc="largest sizes that are predicted before they are fitted")
    draws: int = chz.field(default=300, doc="bootstraps of a law")
    threats: ClassVar[tuple[str, ...]] = (
        "Seeds are one but for two lengths of each smaller size: the residuals hold that noise.",
        "Sizes differ in width and depth at once, by one rule; other shapes of as many parameters may follow another "
        "law.",
        "Where tokens are seen more than once (column epochs) they count as new ones.",
    )

    @chz.validate
    def _check(self):
        if len({*self.depths}) < 4 or len({*self.horizons}) < 3 or self.seeds < 2:
            raise UsageError("study: at least four depths, three horizons and two seeds are needed")
        if not 0 <= self.held_out <= len(self.depths) - FEWEST:
            raise UsageError(f"study.held_out must leave {FEWEST} sizes to fit on")
        if not (self.most > 0 and self.beyond > 0):
            raise UsageError(f"study: most={self.most} and beyond={self.beyond} must be positive")

    def plan(self, base: TrainConfig, rows: Sequence[Row]) -> list[Cell]:
        first, out, depths = cell_of(base), [], sorted({*self.depths})
        widths = {depth: width_at(depth, base.model.aspect, base.model.head_dim) for depth in depths}
        sizes = {d: parameters(chz.replace(base.model, depth=d, width=w)).total for d, w in widths.items()}
        for depth in depths:
            # What the law is to predict is far from all that it is fitted to, in parameters and in operations. Those
            # runs cost most of the study: every second length will do.
            last = depth == depths[-1]
            longest = self.most * (1.0 if last else sizes[depths[-1]] / sizes[depth] / self.beyond)
            horizons = [h for h in sorted({*self.horizons}) if h <= longest]
            middle = len(horizons) // 2
            noisy = horizons[max(middle - 1, 0) : middle + 1] if not last else []
            horizons = horizons[::-2][::-1] if last else horizons
            for horizon in horizons:
                steps = round(horizon * first.steps)
                out += [
                    cell_of(base, width=widths[depth], depth=depth, steps=steps, seed=seed)
                    for seed in range(self.seeds if horizon in noisy else 1)
                ]
        return out

    def expected(self, base: TrainConfig) -> list[Cell]:
        return self.plan(base, ())

    def report(self, base: TrainConfig, rows: Sequence[Row]) -> Report:
        out = Report("Loss over size and tokens")
        groups = fits.by(rows, "width", "depth", "steps")
        fine = [row for row in rows if np.isfinite(row.loss)]
        noise = fits.spread([*groups.values()])
        out.findings.append(fits.seed_noise([*groups.values()]))
        if fine:
            losses = [row.loss for row in fine]
            out.findings.append(
                f"{len(fine)} runs, losses from {min(losses):.4f} to {max(losses):.4f}: "
                f"{(max(losses) - min(losses)) / noise:.0f} times the seed noise."
            )
            out.plots["losses"] = _curves(fine, self.count)
        out.tables.append(_runs(fine))
        sizes = {row.cell.depth for row in fine}
        if lacking := sorted({*self.depths} - sizes):
            fits_anyway = self.partial and len(sizes) - self.held_out >= FEWEST
            out.findings.append(
                f"No run of {' and '.join(map(str, lacking))} blocks: "
                + ("the law is of the other sizes." if fits_anyway else "no law is fitted.")
            )
            if not fits_anyway:
                return out
        laws = {}
        for target in (ALL, *sorted({name for row in fine for name in row.values})):
            table = of_rows(fine, target, self.count)
            told = judged(table, Asked(self.law, held_out=self.held_out, draws=self.draws))
            part = told.report
            out.findings += [f"{target}: {line}" for line in part.findings]
            out.tables += [(f"{target}: {caption}", head, lines) for caption, head, lines in part.tables]
            out.plots |= {f"{target}-{name}": figure for name, figure in part.plots.items()}
            ranges = {name: [float(x.min()), float(x.max())] for name, x in _axes(table).items()}
            laws[target] = {
                "values": told.fit.values,
                "drawn": [{name: float(f"{value:.6g}") for name, value in one.items()} for one in told.drawn],
                "ranges": ranges,
                "runs": len(table),
                "doubts": told.fit.cautions,
            }
        out.data[LAW] = {
            "count": self.count,
            "shares": _shares(fine),
            "aspect": base.model.aspect,
            "codes": {m.name: m.codes for m in base.model.vocabulary.modalities},
            "targets": laws,
        }
        return out


def _shares(rows: Sequence[Row]) -> dict[str, float]:
    """Of each modality in the tokens of all runs."""
    counts: dict[str, int] = {}
    for row in rows:
        for name, count in row.processed.items():
            counts[name] = counts.get(name, 0) + count
    return {name: count / max(1, sum(counts.values())) for name, count in counts.items()}


def _axes(table: Table) -> dict[str, np.ndarray]:
    return {"params": table.params_R, "tokens": table.tokens_R, "flops": FLOPS * table.params_R * table.tokens_R}


def of_rows(rows: Sequence[Row], target: str, count: str = "params") -> Table:
    """The losses of one target, a training a row; rows that have none are left out."""
    used = [(row, row.loss if target == ALL else row.values[target]) for row in rows if target in (ALL, *row.values)]
    sizes, tokens, losses = ([float(x) for x in part] for part in zip(
        *((getattr(row, count), row.tokens, loss) for row, loss in used), strict=True
    ))  # fmt: skip
    return Table(np.array(sizes), np.array(tokens), np.array(losses), np.array([row.cell.key for row, _ in used]))


def _runs(rows: Sequence[Row]) -> tuple[str, list[str], list[list[str]]]:
    modalities = sorted({name for row in rows for name in row.values})
    lines = [
        [
            str(row.cell.depth), str(row.cell.width), f"{row.params:.4g}", f"{row.body:.4g}", f"{row.tokens:.4g}",
            f"{row.tokens / max(1, sum(row.unique.values())):.2f}", f"{row.flops:.3g}", str(row.cell.seed),
            f"{row.loss:.4f}",
            *(f"{row.values.get(m, np.nan):.4f} +- {row.errors.get(m, np.nan):.4f}" for m in modalities),
        ]
        for row in sorted(rows, key=lambda row: (row.cell.depth, row.tokens, row.cell.seed))
    ]  # fmt: skip
    columns = ["blocks", "width", "parameters", "in blocks", "tokens", "epochs", "FLOPs", "seed", "loss", *modalities]
    return "Runs: bounds on held-out data, nats a token", columns, lines


def _curves(rows: Sequence[Row], count: str) -> Figure:
    """Loss over tokens, a line a size: the mean over the seeds of a length, and every seed."""
    figure, plot = plots.axes("tokens", "loss, nats a token")
    by_size: dict[int, dict[int, list[Row]]] = {}
    for row in rows:
        by_size.setdefault(getattr(row, count), {}).setdefault(row.cell.steps, []).append(row)
    for size, by_steps in sorted(by_size.items()):
        lengths = [of for _, of in sorted(by_steps.items())]
        means = [[np.mean([getattr(row, of_what) for row in of]) for of in lengths] for of_what in ("tokens", "loss")]
        (line,) = plot.plot(*means, "-", label=f"{size / 1e6:.3g}M")
        each = [row for of in lengths for row in of]
        plot.plot([r.tokens for r in each], [r.loss for r in each], "o", markersize=3, color=line.get_color())
    plots.logarithmic(plot, "x")
    plots.logarithmic(plot, "y")
    plot.legend(title="parameters", fontsize=7, title_fontsize=7)
    return figure
