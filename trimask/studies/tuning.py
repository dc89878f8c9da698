"""`trimask tune`: which sampling settings a model is best used with, and what each of them costs.

For every section of an evaluation that has a figure of quality, settings are tried on validation data: first the
model's own at several numbers of steps, then changes of those that are not beaten at their cost. The unbeaten are
measured anew, on more items and with other seeds, since the best of many noisy figures is too good; of these the
presets are taken.

tune.json      what is tried on what, and the defaults with which it began
trials.jsonl   a trial a line
report.html    frontiers and tables; NAME.png beside it
sampling.json  the model's sampling defaults with the presets
"""

import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import chz
import numpy as np
from rich.console import Console
from torch import Tensor

from trimask.core.canvas import Canvas, Query
from trimask.core.errors import DataError, UsageError
from trimask.core.files import append_json, read_json, whole_lines, write_json
from trimask.core.memory import Memory
from trimask.core.modality import KINDS
from trimask.core.rng import generator
from trimask.core.units import duration
from trimask.diffusion.caching import remembering
from trimask.diffusion.denoiser import Denoiser
from trimask.diffusion.settings import Settings
from trimask.evaluation.audio import ClassSpeaking, Speaking, Transcribing
from trimask.evaluation.image import ClassCaptions, ClassDrawing, SceneCaptions, SceneDrawing
from trimask.evaluation.sets import Section
from trimask.evaluation.table import Result
from trimask.evaluation.writing import Writing
from trimask.hub.defaults import SAMPLERS, Defaults, from_json, settings_json, to_json
from trimask.hub.model import Model
from trimask.model.recall import stale
from trimask.studies import report
from trimask.studies.presets import Options, Trial, defaults_of, finalists, frontier, report_of, said

TRIALS = "trials.jsonl"


@chz.chz
class TuneConfig:
    """How much is tried, on how much."""

    trials: int = chz.field(default=48, doc="settings tried for each task")
    items: int = chz.field(default=64, doc="items that each is tried on; 0 is all of the set")
    finalists: int = chz.field(default=6, doc="settings that are measured anew")
    final: int = chz.field(default=256, doc="items that these are measured on; 0 is all of the set")
    seed: int = chz.field(default=0, doc="of the search and of what is drawn; finals draw with the next")
    fewer: float = chz.field(default=4.0, doc="fast asks the model this many times less than best, where it can")
    loss: float = chz.field(default=0.02, doc="quality that fast and balanced may lose against best")
    only: tuple[str, ...] = chz.field(default=(), doc="names of tasks; empty: all")

    @chz.validate
    def _check(self):
        if min(self.trials, self.finalists) < 3 or min(self.items, self.final) < 0:
            raise UsageError("tune needs at least three trials and three finalists, and no negative number of items")


def _plain(metric: str) -> "Quality":
    return lambda found: found[metric]


def _right(metric: str) -> "Quality":
    """One minus a rate of errors, at least 0."""
    return lambda found: replace(found[metric], metric=f"1 - {metric}", value=max(0.0, 1 - found[metric].value))


def _varied(metric: str, variety: str) -> "Quality":
    """A share times how much of the variety of real items there is: a single safe answer is no good."""

    def of(found: Mapping[str, Result]) -> Result:
        share, spread = found[metric], found.get(variety)
        if spread is None:
            return share
        factor = min(1.0, spread.value / spread.reference if spread.reference else spread.value)
        error = None if share.error is None else share.error * factor
        return replace(share, metric=f"{metric} x {variety}", value=share.value * factor, error=error)

    return of


Quality = Callable[[Mapping[str, Result]], Result]
QUALITY: Mapping[type[Section], tuple[str, Quality]] = {
    SceneDrawing: ("text>image", _plain("all correct")),
    ClassDrawing: ("text>image", _varied("judged correct", "coverage over that of real items")),
    SceneCaptions: ("image>text", _plain("true of the picture")),
    ClassCaptions: ("image>text", _plain("class word right")),
    Speaking: ("text>speech", _right("word error rate, generated speech")),
    ClassSpeaking: ("text>speech", _varied("judged correct", "coverage over that of real items")),
    Transcribing: ("speech>text", _right("word error rate")),
    Writing: ("text", _varied("sampled words in the training vocabulary", "distinct 2-grams")),
}
"""Section -> its task, and the figure of its results that is tuned for, 1 at best."""

_TEMPERATURES = (0.0, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0)
_SHARED: Mapping[str, tuple[Any, ...]] = {
    "steps": (4, 6, 8, 12, 16, 24, 32, 48, 64, 96, 128),
    "temperature": (*_TEMPERATURES, "1:0.3"),
    "top_p": (0.8, 0.9, 0.95, 1.0),
    "cache": ("none", "changed", "changed:every=8", "changed:every=4", "changed:after=0.1", "target"),
}
_GUIDANCE = (0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, "0:3", "2@0-0.7")
_PLAIN = ("random-order", "random-order:counts=cosine", "confidence:gumbel=0", "confidence:gumbel=1",
          "confidence:gumbel=4", "confidence:by=entropy", "threshold:probability=0.7", "threshold:probability=0.9",
          "entropy-bounded:bound=0.5", "entropy-bounded:bound=2", "planning", "remasking")  # fmt: skip
