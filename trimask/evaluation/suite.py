"""An evaluation: sections run one after the other, a typed table on disk, a report.

    OUT/results.json          all rows, typed; which command, seed and model they are of
    OUT/sections/NAME/        section.json (rows, texts) with the pictures and recordings shown
    OUT/report.html           everything in one file

A finished section is kept as long as the model, the items, the judges and the settings stay the same,
so an interrupted evaluation goes on with the same command.
"""

import hashlib
import json
import re
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import chz
import soundfile
from PIL import Image
from rich.console import Console
from rich.table import Table

from trimask.core.errors import UsageError
from trimask.core.files import read_json, replacing, settled, write_json
from trimask.core.modality import KINDS
from trimask.core.units import duration
from trimask.data.world.draw import SIDE
from trimask.evaluation.audio import ClassSpeaking, Speaking, Transcribing
from trimask.evaluation.generator import Generator
from trimask.evaluation.image import Captions, ClassCaptions, ClassDrawing, Drawing, SceneCaptions, SceneDrawing
from trimask.evaluation.judges import Judge, train_judge
from trimask.evaluation.recognizer import Recognizer
from trimask.evaluation.report import write_report
from trimask.evaluation.senses import CodeSense
from trimask.evaluation.sets import EvaluationSet, Section
from trimask.evaluation.speaker import Speaker
from trimask.evaluation.table import Findings, Result, beside, shown
from trimask.evaluation.writing import Cloze, Likelihood, Writing
from trimask.tokenizers.contract import Tokenizer

FORMAT = 1
SHIPPED = Path(__file__).parents[1] / "models" / "judges"
"""The judges that come with the package."""
RECOGNIZER, SPEAKER, TOKENS = "recognizer", "speaker", ".tokens"


@chz.chz
class SuiteConfig:
    """How much is asked of the model. Zero of anything means all items of the set."""

    seed: int = chz.field(default=0, doc="seed of everything that is drawn")
    drawings: int = chz.field(default=400, doc="pictures drawn of each set")
    captions: int = chz.field(default=400, doc="pictures described of each set")
    speech: int = chz.field(default=200, doc="texts spoken, and recordings transcribed, of each set")
    texts: int = chz.field(default=200, doc="texts written from nothing")
    cloze: int = chz.field(default=400, doc="gaps filled")
    likelihood: int = chz.field(default=200, doc="items whose bound is estimated, for each task")
    draws: int = chz.field(default=16, doc="model evaluations for each item and estimator; even, at least 4")
    only: tuple[str, ...] = chz.field(default=(), doc="names of sections, * for anything; empty: all")


@dataclass(frozen=True)
class Judges:
    """Who grades. `classes` and `tokens` are keyed by the name of a set."""

    recognizer: Recognizer | None = None
    speaker: Speaker | None = None
    classes: Mapping[str, Judge] = field(default_factory=dict)
    tokens: Mapping[str, Judge] = field(default_factory=dict)
    """Classifiers of the image tokenizer's codes."""

    @property
    def fingerprints(self) -> dict[str, str]:
        """What decides their grades."""
        named = {**self.classes, **{f"{k}{TOKENS}": v for k, v in self.tokens.items()}}
        out = {name: judge.stored.fingerprint for name, judge in named.items()}
        if self.recognizer is not None:
            out[RECOGNIZER] = self.recognizer.stored.fingerprint
        if self.speaker is not None:
            out[SPEAKER] = self.speaker.judge.stored.fingerprint
        return out


def load_judges(folder: Path | str) -> Judges:
    """All judges of a folder, by the names of their subfolders."""
    places = {p.name: p for p in sorted(Path(folder).iterdir()) if (p / "judge.json").exists()}
    recognizer = Recognizer.load(places.pop(RECOGNIZER)) if RECOGNIZER in places else None
    speaker = Speaker.load(places.pop(SPEAKER)) if SPEAKER in places else None
    loaded = {name: Judge.load(place) for name, place in places.items()}
    tokens = {k.removesuffix(TOKENS): v for k, v in loaded.items() if k.endswith(TOKENS)}
    return Judges(recognizer, speaker, {k: v for k, v in loaded.items() if not k.endswith(TOKENS)}, tokens)


def own_judges(
    sets: Sequence[EvaluationSet],
    judges: Judges,
    tokenizers: Mapping[str, Tokenizer],
    cache: Path,
    console: Console | None = None,
) -> Judges:
    """The judges, and those that a set's own training items and labels allow, trained where missing.

    A set with a `label` and training items gets a judge of its pictures or recordings; every set with
    a judge of pictures and training items gets one of the image tokenizer's codes.
    """
    classes, tokens = dict(judges.classes), dict(judges.tokens)
    for one in sets:
        kind = next((k for k in ("image", "speech") if k in one.kinds), None)
        if kind is None or not one.train:
            continue
        if one.label and one.name not in classes and KINDS[kind] in tokenizers:
            train, held_out = _labelled(one, kind, one.label)
            classes[one.name] = train_judge(*train, held_out, cache=cache, title=one.name, console=console)
        judge = classes.get(one.name)
        if judge is not None and kind == "image" and "image" in tokenizers and one.name not in tokens:
            found = _token_judge(one, judge.labels, tokenizers["image"], cache, console)
            tokens |= {one.name: found} if found else {}
    return replace(judges, classes=classes, tokens=tokens)


