"""`trimask tune`: which sampling settings a model is best used with, and what each of them costs.

For every task with a figure of quality, settings are tried on validation data: first the model's own and some that
were good for other models, then changes of those that are not beaten at their cost. The unbeaten are
sifted on more items and with other seeds, since the best of many noisy figures is too good; what is left of them is
measured on more still. Of these the presets are taken, and measured once more, for the same reason: those figures are
the ones that are published.

tune.json      what is tried on what, and the defaults with which it began
trials.jsonl   a trial a line
report.html    frontiers and tables; NAME.png beside it
sampling.json  the model's sampling defaults with the presets
"""

import json
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
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
from trimask.core.modality import KINDS, Vocabulary
from trimask.core.rng import generator
from trimask.core.units import duration
from trimask.diffusion.caching import Cache, remembering
from trimask.diffusion.denoiser import Denoiser
from trimask.diffusion.settings import Settings
from trimask.evaluation.audio import ClassSpeaking, Speaking, Transcribing
from trimask.evaluation.coverage import NEIGHBOURS
from trimask.evaluation.image import VARIETY, ClassCaptions, ClassDrawing, SceneCaptions, SceneDrawing
from trimask.evaluation.sets import Section
from trimask.evaluation.table import Result
from trimask.evaluation.writing import UNDER_KNESER_NEY, Writing
from trimask.hub.defaults import SAMPLERS, Defaults, from_json, settings_json, to_json
from trimask.hub.model import Model
from trimask.model.recall import stale
from trimask.studies import report, surrogate
from trimask.studies.conduct import held
from trimask.studies.presets import (
    CONFIRMED,
    MEASURED,
    SEARCHED,
    SIFTED,
    Options,
    Trial,
    defaults_of,
    finalists,
    frontier,
    presets,
    report_of,
    said,
)
from trimask.studies.space import FIRST, ORDERED, TOGETHER, families, space

TRIALS = "trials.jsonl"
SIFTED_ITEMS = 4
"""So many times the items of a first trial are those of a second."""
STAGES = (SEARCHED, SIFTED, MEASURED, CONFIRMED)
"""Each draws with a seed of its own."""


@chz.chz
class TuneConfig:
    """How much is tried, on how much."""

    trials: int = chz.field(default=64, doc="settings tried for each task")
    items: int = chz.field(default=64, doc="items that each is tried on; 0 is all of the set")
    sifted: int = chz.field(default=12, doc="settings that are tried again on four times the items")
    finalists: int = chz.field(default=6, doc="settings that are measured on the final number of items")
    final: int = chz.field(default=400, doc="items that these are measured on; 0 is all of the set")
    seed: int = chz.field(default=0, doc="of the search and of what is drawn; later stages draw with the next ones")
    fewer: float = chz.field(default=4.0, doc="fast asks the model this many times less than best, where it can")
    loss: float = chz.field(default=0.02, doc="quality that fast and balanced may lose against best")
    varied: float = chz.field(default=0.9, doc="variety that is enough, as a share of that of real items")
    only: tuple[str, ...] = chz.field(default=(), doc="names of tasks; empty: all")
    fixed: float | None = chz.field(
        default=None, doc="share of an evaluation's time that does not depend on how much is computed; None: measured"
    )

    @chz.validate
    def _check(self):
        if not 3 <= self.finalists <= self.sifted or self.trials < 3 or min(self.items, self.final) < 0:
            raise UsageError("tune needs three trials and three finalists, as many sifted, and no negative numbers")
        if not (0 <= self.loss < 1 and self.fewer >= 1):
            raise UsageError(f"tune needs 0 <= loss < 1 and fewer >= 1, got loss={self.loss}, fewer={self.fewer}")
        if not 0 < self.varied <= 1:
            raise UsageError(f"varied={self.varied} is a share of the variety of real items, above 0 and at most 1")
        if self.fixed is not None and not 0 <= self.fixed <= 1:
            raise UsageError(f"fixed={self.fixed} is a share, from 0 to 1")


Found = Mapping[str, Result]
"""Name of a figure -> it."""


def _plain(metric: str) -> Callable[[Found], Result]:
    """A figure as it is; nothing at all, as of texts without words, is 0."""
    return lambda found: found.get(metric, Result(metric, 0.0, 0))