_OF_GRID: Mapping[str, tuple[str, ...]] = {
    "line": ("blockwise:block=1,inner=random-order", "blockwise:block=8", "blockwise:block=8,inner=threshold"),
    "plane": (),
    "frames": ("level-ordered:inner=random-order", "level-ordered", "blockwise:block=16,inner=random-order"),
}
_ORDERED = ("steps", "temperature", "top_p")
"""Options whose neighbours are tried first."""


class Counted:
    """A denoiser that counts rows and positions."""

    def __init__(self, denoiser: Denoiser):
        self.denoiser, self.passes, self.cost = denoiser, 0.0, 0.0

    def __call__(self, canvas: Canvas, asked: Sequence[Query]) -> list[Tensor]:
        self.passes += canvas.shape[0]
        self.cost += canvas.shape[0]
        return self.denoiser(canvas, asked)

    def memory(self, canvas: Canvas, rows: int) -> Memory:
        """See `Remembering`."""
        return remembering(self.denoiser).memory(canvas, rows)

    def recall(self, canvas: Canvas, asked: Sequence[Query], memory: Memory, wanted_BL: Tensor) -> list[Tensor]:
        """See `Remembering`."""
        self.passes += float(wanted_BL.any(1).sum())
        inside_B = (canvas.segment_BP >= 0).sum(1)
        self.cost += float((stale(canvas, memory, wanted_BL).sum(1) / inside_B).sum())
        return remembering(self.denoiser).recall(canvas, asked, memory, wanted_BL)


@contextmanager
def counted(model: Model) -> Iterator[Counted]:
    """Counts what is asked of a model meanwhile."""
    engine = model.runner.engine
    before = engine.denoiser
    engine.denoiser = counter = Counted(before)
    try:
        yield counter
    finally:
        engine.denoiser = before


def tune(
    model: Model,
    sections: Sequence[Section],
    folder: Path,
    config: TuneConfig,
    facts: Mapping[str, Any],
    console: Console | None = None,
) -> Defaults:
    """Try settings for every section that has a figure of quality; returns the model's defaults with the presets.

    `facts` name the model and the data. What is in the folder is kept, and the same call goes on. Raises `UsageError`
    when the folder is of something else, or no section can be tuned for.
    """
    console = console or Console()
    chosen = tunable(sections, config)
    model = model.sampled(_begun(folder, {**facts, "seed": config.seed}, model.bundle.defaults))
    trials = read(folder)
    for number, section in enumerate(chosen, start=1):
        console.print(f"{number}/{len(chosen)} {QUALITY[type(section)][0]}: {section.name}", highlight=False)
        trials += _Search(model, section, config, folder, trials, console).run()
    of_task = [[t for t in trials if t.section == section.name] for section in chosen]
    made = defaults_of(model.bundle.defaults, of_task, config.fewer, config.loss)
    write_json(folder / "sampling.json", to_json(made))
    written = report.write(report_of(of_task, config.fewer, config.loss), f"{len(trials)} trials", folder)
    console.print(written, highlight=False)
    return made


def tunable(sections: Sequence[Section], config: TuneConfig) -> list[Section]:
    """The first section of each task that can be tuned for. Raises `UsageError` where there is none."""
    first: dict[str, Section] = {}
    for section in sections:
        task = QUALITY.get(type(section), ("", None))[0]
        if task and (not config.only or task in config.only):
            first.setdefault(task, section)
    if not first:
        wanted = f" of only={','.join(config.only)}" if config.only else ""
        raise UsageError(f"no task{wanted} can be tuned for with these sets and judges: see `trimask evaluate`")
    return [*first.values()]


def _begun(folder: Path, facts: Mapping[str, Any], defaults: Defaults) -> Defaults:
    """The defaults with which the search of a folder began: when it is done, the model may have others."""
    path, now = folder / "tune.json", json.loads(json.dumps({**facts, "defaults": to_json(defaults)}))
    if not path.exists():
        write_json(path, now)
        return defaults
    saved = read_json(path)
    for key in facts:
        if saved.get(key) != now[key]:
            raise UsageError(f"{folder} holds trials with another {key}; choose another --out")
    return from_json(saved["defaults"], str(path))


def read(folder: Path) -> list[Trial]:
    """All trials of a folder. Raises `DataError` for a line that is none."""
    path, out = folder / TRIALS, []
    for number, line in enumerate(whole_lines(path), start=1):
        try:
            out.append(Trial(**json.loads(line)))
        except (ValueError, TypeError) as e:
            raise DataError(f"{path}, line {number} is not a trial: {e}") from None
    return out


