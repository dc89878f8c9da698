"""`trimask study noise`: by which schedule is each modality best masked in training, and revealed in sampling?

A schedule of training is judged by the bound, its noise and that of the gradient. Whether one of sampling, which says
how many tokens are revealed in each step, should follow it is judged by samples: every model draws scenes, says
sentences and writes texts of the built-in world under each.
"""

import dataclasses
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import ClassVar

import chz
import numpy as np

from trimask.core.errors import UsageError
from trimask.core.modality import KINDS
from trimask.data.world.source import Kind, World
from trimask.data.world.splits import Split
from trimask.evaluation.audio import Speaking
from trimask.evaluation.image import SceneDrawing
from trimask.evaluation.sets import EvaluationSet, Section
from trimask.evaluation.suite import SHIPPED, load_judges
from trimask.evaluation.writing import UNDER_KNESER_NEY, Writing
from trimask.hub.defaults import Overrides
from trimask.hub.model import Model, load
from trimask.studies.base import Report
from trimask.studies.compare import Compare, Variant, judged, of, row_key
from trimask.studies.table import Row
from trimask.train.config import TrainConfig

FIGURES: Mapping[type[Section], tuple[str, str]] = {
    SceneDrawing: ("text>image", "single attributes correct"),
    Speaking: ("text>speech", "word error rate, generated speech"),
    Writing: ("text", UNDER_KNESER_NEY),
}
"""Section -> its task, and the figure of its samples that is told. Of the last two less is better."""
READ = 2000
"""Texts of the built-in world that written ones are held against."""
TEMPERATURE = 0.7


@chz.chz
class Noise(Compare):
    """The schedule of one modality at a time, with the weights of the bound and without."""

    schedules: tuple[str, ...] = chz.field(default=("linear", "cosine", "poly2"), doc="schedules that are tried")
    samples: int = chz.field(default=0, doc="items of the built-in world that a model makes under each; 0: none")
    steps: int = chz.field(default=16, doc="steps that a sample takes, in random order")

    title: ClassVar[str] = "Noise schedules of training"
    threats: ClassVar[tuple[str, ...]] = (
        "Short trainings of small models: what converges sooner need not end lower.",
        "Only one modality's schedule is changed at a time; samples are drawn at one temperature and in random order.",
    )

    @chz.validate
    def _check_samples(self):
        if self.samples < 0 or self.steps < 1:
            raise UsageError(f"study: samples={self.samples} must not be negative, steps={self.steps} be at least 1")

    def variants(self, base: TrainConfig) -> dict[str, Variant]:
        out: dict[str, Variant] = {"the recipe": ()}
        for number, row in enumerate(base.model.vocabulary.modalities):
            for schedule in self.schedules:
                for elbo in (True, False):
                    if (schedule, elbo) != (row.schedule, row.elbo):
                        name = f"{row.name} {schedule}{'' if elbo else ', weight 1'}"
                        prefix = row_key(number)
                        out[name] = ((f"{prefix}.schedule", schedule), (f"{prefix}.elbo", str(elbo)))
        return out

    def measured(self, config: TrainConfig) -> dict[str, float]:
        """Figures of samples, by task and schedule of counts."""
        return drawn(load(config.run), self.schedules, self.steps, self.samples) if self.samples else {}

    def report(self, base: TrainConfig, rows: Sequence[Row]) -> Report:
        out, variants = super().report(base, rows), self.variants(base)
        for task, figure in FIGURES.values():
            keys = [key_of(task, counts) for counts in self.schedules]
            if not any(key in row.values for row in rows for key in keys):
                continue
            modality, lines = KINDS[task.rpartition(">")[2]], []
            for name, variant in variants.items():
                if name == "the recipe" or name.startswith(f"{modality} "):
                    own = {r.cell.seed: r for r in rows if r.cell.variant == variant}
                    lines.append([name, *(_beside(own, key, keys[0]) for key in keys)])
            title = f"{task}: {figure}, {self.samples} items in {self.steps} steps; beside {self.schedules[0]} counts"
            out.tables.append((title, ["trained", *(f"{counts} counts" for counts in self.schedules)], lines))
        return out


def key_of(task: str, counts: str) -> str:
    """Name of a figure of samples in a row."""
    return f"{task}, {counts} counts"


def _beside(own: Mapping[int, Row], key: str, first: str) -> str:
    """The mean over seeds of a figure, and its difference to that of the first schedule of counts."""
    values, others = ({s: of(r, k) for s, r in own.items() if k in r.values} for k in (key, first))
    if not values:
        return ""
    mean = f"{np.mean(list(values.values())):.4f}"
    return mean if key == first else f"{mean} ({judged(values, others).cell})"


def drawn(model: Model, schedules: Sequence[str], steps: int, samples: int) -> dict[str, float]:
    """What samples of a model are worth under each schedule of counts, without guidance; those it can make."""
    out: dict[str, float] = {}
    for section in _sections(model, samples):
        task, figure = FIGURES[type(section)]
        modality = KINDS[task.rpartition(">")[2]]
        for counts in schedules:
            options: Overrides = {
                "sampler": f"random-order:counts={counts}",
                "steps": steps,
                "temperature": TEMPERATURE,
            }
            if ">" in task:
                options |= {"guidance": 0.0}
            defaults = model.bundle.defaults
            settings = {**defaults.settings, task: defaults.of(task, modality, options)}
            found = section.run(model.sampled(dataclasses.replace(defaults, settings=settings)), 0)
            value = next((r.value for r in found.results if r.metric == figure), math.nan)
            out[key_of(task, counts)] = value
    return out


def _sections(model: Model, samples: int) -> Iterator[Section]:
    """What a model can make of the built-in world."""
    kinds = {"text", *model.vocabulary.kinds}
    recognizer = load_judges(SHIPPED).recognizer if SHIPPED.is_dir() else None
    if "image" in kinds:
        yield SceneDrawing(_world("scenes", samples), samples)
    if "speech" in kinds and recognizer is not None:
        yield Speaking(_world("speech", samples), recognizer, samples)
    yield Writing(dataclasses.replace(_world("text", READ), train=_world("text", READ, "train").items), samples)


def _world(kind: Kind, count: int, split: Split = "validation") -> EvaluationSet:
    world = World(kind=kind, split=split, count=count)
    return EvaluationSet(f"world-{kind}", split, [world[i] for i in range(count)])
