"""Sections with a generator that knows the answers, and with one that is always wrong."""

from collections.abc import Sequence

import numpy as np
import pytest

from tests.evaluation.pictures import labelled
from tests.evaluation.sounds import word
from tests.hub import tiny
from trimask.core.errors import UsageError
from trimask.core.item import Audio, Item
from trimask.core.rng import generator as random
from trimask.data.world.draw import render
from trimask.data.world.grammar import parse
from trimask.data.world.scenes import arrange
from trimask.data.world.source import World
from trimask.evaluation.audio import ClassSpeaking, Speaking, Transcribing, intelligibility
from trimask.evaluation.cloze import Gap
from trimask.evaluation.fitting import Fit
from trimask.evaluation.image import (
    TWICE,
    VARIETY,
    ClassCaptions,
    ClassDrawing,
    SceneCaptions,
    SceneDrawing,
    described,
)
from trimask.evaluation.judges import Judge, train_judge
from trimask.evaluation.recognizer import RecognizerSettings, train_recognizer
from trimask.evaluation.senses import ImageSense, SoundSense
from trimask.evaluation.sets import EvaluationSet, evenly
from trimask.evaluation.table import Findings, Result
from trimask.evaluation.writing import Cloze, Writing
from trimask.studies.tuning import AIMS


class Memory:
    """Answers with the real part of the item whose other part it is given; shifted by `off` items."""

    def __init__(self, items: Sequence[Item], off: int = 0):
        self.items, self.off = list(items), off

    def _answers(self, kind: str, asked: Sequence[object], by: str) -> list:
        places = [next(i for i, item in enumerate(self.items) if item.parts[by] is a) for a in asked]
        return [self.items[(p + self.off) % len(self.items)].parts[kind] for p in places]

    def images(self, captions: Sequence[str], seed: int, size: tuple[int, int] = (32, 32)) -> list[np.ndarray]:
        return self._answers("image", captions, "text")

    def clips(self, texts: Sequence[str], voices: Sequence[str] | None, seed: int) -> list[Audio]:
        return self._answers("speech", texts, "text")

    def captions(self, images: Sequence[np.ndarray], seed: int) -> list[str]:
        return self._answers("text", images, "image")

    def transcripts(self, clips: Sequence[Audio], seed: int) -> list[str]:
        return self._answers("text", clips, "speech")

    def texts(self, n: int, seed: int) -> list[str]:
        return [str(self.items[(i + self.off) % len(self.items)].parts["text"]) for i in range(n)]

    def words(self, gaps: Sequence[Gap], seed: int) -> list[str]:
        return ["xyz" if self.off else g.word for g in gaps]


def rows(findings: Findings) -> dict[str, Result]:
    return {r.metric: r for r in findings.results}


@pytest.fixture(scope="module")
def scenes() -> EvaluationSet:
    return EvaluationSet("scenes", "test", [World(kind="scenes", split="test", count=40)[i] for i in range(40)])


def test_real_scenes_are_all_correct_and_other_scenes_are_not(scenes: EvaluationSet):
    true = rows(SceneDrawing(scenes).run(Memory(scenes.items), 0))  # pyright: ignore[reportArgumentType]
    false = rows(SceneDrawing(scenes).run(Memory(scenes.items, 1), 0))  # pyright: ignore[reportArgumentType]
    assert true["all correct"].value >= 0.97
    assert true["single attributes correct"].value >= 0.99
    # Two held-out scenes of one object can be alike.
    assert false["all correct"].value <= 0.1
    assert 0 < false["single attributes correct"].value < 0.8
    assert {"all correct, held-out group", "all correct, held-out set"} <= set(true)
    assert sum(r.n for m, r in true.items() if m.endswith(("object", "objects"))) == 40


class Redrawn:
    """Draws a caption anew for every seed, as the world does."""

    def images(self, captions: list[str], seed: int, size: tuple[int, int]) -> list[np.ndarray]:
        return [self.one(caption, random("redrawn", seed, caption)) for caption in captions]

    def one(self, caption: str, rng: np.random.Generator) -> np.ndarray:
        scene = arrange(parse(caption), rng)
        return self.one(caption, rng) if scene is None else render(scene)