def _labelled(one: EvaluationSet, kind: str, field: str) -> list[tuple[list[Any], list[str]]]:
    """Contents and classes, of the training items and of those that the set is about."""
    return [([i.parts[kind] for i in side], one.values(side, field)) for side in (one.train, one.items)]


def _token_judge(
    one: EvaluationSet, names: Sequence[str], tokenizer: Tokenizer, cache: Path, console: Console | None
) -> Judge | None:
    """None where the pictures are of several sizes: this judge has no use for a part of a picture."""
    train, held_out = [(tokenizer.encode(p), labels) for p, labels in _labelled(one, "image", one.field_of(names))]
    if len({codes.shape for codes in (*train[0], *held_out[0])}) > 1:
        return None
    sense = CodeSense(codes=tokenizer.modality.codes)
    return train_judge(*train, held_out, sense, cache=cache, title=f"{one.name}{TOKENS}", console=console)


def sections(
    sets: Sequence[EvaluationSet],
    judges: Judges,
    tokenizers: Mapping[str, Tokenizer],
    config: SuiteConfig,
) -> list[Section]:
    """Every section that the sets, judges and the model's modalities (those of `tokenizers`) allow."""
    found = [s for one in sets for s in _sections_of(one, judges, tokenizers, config)]
    if repeated := [name for name, n in Counter(slug(s.name) for s in found).items() if n > 1]:
        raise UsageError(f"two sets have a section {repeated[0]}: name their splits (SOURCE:SPLIT), or take one out")
    if not config.only:
        return found
    chosen = [s for s in found if any(fnmatchcase(s.name, pattern) for pattern in config.only)]
    if not chosen:
        raise UsageError(f"no section fits only={','.join(config.only)}; there are: {', '.join(s.name for s in found)}")
    return chosen


def _sections_of(
    one: EvaluationSet, judges: Judges, tokenizers: Mapping[str, Tokenizer], config: SuiteConfig
) -> list[Section]:
    out: list[Section] = [Likelihood(one, task, config.likelihood, config.draws) for task in one.tasks]
    text, image, audio = (name in tokenizers for name in ("text", "image", "audio"))
    kinds = one.kinds
    if text and image and {"text", "image"} <= kinds:
        out += _image_sections(one, judges, tokenizers["image"], config)
    if text and audio and {"text", "speech"} <= kinds:
        out += _audio_sections(one, judges, tokenizers["audio"], config)
    if text and kinds == {"text"}:
        out.append(Writing(one, config.texts))
        if one.train:
            out.append(Cloze(one, config.cloze))
    return out


def _image_sections(one: EvaluationSet, judges: Judges, tokenizer: Tokenizer, config: SuiteConfig) -> list[Section]:
    first = one.items[0]
    if "spec" in first.labels and getattr(first.parts["image"], "shape", ()) == (SIDE, SIDE, 3):
        return [SceneDrawing(one, config.drawings, tokenizer), SceneCaptions(one, config.captions)]
    judge = judges.classes.get(one.name)
    if judge is None:
        return [Drawing(one, tokenizer, config.drawings), Captions(one, config.captions)]
    drawing = ClassDrawing(one, judge, config.drawings, tokenizer)
    return [drawing, ClassCaptions(one, judge.labels, config.captions, judges.tokens.get(one.name))]


def _audio_sections(one: EvaluationSet, judges: Judges, tokenizer: Tokenizer, config: SuiteConfig) -> list[Section]:
    out: list[Section] = [Transcribing(one, config.speech)]
    judge = judges.classes.get(one.name)
    if judge is not None:
        out.append(ClassSpeaking(one, judge, config.speech, tokenizer))
    elif judges.recognizer is not None:
        out.append(Speaking(one, judges.recognizer, config.speech, tokenizer, judges.speaker))
    return out


