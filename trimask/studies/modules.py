"""`trimask study modules`: multipliers of the parts of a model, searched at the base size.

A trust-region search in log space (Mlodozeniec et al. 2025, section 5 of arXiv 2512.22382), with one change: what a
seed does to a run is larger than what a multiplier does, so candidates come in pairs on opposite sides of the
centre with the same seed (Spall 1992), and only differences within a pair are used. A round moves every multiplier
against its slope by as much as the slope is certain, at most the radius; a round that is worse on the mean than the
one before halves the radius.
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
from trimask.train.resolve import resolve

MEMORIES = ("optimizer.beta1", "optimizer.beta2", "optimizer.momentum")
"""Searched as the log of 1 - beta."""
PLAIN = (
    "optimizer.decay",
    "model.attention_branch",
    "model.mlp_branch",
    "model.embedding_std",
    "model.head_std",
)
CONFIRMED = 200
"""First seed of the runs that compare the last centre with the start."""
DIVERGED = 0.5
"""A run that diverged counts as worse than the worst finite one by this many nats."""


@chz.chz
class Modules(Study):
    """Rounds of pairs of runs at the base size."""

    rounds: int = chz.field(default=6, doc="rounds of the search")
    pairs: int = chz.field(default=8, doc="pairs of a round; pair k has seed + k")
    radius: float = chz.field(default=0.3, doc="perturbation and largest move, in log units")
    seed: int = chz.field(default=100, doc="first seed of the search")
    confirm: int = chz.field(default=4, doc="seeds, not searched on, that compare the result with the start")

    @chz.validate
    def _check(self):
        if self.rounds < 1 or self.pairs < 2 or self.confirm < 2 or not self.radius > 0:
            raise UsageError("study: rounds >= 1, pairs >= 2, confirm >= 2 and radius > 0 are needed")

    def plan(self, base: TrainConfig, rows: Sequence[Row]) -> list[Cell]:
        cells: list[Cell] = []
        known = fits.losses(rows)
        for search in self._rounds(base, known):
            cells += [cell for pair in search.cells for cell in pair]
            if not search.done:
                return cells
        return [*cells, *(cell for pair in self._confirmation(base, known) for cell in pair)]

    def expected(self, base: TrainConfig) -> list[Cell]:
        return [cell_of(base, seed=n) for n in range(2 * self.rounds * self.pairs + 2 * self.confirm)]

    def report(self, base: TrainConfig, rows: Sequence[Row]) -> Report:
        known = fits.losses(rows)
        found = list(self._rounds(base, known))
        out = Report("Multipliers of modules")
        done = [r for r in found if r.done]
        if not done:
            return out
        start, last = values(base, np.zeros(len(space(base)))), values(base, done[-1].after)
        out.tables.append(
            (
                f"Settings before and after {len(done)} rounds",
                ["setting", "before", "after", "slope over its error, last round"],
                [
                    [key, f"{start[key]:.4g}", f"{last[key]:.4g}", f"{t:+.1f}"]
                    for key, t in zip(space(base), done[-1].certainty, strict=True)
                ],
            )
        )
        means = [r.mean for r in done]
        out.tables.append(
            (
                f"Mean loss of the {2 * self.pairs} runs of a round, nats a token",
                ["round", "mean", "radius"],
                [[str(n), f"{r.mean:.4f}", f"{r.radius:g}"] for n, r in enumerate(done, 1)],
            )
        )
        out.plots["rounds"] = plots.line("round", "mean loss, nats a token", [*range(1, len(means) + 1)], means)
        if len(done) < self.rounds:
            return out
        pairs = [(known[a], known[b]) for a, b in self._confirmation(base, known) if a in known and b in known]
        if len(pairs) > 1:
            gain, error = fits.mean_error([a - b for a, b in pairs])
            out.findings.append(
                f"On {len(pairs)} other seeds the result is better than the start by {gain:.4f} +- {error:.4f} nats a "
                f"token ({np.mean([a for a, _ in pairs]):.4f} to {np.mean([b for _, b in pairs]):.4f})."
            )
        return out

    def _rounds(self, base: TrainConfig, known: Mapping[Cell, float]):
        """The rounds so far, the last of which may have cells that are not finished."""
        centre, radius, before = np.zeros(len(space(base))), self.radius, None
        for number in range(self.rounds):
            search = Round(self, base, number, centre, radius, before, known)
            yield search
            if not search.done:
                return
            if before is not None and search.mean > before.mean:
                radius /= 2
            centre, before = search.after, search

    def _confirmation(self, base: TrainConfig, known: Mapping[Cell, float]) -> list[tuple[Cell, Cell]]:
        """(start, result) on seeds of their own."""
        *_, last = self._rounds(base, known)
        seeds = range(CONFIRMED, CONFIRMED + self.confirm)
        return [(cell_of(base, seed=s), candidate(base, last.after, s)) for s in seeds]


class Round:
    """Pairs around a centre, and where they say to go."""

    def __init__(
        self,
        study: Modules,
        base: TrainConfig,
        number: int,
        centre: np.ndarray,
        radius: float,
        before: "Round | None",
        known: Mapping[Cell, float],
    ):
        self.radius, self.centre = radius, centre
        rng = generator("modules", study.seed, number)
        self.signs = rng.choice([-1.0, 1.0], (study.pairs, len(centre)))
        seeds = range(study.seed, study.seed + study.pairs)
        self.cells = [
            (candidate(base, centre + radius * u, s), candidate(base, centre - radius * u, s))
            for u, s in zip(self.signs, seeds, strict=True)
        ]
        self.done = all(cell in known for pair in self.cells for cell in pair)
        if not self.done:
            return
        losses = fits.finite([[known[a], known[b]] for a, b in self.cells], DIVERGED)
        self.mean = float(losses.mean())
        self.slopes = (losses[:, 0] - losses[:, 1])[:, None] / (2 * radius) * self.signs
        pooled = self.slopes if before is None else np.concatenate([before.slopes, self.slopes])
        self.certainty = pooled.mean(0) / (pooled.std(0, ddof=1) / math.sqrt(len(pooled)))
        self.after = centre - radius * np.clip(self.certainty, -1, 1)


def space(base: TrainConfig) -> list[str]:
    """Settings that are searched."""
    rates = [f"optimizer.multipliers.{group}" for group in resolve(base).groups()]
    if base.optimizer.matrices == "adamw":
        return [*rates, *MEMORIES[:2], *PLAIN]
    return [*rates, *MEMORIES, *PLAIN]


def values(base: TrainConfig, offset: np.ndarray) -> dict[str, float]:
    """Settings at an offset in log space from those of the base."""
    out = {}
    for key, x in zip(space(base), offset, strict=True):
        value = base
        for part in key.split("."):
            value = getattr(value, part)
        assert isinstance(value, float | int)
        moved = 1 - (1 - value) * math.exp(x) if key in MEMORIES else value * math.exp(x)
        out[key] = float(f"{min(max(moved, 0.0), 0.9999) if key in MEMORIES else moved:.6g}")
    return out


def candidate(base: TrainConfig, offset: np.ndarray, seed: int) -> Cell:
    return cell_of(base, seed=seed, variant=tuple(values(base, offset).items()))
