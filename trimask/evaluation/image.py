"""Sections about pictures: scenes graded exactly, classes judged, captions read."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np

from trimask.core.errors import UsageError
from trimask.core.item import Item
from trimask.core.rng import generator as random
from trimask.data.world.draw import render
from trimask.data.world.grade import ATTRIBUTES, Grade, grade
from trimask.data.world.grammar import parse
from trimask.data.world.scenes import arrange
from trimask.evaluation.coverage import NEIGHBOURS, spread
from trimask.evaluation.generator import Generator
from trimask.evaluation.judges import Judge
from trimask.evaluation.sets import EvaluationSet, Section, evenly
from trimask.evaluation.table import Findings, Lines, Pictures, Result, row
from trimask.evaluation.transcripts import Rate, class_words, exact_match, named_class, ratio, share, word_errors
from trimask.tokenizers.contract import Tokenizer

SHOWN = 32
"""Pictures in a report's grid."""
TWICE = 32
"""At least so many captions, and one in four, are drawn a second time, to see how far one's pictures differ."""
REAL = 8
"""Real scenes of a caption, whose distances are those to hold them against."""
VARIETY = "variety of one caption"


def size_of(item: Item) -> tuple[int, int]:
    """(width, height) of an item's picture."""
    height, width = np.asarray(item.parts["image"]).shape[:2]
    return width, height