def evaluate(
    generator: Generator,
    sets: Sequence[EvaluationSet],
    out: Path | str,
    judges: Judges,
    tokenizers: Mapping[str, Tokenizer],
    config: SuiteConfig | None = None,
    model: Mapping[str, Any] | None = None,
    run: Path | str | None = None,
    command: str = "",
    console: Console | None = None,
) -> dict[str, list[Result]]:
    """Run every section that is not there yet; returns the rows by section.

    Judges that the sets' own training items allow are trained first and kept in OUT/judges. `model` is
    JSON that names the model (its fingerprint, step, path): with another model nothing is
    kept. `run` is a training run whose `metrics.jsonl` gives the loss curves of the report.
    """
    config, console, out = config or SuiteConfig(), console or Console(), Path(out)
    judges = own_judges(sets, judges, tokenizers, out / "judges", console)
    todo = sections(sets, judges, tokenizers, config)
    if not todo:
        raise UsageError("nothing can be evaluated: no set fits the model's modalities and the judges")
    shared = {
        "model": dict(model or {}),
        "seed": config.seed,
        "judges": judges.fingerprints,
        "tokenizers": {name: t.fingerprint for name, t in tokenizers.items()},
    }
    done: dict[str, dict[str, Any]] = {}
    for number, section in enumerate(todo, start=1):
        done[section.name] = _section(section, generator, out, shared, config.seed, console, f"{number}/{len(todo)}")
    _print(done, console)
    record = {"format": FORMAT, "command": command, **shared, "rows": _rows(done, config.seed)}
    write_json(out / "results.json", record)
    write_report(out, list(done), Path(run) if run else None, record)
    console.print(f"table: {out / 'results.json'}; report: {out / 'report.html'}", highlight=False)
    return {name: [Result(**r) for r in kept["results"]] for name, kept in done.items()}


def slug(name: str) -> str:
    """A name as a folder is called."""
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")


def _section(
    section: Section,
    generator: Generator,
    out: Path,
    shared: Mapping[str, Any],
    seed: int,
    console: Console,
    place: str,
) -> dict[str, Any]:
    """The section's record: the one on disk where it is of the same key, else a new one."""
    folder = settled(out / "sections" / slug(section.name))
    key = section_key(section, shared)
    if (folder / "section.json").exists():
        kept = read_json(folder / "section.json")
        if kept.get("key") == key:
            console.print(f"{place} {section.name}: kept", highlight=False)
            return kept
    console.print(f"{place} {section.name} …", highlight=False)
    started = time.monotonic()
    findings = section.run(generator, seed)
    seconds = time.monotonic() - started
    record = {"key": key, "name": section.name, "split": section.split, "seconds": seconds}
    record["results"] = [r.json() for r in findings.results]
    _write_section(folder, record, findings)
    console.print(f"{place} {section.name}: {len(findings.results)} rows in {duration(seconds)}", highlight=False)
    return record


def section_key(section: Section, shared: Mapping[str, Any]) -> str:
    """What decides a section's result, as a hash: its settings, its items and everything shared."""
    plain = {
        f.name: getattr(section, f.name)
        for f in fields(section)  # pyright: ignore[reportArgumentType]
        if isinstance(getattr(section, f.name), int | float | str | tuple)
    }
    one = section.data
    items = [[i.key for i in side] for side in (one.items, one.train, one.validation)]
    facts = [type(section).__name__, section.name, section.split, plain, items, dict(shared)]
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()


def _write_section(folder: Path, record: dict[str, Any], findings: Findings) -> None:
    """The record with its texts, and the files it shows."""
    with replacing(folder) as temporary:
        temporary.mkdir()
        record["pictures"] = [
            {"title": p.title, "files": _save_images(temporary, i, p.images), "lines": list(p.lines)}
            | {"marks": list(p.marks)}
            for i, p in enumerate(findings.pictures)
        ]
        record["recordings"] = [
            {"title": r.title, "files": _save_clips(temporary, i, r.clips), "lines": list(r.lines)}
            for i, r in enumerate(findings.recordings)
        ]
        record["lines"] = [
            {"title": t.title, "columns": list(t.columns), "rows": [list(r) for r in t.rows]} for t in findings.lines
        ]
        (temporary / "section.json").write_text(json.dumps(record, indent=1, ensure_ascii=False) + "\n")


def _save_images(folder: Path, number: int, images: Sequence[Any]) -> list[str]:
    names = [f"picture-{number}-{i:03d}.png" for i in range(len(images))]
    for name, pixels in zip(names, images, strict=True):
        Image.fromarray(pixels).save(folder / name)
    return names


def _save_clips(folder: Path, number: int, clips: Sequence[Any]) -> list[str]:
    names = [f"clip-{number}-{i:03d}.wav" for i in range(len(clips))]
    for name, clip in zip(names, clips, strict=True):
        soundfile.write(folder / name, clip.samples, clip.rate, subtype="PCM_16")
    return names


def _rows(done: Mapping[str, Mapping[str, Any]], seed: int) -> list[dict[str, Any]]:
    return [
        {"section": name, "split": kept["split"], "seed": seed, **result}
        for name, kept in done.items()
        for result in kept["results"]
    ]


def _print(done: Mapping[str, Mapping[str, Any]], console: Console) -> None:
    for name, kept in done.items():
        if not kept["results"]:
            continue
        table = Table(title=f"{name} ({kept['split']})", title_justify="left")
        for column, side in (
            ("metric", "left"),
            ("value", "right"),
            ("±", "right"),
            ("n", "right"),
            ("beside", "left"),
        ):
            table.add_column(column, justify=side)  # pyright: ignore[reportArgumentType]
        for r in kept["results"]:
            table.add_row(r["metric"], shown(r["value"]), shown(r["error"]), str(r["n"]), beside(r))
        console.print(table)