def _right(metric: str) -> Callable[[Found], Result]:
    """One minus a rate of errors, at least 0."""
    return lambda found: replace(found[metric], metric=f"1 - {metric}", value=max(0.0, 1 - found[metric].value))


def _likely(metric: str) -> Callable[[Found], Result]:
    """Bits of real texts over those of the samples, at most 1: words in no order cost bits."""

    def of(found: Found) -> Result:
        ours, name = found.get(metric), "likeliness"
        if ours is None or not ours.value or ours.reference is None:
            return Result(name, 0.0, 0)
        share = min(1.0, ours.reference / ours.value)
        return replace(ours, metric=name, value=share, error=share * ours.error / ours.value if ours.error else None)

    return of


@dataclass(frozen=True)
class Aim:
    """What a section's settings are tuned for."""

    task: str
    share: Callable[[Found], Result]
    """1 at best."""
    variety: str = ""
    """The figure that tells how varied samples are, beside real items; empty where there is but one right answer."""

    def quality(self, found: Found, enough: float) -> tuple[Result, float | None]:
        """The share, less where samples are not varied enough; and their variety over that of real items.

        A single safe answer is no good, so below `enough` a share counts in proportion.
        """
        share = self.share(found)
        if not self.variety:
            return share, None
        spread = found.get(self.variety, Result(self.variety, 0.0, 0))
        real = spread.reference or 1.0
        varied = spread.value / real
        factor = min(1.0, varied / enough)
        # Where there is enough, how much more does not count, nor how sure that is.
        unsure = share.value * (spread.error or 0.0) / real / enough if factor < 1 else 0.0
        error = None if share.error is None else float(np.hypot(share.error * factor, unsure))
        return replace(share, metric=f"{share.metric}, if varied", value=share.value * factor, error=error), varied


AIMS: Mapping[type[Section], Aim] = {
    SceneDrawing: Aim("text>image", _plain("all correct"), VARIETY),
    ClassDrawing: Aim("text>image", _plain("judged correct"), "coverage over that of real items"),
    SceneCaptions: Aim("image>text", _plain("true of the picture")),
    ClassCaptions: Aim("image>text", _plain("class word right")),
    Speaking: Aim("text>speech", _right("word error rate, generated speech")),
    ClassSpeaking: Aim("text>speech", _plain("judged correct"), "coverage over that of real items"),
    Transcribing: Aim("speech>text", _right("word error rate")),
    Writing: Aim("text", _likely(UNDER_KNESER_NEY), "distinct 2-grams"),
}
"""The sections that can be tuned for."""
_BY_VARIETY = (ClassDrawing, ClassSpeaking, Writing)
"""Those that need a train part to judge variety, the first two further real items too."""

CROSSED = 0.3
"""Share of candidates that are made of two others."""
CANDIDATES = 200
"""How many are thought of for a trial."""


class Counted:
    """A denoiser that counts rows, positions as shares of a row, the most tokens to fill in one, and its own time."""

    def __init__(self, denoiser: Denoiser, vocabulary: Vocabulary):
        self.denoiser, self.vocabulary = denoiser, vocabulary
        self.passes, self.shares, self.tokens, self.seconds = 0.0, 0.0, 0, 0.0

    def __call__(self, canvas: Canvas, asked: Sequence[Query]) -> list[Tensor]:
        self.passes += canvas.shape[0]
        self.shares += canvas.shape[0]
        return self._timed(canvas, lambda: self.denoiser(canvas, asked))

    def _timed(self, canvas: Canvas, work: Callable[[], list[Tensor]]) -> list[Tensor]:
        to_fill_B = ((canvas.ids_BL == self.vocabulary.mask) & canvas.maskable_BL).sum(1)
        self.tokens = max(self.tokens, int(to_fill_B.max()))
        started = time.process_time()
        out = work()
        self.seconds += time.process_time() - started
        return out

    def memory(self, canvas: Canvas, rows: int) -> Memory:
        """See `Remembering`."""
        return remembering(self.denoiser).memory(canvas, rows)

    def recall(self, canvas: Canvas, asked: Sequence[Query], memory: Memory, wanted_BL: Tensor) -> list[Tensor]:
        """See `Remembering`."""
        self.passes += float(wanted_BL.any(1).sum())
        there = canvas.to(memory.ids_BL.device)
        wanted_BL = wanted_BL.to(memory.ids_BL.device)
        computed_B = stale(there, memory, wanted_BL, self.vocabulary.causal).sum(1)
        self.shares += float((computed_B / (there.segment_BP >= 0).sum(1)).sum())
        return self._timed(canvas, lambda: remembering(self.denoiser).recall(canvas, asked, memory, wanted_BL))


