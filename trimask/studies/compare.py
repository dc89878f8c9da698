"""What several studies share: a few variants of one run, all else alike, and how sure it is which is better.

Runs of one seed are compared with each other. Bounds are those of one forward process for all variants, the linear
schedule, so that a variant that masks otherwise is judged by the same masks. Of each model two noises are told as well,
on batches of its own training: that of the loss and that of the gradient.
"""

import dataclasses
import math
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from itertools import islice
from typing import ClassVar

import chz
import numpy as np
import torch
from scipy.stats import t as student

from trimask.core.errors import UsageError
from trimask.core.modality import Vocabulary
from trimask.data.stream import Batch, Stream
from trimask.hub.bundle import find, load_bundle
from trimask.model.transformer import Transformer
from trimask.studies import fits, training
from trimask.studies.base import Report, Study, cell_of
from trimask.studies.table import Cell, Row, Setting, total
from trimask.train import validation
from trimask.train.config import TrainConfig
from trimask.train.step import evaluate

Variant = tuple[tuple[str, Setting], ...]
"""Settings (key, value) that differ from the base."""
ALL = "all"
LOSS, SCATTER, SIGNAL = "noise of the loss", "variance of the gradient", "square of the gradient"
NOISE = 64
"""Training batches that tell the noises."""
SURE = 0.95


@chz.chz
class Compare(Study):
    """Variants times seeds."""

    seeds: int = chz.field(default=3, doc="seeds of each variant, the same for all")

    title: ClassVar[str] = ""

    @chz.validate
    def _check(self):
        if self.seeds < 2:
            raise UsageError(f"study.seeds={self.seeds}: which variant is better takes two seeds at least")

    @abstractmethod
    def variants(self, base: TrainConfig) -> dict[str, Variant]:
        """What is compared, by name; the run as it is comes first and has no settings."""

    def plan(self, base: TrainConfig, rows: Sequence[Row]) -> list[Cell]:
        return [cell_of(base, seed=s, variant=v) for s in range(self.seeds) for v in self.variants(base).values()]

    def expected(self, base: TrainConfig) -> list[Cell]:
        return self.plan(base, ())

    def work(self, config: TrainConfig, cell: Cell) -> Row | None:
        row = training.work(config, cell)
        if row is None or not math.isfinite(row.loss):
            return row
        model = load_bundle(find(config.run)).model
        assert config.validation is not None  # conduct() sees to it
        held_out = Stream(config.validation.data, alike(model.vocabulary))
        bounds = validation.bounds(model, list(islice(held_out, config.validation.batches)), torch.device("cpu"))
        values, errors = ({m: bound[part] for m, bound in bounds.items()} for part in ("nats", "error"))
        values |= noises(model, list(islice(Stream(config.data, model.vocabulary), NOISE)))
        values |= self.measured(config)
        return dataclasses.replace(row, loss=total(bounds), values=values, errors=errors)

    def measured(self, config: TrainConfig) -> dict[str, float]:
        """What else is to be known of a finished run, by names that no modality has."""
        return {}

    def report(self, base: TrainConfig, rows: Sequence[Row]) -> Report:
        out, variants = Report(self.title), self.variants(base)
        by_variant = {v: {r.cell.seed: r for r in rows if r.cell.variant == v} for v in variants.values()}
        home, *others = variants.items()
        targets = (ALL, *sorted({name for row in rows for name in row.errors}))
        groups = [{s: of(r, ALL) for s, r in own.items()} for own in by_variant.values()]
        out.findings.append(fits.seed_noise(groups))
        lines = []
        for name, variant in variants.items():
            own = by_variant[variant]
            cells = [name, str(len(own))]
            for target in targets:
                cells.append(_mean({s: of(r, target) for s, r in own.items()}))
            lines.append([*cells, _mean({s: of(r, LOSS) for s, r in own.items()}), gradient_noise([*own.values()])])
        columns = ["", "seeds", *targets, LOSS, "noise of the gradient"]
        out.tables.append(("Bounds under the linear schedule, nats a token, means over seeds", columns, lines))
        verdicts = []
        for name, variant in others:
            cells = [name]
            for target in targets:
                found = judged(*({s: of(r, target) for s, r in by_variant[v].items()} for v in (variant, home[1])))
                cells.append(found.cell)
                if found.verdict and target != ALL:
                    out.findings.append(f"{target}: {name} is {found.verdict} than {home[0]}, {found.cell}.")
            verdicts.append(cells)
        many = len(others) * (len(targets) - 1)
        out.findings.append(f"Of {many} intervals about {many * (1 - SURE):.1f} miss the truth by chance alone.")
        caption = f"Beside {home[0]!r}, paired by seed, with intervals of {SURE:.0%}"
        out.tables.append((caption, ["", *targets], verdicts))
        return out


