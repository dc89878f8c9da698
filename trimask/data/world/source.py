"""The sources of the built-in world: endless items, each a function of (kind, split, seed, index).

| kind            | parts                      | what it is                                      |
|-----------------|----------------------------|-------------------------------------------------|
| `scenes`        | text, image                | a drawn scene and its caption                   |
| `speech`        | text, voice, speech        | a number, a sentence or a caption, spoken       |
| `spoken-scenes` | text, image, voice, speech | a scene whose caption is spoken                 |
| `text`          | text                       | Python's documentation; every fourth a caption  |
"""

import hashlib
import json
from collections.abc import Callable
from dataclasses import asdict
from functools import lru_cache
from typing import Literal

import chz
import numpy as np
import PIL

from trimask.core import rng as random
from trimask.core.errors import UsageError
from trimask.core.item import Item
from trimask.data.world import scenes, sentences, speech, text
from trimask.data.world.draw import render
from trimask.data.world.grammar import Spec, say
from trimask.data.world.splits import SPLITS, Split, novelty, part_of_split, part_of_text

Kind = Literal["scenes", "speech", "spoken-scenes", "text"]

VERSION = 3
"""Raised with every change after which equal settings give other items."""
LICENCE = "CC0-1.0"
"""Of what the world draws and speaks; its text has the licence of Python's documentation."""
NUMBER_SHARE, SENTENCE_SHARE = 0.4, 0.4
"""Shares of what is spoken; captions are the rest."""
CAPTION_EVERY = 4


def item(kind: Kind, index: int, split: Split = "train", seed: int = 0) -> Item:
    """Item number `index`, which may be any number from 0; equal arguments give equal items."""
    labels, parts = _MAKERS[kind](split, seed, index)
    return Item(f"world/{kind}/{split}/{seed}#{index}", parts(), labels)


@chz.chz
class World:
    """The first `count` items of one kind, split and seed, as a sequence."""

    kind: Kind = chz.field(doc="scenes, speech, spoken-scenes or text")
    split: Split = chz.field(default="train", doc="train, validation, test, test-seen or test-pairs")
    count: int = chz.field(doc="number of items")
    seed: int = chz.field(default=0, doc="another seed gives other items of the same kind")

    @chz.validate
    def _check(self):
        for what, value, known in (("kind", self.kind, tuple(_MAKERS)), ("split", self.split, SPLITS)):
            if value not in known:
                raise UsageError(f"world: {value!r} is not a {what}; known: {', '.join(known)}")
        if self.count < 1:
            raise UsageError(f"world: count must be at least 1, got {self.count}")

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> Item:
        if not 0 <= index < self.count:
            raise IndexError(f"item {index} of a world of {self.count}")
        return item(self.kind, index, self.split, self.seed)

    def labels(self, index: int) -> dict[str, object]:
        """Labels of an item, without drawing or speaking it."""
        return _MAKERS[self.kind](self.split, self.seed, index)[0]

    @property
    def licence(self) -> str:
        return f"{LICENCE} and {text.LICENCE}" if self.kind == "text" else LICENCE

    @property
    def fingerprint(self) -> str:
        """Hex SHA-256 of the settings and of every version that decides the items."""
        facts = {
            "world": VERSION,
            "settings": [self.kind, self.split, self.count, self.seed],
            "versions": [fact() for fact in _FACTS[self.kind]],
        }
        return hashlib.sha256(json.dumps(facts).encode()).hexdigest()


_Sketch = tuple[dict[str, object], Callable[[], dict[str, object]]]
"""Labels of an item, and what makes its parts."""


def _scene(split: Split, seed: int, index: int) -> _Sketch:
    sample = scenes.sample(split, seed, index)
    return spec_labels(sample.spec), lambda: {"text": sample.caption, "image": render(sample.scene)}


def spec_labels(spec: Spec) -> dict[str, object]:
    """What evaluation groups scenes by: number of objects, whether and how the combination is new
    ("nothing", "group", "set" or "pair"; see `splits`), and the spec itself."""
    part, new = novelty(spec)
    return {"objects": len(spec.slots), "held_out": part != "train", "new": new, "spec": asdict(spec)}


def _speech(split: Split, seed: int, index: int) -> _Sketch:
    rng = random.generator("world", "speech", seed, split, index)
    content, words = _utterance(rng, split)
    return _spoken(words, split, rng, {"content": content})


def _spoken_scene(split: Split, seed: int, index: int) -> _Sketch:
    sample = scenes.sample(split, seed, index, "spoken-scene")
    rng = random.generator("world", "spoken-scene voice", seed, split, index)
    labels, parts = _spoken(sample.caption, split, rng, {"content": "caption"})
    return labels | spec_labels(sample.spec), lambda: parts() | {"image": render(sample.scene)}


def _utterance(rng: np.random.Generator, split: Split) -> tuple[str, str]:
    u = rng.random()
    if u >= NUMBER_SHARE + SENTENCE_SHARE:
        counts = scenes.draw_counts(rng)
        return "caption", say(scenes.draw_spec(rng, split, counts))
    content, draw = ("number", sentences.draw_number)
    if u >= NUMBER_SHARE:
        content, draw = ("sentence", sentences.draw_sentence)
    while True:
        words = draw(rng)
        if part_of_text(words) == part_of_split(split):
            return content, words


def _spoken(words: str, split: Split, rng: np.random.Generator, labels: dict[str, object]) -> _Sketch:
    voices = speech.VOICES if split == "test" else speech.TRAIN_VOICES
    voice = voices[int(rng.integers(len(voices)))]
    labels = {"voice": voice.espeak, "held_out_voice": voice.name == speech.HELD_OUT_VOICE, **labels}
    return labels, lambda: {"text": words, "voice": voice.name, "speech": speech.synthesize(words, voice.name)}


def _text(split: Split, seed: int, index: int) -> _Sketch:
    turn, place = divmod(index, CAPTION_EVERY)
    if place == CAPTION_EVERY - 1:
        sample = scenes.sample(split, seed, turn, "text")
        return {"content": "caption"}, lambda: {"text": sample.caption}
    found = text.paragraphs_of(part_of_split(split))
    epoch, position = divmod(turn * (CAPTION_EVERY - 1) + place, len(found))
    order = _order(len(found), seed, split, epoch)
    return {"content": "documentation", "epoch": epoch}, lambda: {"text": found[order[position]]}


@lru_cache(maxsize=4)
def _order(n: int, seed: int, split: Split, epoch: int) -> np.ndarray:
    return random.generator("world", "text order", seed, split, epoch).permutation(n)


_MAKERS: dict[str, Callable[[Split, int, int], _Sketch]] = {
    "scenes": _scene,
    "speech": _speech,
    "spoken-scenes": _spoken_scene,
    "text": _text,
}


def _drawing() -> str:
    return f"numpy {np.__version__}, Pillow {PIL.__version__}"


_FACTS: dict[str, tuple[Callable[[], str], ...]] = {
    "scenes": (_drawing,),
    "speech": (_drawing, speech.version),
    "spoken-scenes": (_drawing, speech.version),
    "text": (_drawing, text.digest),
}