@contextmanager
def counted(model: Model) -> Iterator[Counted]:
    """Counts what is asked of a model meanwhile."""
    engine = model.runner.engine
    before = engine.denoiser
    engine.denoiser = counter = Counted(before, model.vocabulary)
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
) -> list[list[Trial]]:
    """Try settings for every section that has a figure of quality; returns the trials of each, for `defaults_of`.

    `facts` name the model and the data. What is in the folder is kept, and the same call goes on. Raises `UsageError`
    when the folder is of something else, or no section can be tuned for, `TrainingError` when it is in use.
    """
    console = console or Console()
    chosen = [*tunable(sections, config, console).items()]
    with held(folder):
        base = model.sampled(_begun(folder, {**facts, **_judged_by(config)}, model.bundle.defaults))
        found = []
        for number, (task, own) in enumerate(chosen, start=1):
            search = _Search(base, task, own, config, folder, console)
            console.print(f"{number}/{len(chosen)} {task}: {search.name}", highlight=False)
            found.append(search.run())
        made = defaults_of(model.bundle.defaults, found, config.fewer, config.loss)
        write_json(folder / "sampling.json", to_json(made))
        count = sum(len(trials) for trials in found)
        page = report.write(report_of(found, config.fewer, config.loss), f"{count} trials", folder)
        console.print(page, highlight=False)
        return found


def tunable(
    sections: Sequence[Section], config: TuneConfig, console: Console | None = None
) -> dict[str, list[Section]]:
    """Task -> the sections that it can be tuned for. Raises `UsageError` where there is none."""
    found: dict[str, list[Section]] = {}
    for section in sections:
        aim = AIMS.get(type(section))
        if aim is None or (config.only and aim.task not in config.only):
            continue
        if reason := _lacks(section):
            (console or Console()).print(f"{section.name} is left out: {reason}", highlight=False)
        else:
            found.setdefault(aim.task, []).append(section)
    if not found:
        wanted = f" of only={','.join(config.only)}" if config.only else ""
        raise UsageError(f"no task{wanted} can be tuned for with these sets and judges: see `trimask evaluate`")
    return found


def _lacks(section: Section) -> str:
    """What a section has not got to say how varied samples are; empty where nothing."""
    one = section.data
    if isinstance(section, _BY_VARIETY) and not one.train:
        return "without a train part nothing says how varied real items are"
    if isinstance(section, ClassDrawing | ClassSpeaking) and len(one.validation) <= NEIGHBOURS:
        return f"it needs more than {NEIGHBOURS} further real items to compare variety with"
    return ""


def _judged_by(config: TuneConfig) -> dict[str, Any]:
    """Settings without which trials cannot be compared."""
    return {"seed": config.seed, "varied": config.varied}


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


TIMED = 16
"""Items that evaluations with and without a cache are timed on."""


def canonical(settings: Mapping[str, Any], most: int) -> str:
    """Settings as they act on at most `most` tokens: two that act alike are one."""
    stated = json.loads(json.dumps(settings))
    sampler = stated["sampler"]
    idles = SAMPLERS[sampler["name"]].idles
    if most and not idles and not sampler.get("inner") and sampler.get("steps"):
        sampler["steps"] = min(sampler["steps"], most)
    if stated["temperature"] == 0:
        stated |= {"top_p": 1.0, "top_k": 0, "min_p": 0.0}
    return json.dumps(stated, sort_keys=True)


def _count(section: Section, wanted: int) -> int:
    """Of so many items those that there are for a section; texts from nothing have no end."""
    return wanted if isinstance(section, Writing) else min(wanted, len(section.data.items))


def _of(section: Section, count: int) -> Section:
    """The section with so many items."""
    return replace(section, n=count)  # pyright: ignore[reportArgumentType, reportCallIssue]


