"""The recipe of the tokenizers that ship with nano: text, image and audio, from train splits only."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import chz
import numpy as np
from rich.console import Console

from trimask.core.errors import RecordError, UsageError
from trimask.core.item import Item
from trimask.data.readers.detect import read
from trimask.data.readers.source import Source
from trimask.data.world.grade import grade
from trimask.data.world.source import World
from trimask.data.world.splits import Split
from trimask.evaluation.audio import intelligibility
from trimask.evaluation.recognizer import Recognizer
from trimask.evaluation.suite import RECOGNIZER, SHIPPED
from trimask.recipes.sets import WHERE
from trimask.tokenizers.artifact import MANIFEST, load
from trimask.tokenizers.contract import Tokenizer
from trimask.tokenizers.objectives import AudioObjective, ImageObjective
from trimask.tokenizers.quality import measure
from trimask.tokenizers.report import write_report
from trimask.tokenizers.text import TextTokenizer
from trimask.tokenizers.training import Grader, TokenizerTraining, Weighted, train_tokenizer

REPORT = "report.html"
SHOWN = 12
"""Samples of each held-out set in a report."""
SPOKEN = 240
"""World utterances that a recognizer hears after a round trip, the held-out voice left out."""


@chz.chz
class NanoTokenizers:
    """Where the data is, where the tokenizers go, and how long to train them."""

    data: str = chz.field(default="", doc="folder of the public sets; empty: the built-in world alone")
    out: str = chz.field(doc="folder that gets text/, image/, audio/ and their reports")
    parts: tuple[str, ...] = chz.field(default=("text", "image", "audio"), doc="which of them to make")
    text_codes: int = chz.field(default=4096, doc="vocabulary size of the text tokenizer")
    text_items: int = chz.field(default=16_000, doc="world paragraphs and captions for the text tokenizer")
    scenes: int = chz.field(default=24_000, doc="world scenes for the image tokenizer")
    utterances: int = chz.field(default=4_000, doc="world utterances for the audio tokenizer")
    limit: int | None = chz.field(default=None, doc="records of each public set; None: all")
    held_out: int = chz.field(default=100, doc="at most so many held-out records of each set are measured")
    graded: int = chz.field(default=1_000, doc="held-out world scenes that are graded after a round trip")
    image: TokenizerTraining = chz.field(
        default_factory=lambda: TokenizerTraining(objective=ImageObjective(), steps=4500),
        doc="training of the image tokenizer",
    )
    audio: TokenizerTraining = chz.field(
        default_factory=lambda: TokenizerTraining(objective=AudioObjective(), steps=6000, batch=32),
        doc="training of the audio tokenizer",
    )

    @chz.validate
    def _check(self):
        unknown = set(self.parts) - set(_MAKERS)
        if unknown:
            raise UsageError(f"no tokenizer for {', '.join(sorted(unknown))}; known: {', '.join(_MAKERS)}")


def nano_tokenizers(config: NanoTokenizers, console: Console | None = None) -> dict[str, Tokenizer]:
    """Make the tokenizers, each in `OUT/PART` with `OUT/PART-report.html`; finished ones are kept.

    Interrupted training goes on where it stopped (its run folder is `OUT/PART-run`).
    """
    console = console or Console()
    made = {}
    for part in config.parts:
        folder = Path(config.out) / part
        if (folder / MANIFEST).exists():
            console.print(f"{folder} is finished; it is used as it is")
            made[part] = load(folder)
            continue
        console.print(f"making {folder}")
        made[part] = _MAKERS[part](config, console)
        made[part].save(folder)
    return made


def scene_grader(count: int, split: Split = "test") -> Callable[[Tokenizer], dict[str, float]]:
    """A grader: the share of `count` world scenes that are all-correct after a round trip.

    `before` is the checker's verdict on the scenes themselves, `objects_n` the share by number of
    objects.
    """

    def graded(tokenizer: Tokenizer) -> dict[str, float]:
        world = World(kind="scenes", split=split, count=count)
        items = [world[index] for index in range(count)]
        scenes: list[Any] = [item.parts["image"] for item in items]
        captions: list[Any] = [item.parts["text"] for item in items]
        objects: list[Any] = [item.labels["objects"] for item in items]
        made = tokenizer.decode(tokenizer.encode(scenes))
        before = [grade(scene, caption).all_correct for scene, caption in zip(scenes, captions, strict=True)]
        right = [grade(scene, caption).all_correct for scene, caption in zip(made, captions, strict=True)]
        out = {"items": float(count), "all_correct": float(np.mean(right)), "before": float(np.mean(before))}
        for n in sorted(set(objects)):
            mine = [r for r, k in zip(right, objects, strict=True) if k == n]
            out[f"objects_{n}"] = float(np.mean(mine))
        return out

    return graded


def _text(config: NanoTokenizers, console: Console) -> Tokenizer:
    sets = ("stories", "tatoeba-en", "classic-books", "wikitext-2", "emoji", "storybook")
    spoken = ("spoken-words", "read-speech", "spoken-orders")
    sources = [_public(config, name, "train", kinds=("text",)) for name in (*sets, *spoken)]
    world = [World(kind="text", count=config.text_items), World(kind="scenes", count=config.text_items // 8)]
    texts = _contents("text", [*filter(None, sources), *world])
    tokenizer = TextTokenizer.train(texts, config.text_codes)
    held_out = {"world": _first("text", World(kind="text", split="test", count=config.held_out))}
    for name in sets[:4]:
        held_out |= _held_out(config, name, "text")
    quality = {name: measure(tokenizer, raws) for name, raws in held_out.items()}
    return _finished(config, "text", TextTokenizer(tokenizer.engine, quality, {"sources": _names(sources)}), held_out)


def _image(config: NanoTokenizers, console: Console) -> Tokenizer:
    mixture = [Weighted("world", _first("image", World(kind="scenes", count=config.scenes)), 0.65)]
    held_out = {"world": _first("image", World(kind="scenes", split="test", count=config.held_out))}
    for name, size, weight in (
        ("emoji", 32, 0.10),
        ("emoji", 64, 0.04),
        ("storybook", 48, 0.06),
        ("storybook", 96, 0.03),
        ("fashion-mnist", 28, 0.07),
        ("mnist", 28, 0.05),
    ):
        source = _public(config, name, "train", image_size=size)
        if source:
            mixture.append(Weighted(f"{name} {size}", list(_contents("image", [source])), weight))
            held_out |= _held_out(config, name, "image", image_size=size)
    return _trained(config, "image", mixture, held_out, {"scenes": scene_grader(config.graded)}, console)


def _audio(config: NanoTokenizers, console: Console) -> Tokenizer:
    mixture = [Weighted("world", _first("speech", World(kind="speech", count=config.utterances)), 0.5)]
    held_out = {"world": _first("speech", World(kind="speech", split="test", count=config.held_out))}
    for name, weight, options in (
        ("fsdd", 0.15, {}),
        ("spoken-words", 0.1, {}),
        ("read-speech", 0.125, {}),
        ("spoken-orders", 0.125, {}),
    ):
        source = _public(config, name, "train", **options)
        if source:
            mixture.append(Weighted(name, list(_contents("speech", [source])), weight))
            held_out |= _held_out(config, name, "speech", loudness=-23.0, **options)
    return _trained(config, "audio", mixture, held_out, _hearing(min(config.graded, SPOKEN)), console)


def _hearing(count: int) -> dict[str, Grader]:
    """Intelligibility on test speech of the built-in world, where the package's recognizer is there."""
    if not (SHIPPED / RECOGNIZER).is_dir():
        return {}
    items = [i for i in World(kind="speech", split="test", count=count) if not i.labels["held_out_voice"]]
    clips: list[Any] = [i.parts["speech"] for i in items]
    texts = [str(i.parts["text"]) for i in items]
    return {"intelligibility": intelligibility(Recognizer.load(SHIPPED / RECOGNIZER), clips, texts)}