def space(task: str, grid: str) -> dict[str, tuple[Any, ...]]:
    """Options that are tried -> their values."""
    out = {"sampler": (*_PLAIN, *_OF_GRID[grid]), **_SHARED}
    return {**out, "guidance": _GUIDANCE} if ">" in task else out


class _Search:
    """The trials of one section."""

    def __init__(
        self, model: Model, section: Section, config: TuneConfig, folder: Path, done: Sequence[Trial], console: Console
    ):
        self.model, self.section, self.config, self.folder, self.console = model, section, config, folder, console
        self.task, self.quality = QUALITY[type(section)]
        target = self.task.rpartition(">")[2]
        row = model.vocabulary.modalities[model.vocabulary.modality(target)]
        self.modality, self.space = KINDS[target], space(self.task, row.grid)
        self.trials = [t for t in done if t.section == section.name]
        self.new: list[Trial] = []

    def run(self) -> list[Trial]:
        """Try what is missing; returns the new trials."""
        for number in range(self.config.trials):
            searched = [t for t in self.trials if not t.final]
            if number >= len(searched):
                self._try(self._next(number, searched), final=False)
        searched = [t for t in self.trials if not t.final][: self.config.trials]
        for trial in finalists(searched, self.config.finalists, self.config.fewer):
            self._try(trial.options, final=True)
        return self.new

    def settings(self, options: Options) -> Settings:
        """The model's own settings of the task, changed. Options that do not go together are `UsageError`."""
        stated: Any = dict(options)
        # Samplers that take as many steps as the model asks for have none to choose.
        name = str(stated.get("sampler", "")).partition(":")[0]
        if name and not hasattr(SAMPLERS[name], "steps"):
            stated.pop("steps", None)
        return self.model.bundle.defaults.of(self.task, self.modality, stated)

    def _next(self, number: int, searched: Sequence[Trial]) -> Options:
        """First the model's own at several numbers of steps, with and without a cache; then changes of the unbeaten."""
        known = {json.dumps(t.settings, sort_keys=True) for t in searched}
        ladder = [{"steps": n, **cache} for n in (64, 16, 8, 32, 4) for cache in ({}, {"cache": "changed:every=8"})]
        for options in ({}, *ladder):
            if self._is_new(options, known):
                return options
        rng = generator("tune", self.config.seed, self.section.name, number)
        parents = frontier(searched, slack=1.0)
        while True:
            options = dict(parents[rng.integers(len(parents))].options)
            for key in rng.choice(list(self.space), 1 + int(rng.random() < 0.4), replace=False):
                options[key] = self._changed(key, options.get(key), rng)
            if self._is_new(options, known):
                return options

    def _is_new(self, options: Options, known: set[str]) -> bool:
        try:
            return json.dumps(settings_json(self.settings(options)), sort_keys=True) not in known
        except UsageError:
            return False

    def _changed(self, key: str, value: Any, rng: np.random.Generator) -> Any:
        values = self.space[key]
        if key in _ORDERED and value in values:
            place = values.index(value) + int(rng.choice([-2, -1, 1, 2]))
            return values[min(max(place, 0), len(values) - 1)]
        chosen = values[rng.integers(len(values))]
        return chosen.item() if isinstance(chosen, np.generic) else chosen

    def _try(self, options: Options, final: bool) -> None:
        settings = self.settings(options)
        count = self.config.final if final else self.config.items
        stated = settings_json(settings)
        blank = Trial(self.task, self.section.name, dict(options), stated, final, count, "", 0.0, 0.0, 0.0, 0.0, 0.0)
        if any(t.key == blank.key for t in self.trials):
            return
        before = self.model.bundle.defaults
        model = self.model.sampled(replace(before, settings={**before.settings, self.task: settings}))
        section = replace(self.section, n=count)  # pyright: ignore[reportArgumentType, reportCallIssue]
        started = time.monotonic()
        with counted(model) as counter:
            found = section.run(model, self.config.seed + final)
        seconds = time.monotonic() - started
        result = self.quality({r.metric: r for r in found.results})
        items = max(result.n, 1)
        made = replace(
            blank, metric=result.metric, quality=result.value, error=result.error or 0.0,
            passes=counter.passes / items, cost=counter.cost / items, seconds=seconds / items,
        )  # fmt: skip
        append_json(self.folder / TRIALS, asdict(made))
        self.trials.append(made)
        self.new.append(made)
        stage = "measured" if final else f"trial {sum(not t.final for t in self.trials)}/{self.config.trials}"
        self.console.print(
            f"  {stage}: {said(options)}: {made.quality:.3f} ± {made.error:.3f}, {made.cost:.1f} passes' worth, "
            f"{duration(seconds)}",
            highlight=False,
        )