class _Search:
    """The trials of one task: its quality is the mean over its sections, each of which weighs the same."""

    def __init__(
        self, model: Model, task: str, sections: Sequence[Section], config: TuneConfig, folder: Path, console: Console
    ):
        self.model, self.task, self.sections = model, task, sections
        self.config, self.folder, self.console = config, folder, console
        self.name = " + ".join(section.name for section in sections)
        target = self.task.rpartition(">")[2]
        row = model.vocabulary.modalities[model.vocabulary.modality(target)]
        self.modality, self.space, self.families = KINDS[target], space(self.task, row.grid), families(row.grid)
        every = max(len(section.data.items) for section in sections)
        self.items, self.final = (max(_count(s, n or every) for s in sections) for n in (config.items, config.final))
        self.counts = {SEARCHED: self.items, SIFTED: min(SIFTED_ITEMS * self.items, self.final)}
        self.known = {t.key: t for t in read(folder) if t.section == self.name}
        self.fixed = self._fixed()
        self.encoding = self._encoding()

    def run(self) -> list[Trial]:
        """Try what is missing; returns the trials of these numbers of items, by stage."""
        some = (t for t in self.known.values() if t.stage == SEARCHED and t.items == self.items)
        searched = list(some)[: self.config.trials]
        for number in range(len(searched), self.config.trials):
            title = f"trial {number + 1}/{self.config.trials}"
            searched.append(self._try(self._next(number, searched), SEARCHED, title))
        some = finalists(searched, self.config.sifted, self.config.fewer)
        sifted = [self._try(t.options, SIFTED) for t in some]
        best = finalists(sifted, self.config.finalists, self.config.fewer)
        measured = [self._try(t.options, MEASURED) for t in best]
        few = {t.key: t for t in presets(measured, self.config.fewer, self.config.loss).values()}
        return [*searched, *sifted, *measured, *(self._try(t.options, CONFIRMED) for t in few.values())]

    def _fixed(self) -> float:
        """Share of an evaluation's time that does not depend on how much of the canvas it computes, for this task.

        Measured once a folder, on what a cache saves, so that the search goes on as it began.
        """
        if self.config.fixed is not None:
            return self.config.fixed
        path = self.folder / "tune.json"
        begun = read_json(path)
        kept = begun.setdefault("fixed", {})
        if self.name not in kept:
            section = _of(self.sections[0], min(TIMED, self.items))
            each = []
            for cache in (None, Cache("changed")):
                settings = replace(self.settings({}), cache=cache)
                before = self.model.bundle.defaults
                model = self.model.sampled(replace(before, settings={**before.settings, self.task: settings}))
                with counted(model) as counter:
                    section.run(model, self.config.seed)
                each.append((counter.seconds / counter.passes, counter.shares / counter.passes))
            (whole, _), (part, share) = each
            kept[self.name] = round(float(np.clip((part / whole - share) / (1 - share), 0.0, 1.0)), 2)
            write_json(path, begun)
        return kept[self.name]

    def settings(self, options: Options) -> Settings:
        """The model's own settings of the task, changed. Options that do not go together are `UsageError`."""
        stated: Any = options
        return self.model.bundle.defaults.of(self.task, self.modality, stated)

    def _limit(self, options: Options) -> float | None:
        sampler = self.settings(options).sampler
        return (getattr(sampler, "steps", 0) or math.inf) if sampler.adaptive else None

    def _encoding(self) -> surrogate.Encoding:
        """What is known of the model's own settings fills up what an option does not state."""
        own = self.settings({})
        stated = {
            "steps": getattr(own.sampler, "steps", None),
            "cache": "none" if own.cache is None else str(own.cache),
        }
        numbers = {key: getattr(own, key) for key in ("guidance", "temperature", "top_p")}
        return surrogate.Encoding(self.space, self.families, {**stated, **numbers}, self._limit)

    def _next(self, number: int, searched: Sequence[Trial]) -> Options:
        """First the model's own, combinations that have been good, and its own with one thing changed.

        Then what a model of these trials expects most of, among changes of the unbeaten and their mixtures.
        """
        most = max((t.tokens for t in searched), default=0)
        known = {canonical(t.settings, most) for t in searched}
        alone = [{key: value} for key, values in FIRST.items() if key in self.space for value in values]
        samplers = [{"sampler": family[len(family) // 2]} for family in self.families]
        several = [{key: value for key, value in options.items() if key in self.space} for options in TOGETHER]
        for options in ({}, {"steps": 16, "cache": "changed:every=8"}, *several, *alone, *samplers):
            if self._is_new(options, known, most):
                return options
        rng = generator("tune", self.config.seed, self.name, number)
        parents, candidates = frontier(searched, slack=1.0), []
        while len(candidates) < CANDIDATES:
            options = self._candidate(parents, rng)
            if self._is_new(options, known, most):
                candidates.append(options)
        return surrogate.best(self.encoding, searched, candidates, self.config.fewer, rng)

    def _candidate(self, parents: Sequence[Trial], rng: np.random.Generator) -> Options:
        """One of the unbeaten changed in a few options, or two of them mixed."""
        one, other = (parents[n].options for n in rng.integers(len(parents), size=2))
        options = dict(one)
        if rng.random() < CROSSED:
            taken = [(key, (one, other)[rng.integers(2)]) for key in self.space]
            options = {key: of[key] for key, of in taken if key in of}
        for key in rng.choice(list(self.space), rng.integers(1, 4), replace=False):
            options[key] = self._changed(key, options.get(key), rng)
        return options

    def _is_new(self, options: Options, known: set[str], most: int) -> bool:
        try:
            return canonical(settings_json(self.settings(options)), most) not in known
        except UsageError:
            return False

    def _changed(self, key: str, value: Any, rng: np.random.Generator) -> Any:
        values, near = self.space[key], key in ORDERED
        if key == "sampler":
            own = next((family for family in self.families if value in family), ())
            near = len(own) > 1 and bool(rng.random() < 0.5)
            values = own if near else self.families[rng.integers(len(self.families))]
        if near and value in values:
            place = values.index(value) + int(rng.choice([-2, -1, 1, 2]))
            return values[min(max(place, 0), len(values) - 1)]
        chosen = values[rng.integers(len(values))]
        return chosen.item() if isinstance(chosen, np.generic) else chosen

    def _try(self, options: Options, stage: str, title: str = "") -> Trial:
        settings, count = self.settings(options), self.counts.get(stage, self.final)
        stated = settings_json(settings)
        blank = Trial(self.task, self.name, dict(options), stated, stage, count, "", 0.0, 0.0, 0.0, 0.0, 0.0)
        if blank.key in self.known:
            return self.known[blank.key]
        before = self.model.bundle.defaults
        model = self.model.sampled(replace(before, settings={**before.settings, self.task: settings}))
        results, varied, drawn = {}, [], 0
        started = time.monotonic()
        with counted(model) as counter:
            for section in (_of(one, count) for one in self.sections):
                found = section.run(model, self.config.seed + STAGES.index(stage))
                result, variety = AIMS[type(section)].quality({r.metric: r for r in found.results}, self.config.varied)
                results[section.name] = result
                varied += [] if variety is None else [variety]
                drawn += _count(section, count) + (section.twice if isinstance(section, SceneDrawing) else 0)
        seconds = time.monotonic() - started
        of_each = {name: result.value for name, result in results.items()}
        errors = {name: r.error if r.error and math.isfinite(r.error) else 0.0 for name, r in results.items()}
        cost = self.fixed * counter.passes + (1 - self.fixed) * counter.shares
        made = replace(
            blank, metric="; ".join(dict.fromkeys(r.metric for r in results.values())),
            quality=float(np.mean([*of_each.values()])), error=float(np.linalg.norm([*errors.values()])) / len(results),
            passes=counter.passes / drawn, cost=cost / drawn, seconds=seconds / drawn, tokens=counter.tokens,
            variety=float(np.mean(varied)) if varied else None, sets=of_each, errors=errors,
        )  # fmt: skip
        append_json(self.folder / TRIALS, asdict(made))
        self.known[made.key] = made
        self.console.print(
            f"  {title or stage}: {said(options)}: {made.quality:.3f} ± {made.error:.3f}, {made.passes:.0f} passes of "
            f"{made.cost:.1f}'s time, {duration(seconds)}",
            highlight=False,
        )
        return made