_MAKERS: dict[str, Callable[[NanoTokenizers, Console], Tokenizer]] = {
    "text": _text,
    "image": _image,
    "audio": _audio,
}


def _trained(
    config: NanoTokenizers,
    part: str,
    mixture: Sequence[Weighted],
    held_out: dict[str, list[Any]],
    graders: Mapping[str, Grader],
    console: Console,
) -> Tokenizer:
    run = Path(config.out) / f"{part}-run"
    tokenizer = train_tokenizer(getattr(config, part), mixture, run, held_out, graders, console=console)
    return _finished(config, part, tokenizer, held_out)


def _finished(config: NanoTokenizers, part: str, tokenizer: Tokenizer, held_out: dict[str, list[Any]]) -> Tokenizer:
    shown = {name: raws[:SHOWN] for name, raws in held_out.items()}
    write_report(Path(config.out) / f"{part}-{REPORT}", tokenizer, shown)
    return tokenizer


def _public(config: NanoTokenizers, name: str, split: str, **options: Any) -> Source | None:
    """A split of a public set, or None where the recipe runs on the built-in world alone."""
    options = {"limit": config.limit, "where": (WHERE[name],) if name in WHERE else ()} | options
    return Source(path=str(Path(config.data) / name), split=split, **options) if config.data else None


def _held_out(config: NanoTokenizers, name: str, kind: str, **options: Any) -> dict[str, list[Any]]:
    source = _public(config, name, "validation", limit=config.held_out, **options)
    label = f"{name} {options['image_size']}" if "image_size" in options else name
    return {label: list(_contents(kind, [source]))} if source else {}


def _contents(kind: str, sources: Iterable[Source | World]) -> Iterator[Any]:
    """The part of that kind of every item; a record that cannot be read ends the recipe."""
    for source in sources:
        for item in map(source.__getitem__, range(len(source))) if isinstance(source, World) else read(source):
            if isinstance(item, RecordError):
                raise item
            assert isinstance(item, Item)
            yield item.parts[kind]


def _first(kind: str, world: World) -> list[Any]:
    return list(_contents(kind, [world]))


def _names(sources: Sequence[Source | None]) -> list[str]:
    return ["world", *(s.name for s in sources if s)]