def test_the_same_picture_again_and_again_is_no_variety(scenes: EvaluationSet):
    same, free = (
        rows(SceneDrawing(scenes).run(g, 0))  # pyright: ignore[reportArgumentType]
        for g in (Memory(scenes.items), Redrawn())
    )
    assert same[VARIETY].value == 0 and same["all correct"].value > 0.9 and same[VARIETY].n == TWICE
    assert free[VARIETY].value == pytest.approx(free[VARIETY].reference, rel=0.25) and free["all correct"].value > 0.9
    (none, nothing), (most, enough) = (AIMS[SceneDrawing].quality(found, 0.9) for found in (same, free))
    assert (none.value, nothing) == (0, 0) and most.value > 0.8 and enough is not None and enough > 0.75


def test_captions_of_scenes_are_true_or_not(scenes: EvaluationSet):
    true = rows(SceneCaptions(scenes).run(Memory(scenes.items), 0))  # pyright: ignore[reportArgumentType]
    false = rows(SceneCaptions(scenes).run(Memory(scenes.items, 1), 0))  # pyright: ignore[reportArgumentType]
    assert true["exact match"].value == 1 and true["word error rate"].value == 0
    assert true["true of the picture"].value >= 0.97
    assert false["true of the picture"].value <= 0.1
    assert not described(np.asarray(scenes.items[0].parts["image"]), "no scene at all")


@pytest.fixture(scope="module")
def stripes() -> tuple[EvaluationSet, Judge]:
    def items(n: int, start: int) -> list[Item]:
        pairs = zip(*labelled(n, start), strict=True)
        return [
            Item(f"{start}#{i}", {"text": f"{k} ({start} {i})", "image": p}, {"name": k})
            for i, (p, k) in enumerate(pairs)
        ]

    data = EvaluationSet("stripes", "test", items(20, 0), items(20, 100), items(20, 200), label="name")
    pixels, names = [i.parts["image"] for i in data.train], data.values(data.train, "name")
    sense = ImageSense(side=12, width=8, flip=False)
    return data, train_judge(pixels, names, None, sense, Fit(steps=40, batch=16))


def test_class_drawings_are_judged_and_spread(stripes: tuple[EvaluationSet, Judge]):
    data, judge = stripes
    true = rows(ClassDrawing(data, judge).run(Memory(data.items), 0))  # pyright: ignore[reportArgumentType]
    false = rows(ClassDrawing(data, judge).run(Memory(data.items, 1), 0))  # pyright: ignore[reportArgumentType]
    assert true["judged correct"].value >= 0.9 > 0.1 >= false["judged correct"].value
    assert true["judged correct"].reference == judge.accuracy
    assert true["coverage over that of real items"].value > 0.6
    collapsed = [Item(i.key, {**i.parts, "image": data.items[0].parts["image"]}, i.labels) for i in data.items]
    few = rows(ClassDrawing(data, judge).run(Memory(collapsed), 0))  # pyright: ignore[reportArgumentType]
    assert few["coverage over that of real items"].value < 0.4


def test_class_words_of_captions(stripes: tuple[EvaluationSet, Judge]):
    data, judge = stripes
    section = ClassCaptions(data, judge.labels)
    true, false = (rows(section.run(Memory(data.items, off), 0)) for off in (0, 1))  # pyright: ignore[reportArgumentType]
    assert true["class word right"].value == 1 and true["exact match"].value == 1
    assert false["class word right"].value == 0


def test_classes_are_found_where_a_judge_knows_them(stripes: tuple[EvaluationSet, Judge]):
    data, judge = stripes
    assert EvaluationSet("s", "test", data.items).field_of(judge.labels) == "name"
    with pytest.raises(UsageError, match="no label"):
        data.__class__("s", "test", data.items).field_of(["cats", "dogs"])