@dataclass
class SceneDrawing(Section):
    """Captions of the built-in world are drawn; the checker says what is right in the pictures."""

    what = "drawing"
    data: EvaluationSet
    n: int = 400
    tokenizer: Tokenizer | None = None

    def run(self, generator: Generator, seed: int) -> Findings:
        items = evenly(self.data.items, self.n)
        captions = [str(i.parts["text"]) for i in items]
        images = generator.images(captions, seed, size_of(items[0]))
        grades = [grade(image, caption) for image, caption in zip(images, captions, strict=True)]
        results = scene_table(grades, items, self._coded(items, captions))
        again = generator.images(captions[: self.twice], int(random("again", seed).integers(2**31)), size_of(items[0]))
        results.append(variety(images[: self.twice], again, captions[: self.twice]))
        marks = [g.all_correct for g in grades]
        return Findings(results, [Pictures("drawn", images[:SHOWN], captions[:SHOWN], marks[:SHOWN])])

    @property
    def twice(self) -> int:
        """How many captions are drawn twice."""
        count = min(self.n, len(self.data.items))
        return min(count, max(TWICE, count // 4))

    def _coded(self, items: Sequence[Item], captions: Sequence[str]) -> list[Grade] | None:
        """Grades of the real pictures after a round trip through the tokenizer."""
        if self.tokenizer is None:
            return None
        images = self.tokenizer.decode(self.tokenizer.encode([i.parts["image"] for i in items]))
        return [grade(image, caption) for image, caption in zip(images, captions, strict=True)]


def variety(images: Sequence[np.ndarray], others: Sequence[np.ndarray], captions: Sequence[str]) -> Result:
    """Mean distance of two pictures of one caption, in units of a channel's range; beside it that of two real scenes.

    A model that draws its likeliest picture of a caption again and again has 0, however right it is. The error is that
    of the ratio of the two, in the same units: captions with much to differ in have large distances in both.
    """
    ours = np.array([_distance(*pair) for pair in zip(images, others, strict=True)])
    real = np.array([np.mean([_distance(*pair) for pair in combinations(_scenes(c), 2)]) for c in captions])
    ratio = ours.mean() / real.mean()
    error = float((ours - ratio * real).std(ddof=1) / np.sqrt(len(ours))) if len(ours) > 1 else None
    return Result(VARIETY, float(ours.mean()), len(ours), error, "", float(real.mean()), "real scenes")


def _distance(one: np.ndarray, other: np.ndarray) -> float:
    return float(np.abs(one.astype(float) - other.astype(float)).mean() / 255)


def _scenes(caption: str) -> list[np.ndarray]:
    """Some of the pictures that a caption may stand for."""
    rng, wanted, out = random("scenes of", caption), parse(caption), []
    while len(out) < REAL:
        if (scene := arrange(wanted, rng)) is not None:
            out.append(render(scene))
    return out


def scene_table(grades: Sequence[Grade], items: Sequence[Item], coded: Sequence[Grade] | None = None) -> list[Result]:
    """All-correct by number of objects and by novelty of the combination, and each attribute.

    The reference is the same figure for the tokenizer's reconstructions of the real pictures.
    """
    objects = [int(str(i.labels["objects"])) for i in items]
    groups = {f"all correct, {n} object{'s' * (n > 1)}": [o == n for o in objects] for n in sorted(set(objects))}
    groups["all correct"] = [True] * len(items)
    new = [str(i.labels.get("new", "nothing")) for i in items]
    names = {
        "nothing": "seen combinations",
        "group": "held-out group",
        "set": "held-out set",
        "pair": "held-out pair",
    }
    if len(set(new)) > 1:
        groups |= {f"all correct, {names[k]}": [v == k for v in new] for k in names if k in new}
    out = []
    for name, chosen in groups.items():
        reference = _all_correct(coded, chosen) if coded else None
        out.append(_scene_row(name, _all_correct(grades, chosen), reference))
    for attribute in ATTRIBUTES:
        if any(g.asked[attribute] for g in grades):
            coded_rate = _attributes(coded, (attribute,)) if coded else None
            out.append(_scene_row(f"{attribute} correct", _attributes(grades, (attribute,)), coded_rate))
    coded_rate = _attributes(coded, ATTRIBUTES) if coded else None
    return [*out, _scene_row("single attributes correct", _attributes(grades, ATTRIBUTES), coded_rate)]


def _scene_row(name: str, rate: Rate, reference: Rate | None) -> Result:
    return row(name, rate, reference.value if reference else None, "reconstructions" if reference else "")


def _all_correct(grades: Sequence[Grade], chosen: Sequence[bool]) -> Rate:
    return share([g.all_correct for g, c in zip(grades, chosen, strict=True) if c])


def _attributes(grades: Sequence[Grade], names: Sequence[str]) -> Rate:
    """Share of cases that are right; the error is over pictures, whose cases are not independent."""
    asked = np.array([sum(g.asked[a] for a in names) for g in grades], float)
    right = np.array([sum(g.right[a] for a in names) for g in grades], float)
    used = asked > 0
    return Rate(*ratio(right[used], asked[used]), int(used.sum()))


@dataclass
class SceneCaptions(Section):
    """Pictures of the built-in world are described; the checker says whether it is true."""

    what = "captions"
    data: EvaluationSet
    n: int = 400

    def run(self, generator: Generator, seed: int) -> Findings:
        items = evenly(self.data.items, self.n)
        images, truth, said = describe(generator, items, seed)
        true = [described(image, caption) for image, caption in zip(images, said, strict=True)]
        objects = [int(str(i.labels["objects"])) for i in items]
        results = [row("true of the picture", share(true))]
        for n in sorted(set(objects)):
            name = f"true of the picture, {n} object{'s' * (n > 1)}"
            results.append(row(name, share([t for t, o in zip(true, objects, strict=True) if o == n])))
        results += wording(truth, said)
        return Findings(results, [Pictures("described", images[:SHOWN], said[:SHOWN], true[:SHOWN])])


def describe(generator: Generator, items: Sequence[Item], seed: int) -> tuple[list[np.ndarray], list[str], list[str]]:
    """The pictures of items, their real captions, and what the model writes of them."""
    images = [np.asarray(i.parts["image"]) for i in items]
    return images, [str(i.parts["text"]) for i in items], list(generator.captions(images, seed))


def wording(truth: Sequence[str], said: Sequence[str]) -> list[Result]:
    """How far captions are the real ones, word by word."""
    return [row("exact match", exact_match(truth, said)), row("word error rate", word_errors(truth, said))]


def described(image: np.ndarray, caption: str) -> bool:
    """Whether a caption is in the grammar of scenes and all of it is true of the picture."""
    try:
        return grade(image, caption).all_correct
    except UsageError:
        return False


@dataclass
class Drawing(Section):
    """Captions are drawn, beside the real pictures after a round trip through the tokenizer; nobody grades them."""

    what = "drawing"
    data: EvaluationSet
    tokenizer: Tokenizer
    n: int = 400

    def run(self, generator: Generator, seed: int) -> Findings:
        items = evenly(self.data.items, min(self.n, SHOWN) if self.n else SHOWN)
        captions = [str(i.parts["text"]) for i in items]
        sizes = [size_of(i) for i in items]
        drawn: dict[int, np.ndarray] = {}
        for size in sorted(set(sizes)):
            places = [i for i, s in enumerate(sizes) if s == size]
            images = generator.images([captions[i] for i in places], seed, size)
            drawn |= dict(zip(places, images, strict=True))
        real = self.tokenizer.decode(self.tokenizer.encode([i.parts["image"] for i in items]))
        made = [drawn[i] for i in range(len(items))]
        return Findings([], [Pictures("drawn", made, captions), Pictures("real, after the tokenizer", real, captions)])


@dataclass
class Captions(Section):
    """Real pictures are described; the words are compared with the real caption."""

    what = "captions"
    data: EvaluationSet
    n: int = 400

    def run(self, generator: Generator, seed: int) -> Findings:
        images, truth, said = describe(generator, evenly(self.data.items, self.n), seed)
        pairs = list(zip(truth, said, strict=True))[:SHOWN]
        grid = Pictures("described", images[:SHOWN], said[:SHOWN])
        return Findings(wording(truth, said), [grid], lines=[Lines("captions", ("real", "written"), pairs)])


@dataclass
class ClassDrawing(Section):
    """Captions of classes are drawn; a judge trained on real pictures names the class.

    Accuracy alone rewards a model that draws one easy picture of each class; coverage does not.
    """

    what = "drawing"
    data: EvaluationSet
    judge: Judge
    n: int = 500
    tokenizer: Tokenizer | None = None

    def run(self, generator: Generator, seed: int) -> Findings:
        items = evenly(self.data.items, self.n)
        real = [np.asarray(i.parts["image"]) for i in items]
        captions, classes = [str(i.parts["text"]) for i in items], self.data.classes(items, self.judge.labels)
        images = generator.images(captions, seed, size_of(items[0]))
        judged = self.judge.predict(images)
        right = [a == b for a, b in zip(judged, classes, strict=True)]
        results = [
            row("judged correct", share(right), self.judge.accuracy, "the judge on real held-out pictures"),
            row("real pictures judged correct", self.judge.agreement(real, classes)),
        ]
        if self.tokenizer is not None:
            coded = self.tokenizer.decode(self.tokenizer.encode(real))
            results.append(row("reconstructions judged correct", self.judge.agreement(coded, classes)))
        results += spread_table(self.data, self.judge, images, "image", seed)
        lines = [f"{c}: judged {j}" for c, j in zip(captions, judged, strict=True)]
        at = [int(i) for i in np.linspace(0, len(images) - 1, min(SHOWN, len(images)))]
        grid = Pictures("drawn", [images[i] for i in at], [lines[i] for i in at], [right[i] for i in at])
        return Findings(results, [grid])


def spread_table(data: EvaluationSet, judge: Judge, made: Sequence[object], kind: str, seed: int) -> list[Result]:
    """Coverage and density of made items among training items, beside those of real validation items.

    All three sides have equally many items. Empty where the set has too few for it.
    """
    n = min(len(made), len(data.train), len(data.validation))
    if n <= NEIGHBOURS:
        return []
    rng = random("coverage", seed, data.name)
    parts = [[i.parts[kind] for i in items] for items in (data.train, data.validation)]
    sides = [[side[i] for i in rng.permutation(len(side))[:n]] for side in (*parts, list(made))]
    train, real, ours = (judge.features(side) for side in sides)
    best, own = spread(train, real), spread(train, ours)
    against = "real validation items"
    note = f"k = {NEIGHBOURS}, {n} items a side, features of the judge"
    return [
        Result("coverage", own.coverage, n, reference=best.coverage, against=against, note=note),
        Result("coverage over that of real items", own.coverage / best.coverage, n, note=note),
        Result("density", own.density, n, reference=best.density, against=against, note=note),
    ]


@dataclass
class ClassCaptions(Section):
    """Real pictures are described; the class word must be right."""

    what = "captions"
    data: EvaluationSet
    names: tuple[str, ...]
    n: int = 1000
    tokens_judge: Judge | None = None
    """A classifier of the tokenizer's codes: what can be known from what the model sees."""

    def run(self, generator: Generator, seed: int) -> Findings:
        items = evenly(self.data.items, self.n)
        images, truth, said = describe(generator, items, seed)
        classes = self.data.classes(items, self.names)
        reference = self.tokens_judge.accuracy if self.tokens_judge else None
        against = "a classifier trained on the same tokens" if self.tokens_judge else ""
        results = [
            row("class word right", class_words(classes, said, self.names), reference, against),
            *wording(truth, said),
        ]
        marks = [named_class(s, self.names) == c for s, c in zip(said, classes, strict=True)]
        wrong = [(t, s) for t, s, m in zip(truth, said, marks, strict=True) if not m][:SHOWN]
        grid = Pictures("described", images[:SHOWN], said[:SHOWN], marks[:SHOWN])
        return Findings(results, [grid], lines=[Lines("wrong captions", ("real", "written"), wrong)])