def row_key(number: int) -> str:
    """Key of a row of the table of modalities."""
    return f"model.vocabulary.modalities.{number}"


def alike(vocabulary: Vocabulary) -> Vocabulary:
    """The same vocabulary, every modality masked by the linear schedule."""
    return chz.replace(vocabulary, modalities=tuple(chz.replace(m, schedule="linear") for m in vocabulary.modalities))


def of(row: Row, target: str) -> float:
    """A value of a row; `ALL` is its loss."""
    return row.loss if target == ALL else row.values.get(target, math.nan)


def noises(model: Transformer, batches: Sequence[Batch]) -> dict[str, float]:
    """How much single batches scatter: standard deviation of the loss over its mean; of the gradient tr(covariance) of
    one batch and the square of its mean, without what the scatter adds to that (so it may come out negative)."""
    losses, squares, mean = [], [], None
    model.requires_grad_(True)
    for batch in batches:
        model.zero_grad(set_to_none=True)
        loss = evaluate(model, batch.masked).loss
        loss.backward()
        flat = torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None]).double()
        losses.append(float(loss.detach()))
        squares.append(float(flat.square().sum()))
        mean = flat if mean is None else mean + flat
    model.zero_grad(set_to_none=True)
    assert mean is not None
    n = len(losses)
    whole = float((mean / n).square().sum())
    scatter = (np.mean(squares) - whole) * n / (n - 1)
    noise = float(np.std(losses, ddof=1) / np.mean(losses))
    return {LOSS: noise, SCATTER: float(scatter), SIGNAL: float(whole - scatter / n)}


def gradient_noise(rows: Sequence[Row]) -> str:
    """tr(covariance) of the gradient of a batch over its squared mean (McCandlish et al. 2018, equation 2.8): how many
    batches have to be averaged for as much signal as noise. Sums over the seeds, as one alone may have no signal."""
    found = [(row.values[SCATTER], row.values[SIGNAL]) for row in rows if SCATTER in row.values]
    if not found:
        return ""
    scatter, signal = (sum(part) for part in zip(*found, strict=True))
    return f"{scatter / signal:.0f}" if signal > 0 else f"beyond {len(found) * NOISE}"


@dataclasses.dataclass(frozen=True)
class Judged:
    """A difference of two variants."""

    mean: float
    half: float
    """Half the width of its interval."""

    @property
    def verdict(self) -> str:
        """better, worse, or nothing where the interval holds 0."""
        return "" if not abs(self.mean) > self.half else "better" if self.mean < 0 else "worse"

    @property
    def cell(self) -> str:
        return f"{self.mean:+.4f} +- {self.half:.4f}"


def judged(one: Mapping[int, float], other: Mapping[int, float]) -> Judged:
    """Mean difference over the seeds that both have, and Student's interval."""
    mean, error, count = fits.compared(one, other)
    return Judged(mean, float(error * student.ppf((1 + SURE) / 2, count - 1)) if count > 1 else math.inf)


def _mean(values: Mapping[int, float]) -> str:
    return f"{np.mean(list(values.values())):.4f}" if values else ""