@pytest.fixture(scope="module")
def spoken() -> EvaluationSet:
    words = ["ab", "ba", "cad", "dab", "bad", "cab"]
    items = [
        Item(f"{w}{s}", {"text": f"{w}", "voice": "v", "speech": word(w, seed=s)}, {"content": w[0]})
        for s in range(3)
        for w in words
    ]
    return EvaluationSet("spoken", "test", items[:6], items[6:], items[6:12])


def test_speaking_is_heard_beside_real_speech(spoken: EvaluationSet):
    clips, texts = [i.parts["speech"] for i in spoken.train], [str(i.parts["text"]) for i in spoken.train]
    settings = RecognizerSettings(width=32, dilations=(1, 2))
    recognizer = train_recognizer(clips, texts, Fit(steps=150, batch=8, rate=6e-3), settings)  # pyright: ignore[reportArgumentType]
    true = rows(Speaking(spoken, recognizer).run(Memory(spoken.items), 0))  # pyright: ignore[reportArgumentType]
    false = rows(Speaking(spoken, recognizer).run(Memory(spoken.items, 1), 0))  # pyright: ignore[reportArgumentType]
    own = true["word error rate, generated speech"]
    assert own.value == own.reference == true["word error rate, real speech"].value
    assert false["word error rate, generated speech"].value > own.value
    assert "word error rate, real speech, content c" in true
    graded = intelligibility(recognizer, clips[:4], texts[:4])(tiny.tokenizers()["audio"])  # pyright: ignore[reportArgumentType]
    assert graded["wer_real"] <= own.value < graded["wer"]


def test_empty_recordings_say_nothing(spoken: EvaluationSet):
    pairs = [i.parts["speech"] for i in spoken.train], [str(i.parts["text"])[0] for i in spoken.train]
    judge = train_judge(*pairs, pairs, SoundSense(width=8, dilations=(1,)), Fit(steps=30, batch=8))
    silent = [Item(i.key, {**i.parts, "speech": Audio(np.zeros(0, np.float32), 16_000)}) for i in spoken.items]
    first = [Item(i.key, {**i.parts}, {"name": str(i.parts["text"])[0]}) for i in spoken.items]
    section = ClassSpeaking(EvaluationSet("s", "test", first, label="name"), judge)
    assert rows(section.run(Memory(silent), 0))["judged correct"].value == 0  # pyright: ignore[reportArgumentType]
    assert rows(section.run(Memory(spoken.items), 0))["judged correct"].value > 0.6  # pyright: ignore[reportArgumentType]


def test_transcripts(spoken: EvaluationSet):
    true = rows(Transcribing(spoken).run(Memory(spoken.items), 0))  # pyright: ignore[reportArgumentType]
    assert true["word error rate"].value == 0 and true["exact match, content b"].value == 1


def test_writing_and_cloze():
    texts = ["the cat sat on the mat", "the dog ran to the old house", "a bird sang in the tall tree"] * 20
    items = [Item(f"t{i}", {"text": t}) for i, t in enumerate(texts)]
    data = EvaluationSet("texts", "test", items[:30], items[30:])
    found = rows(Writing(data, 20).run(Memory(items), 0))  # pyright: ignore[reportArgumentType]
    assert found["sampled words in the training vocabulary"].value == 1
    right = rows(Cloze(data, 20).run(Memory(items), 0))  # pyright: ignore[reportArgumentType]
    wrong = rows(Cloze(data, 20).run(Memory(items, 1), 0))  # pyright: ignore[reportArgumentType]
    assert right["words filled in correctly"].value == 1 and wrong["words filled in correctly"].value == 0
    assert 0 < right["words filled in correctly, trigram model, both sides"].value <= 1


def test_evenly_takes_items_from_all_over():
    items = [Item(str(i), {"text": ""}) for i in range(10)]
    assert [i.key for i in evenly(items, 5)] == ["0", "2", "4", "6", "8"]
    assert evenly(items, 0) == evenly(items, 99) == items


def test_an_empty_set_is_refused():
    with pytest.raises(UsageError, match="no items"):
        EvaluationSet("nothing", "test", [])
