import json
from collections import Counter

import numpy as np
import pytest

from trimask.core.errors import UsageError
from trimask.core.item import Audio
from trimask.core.modality import KINDS
from trimask.data.world.draw import SIDE
from trimask.data.world.grade import grade
from trimask.data.world.source import CAPTION_EVERY, World, item
from trimask.data.world.speech import HELD_OUT_VOICE, VOICES
from trimask.data.world.splits import SPLITS, part_of_split, part_of_text
from trimask.data.world.text import paragraphs_of

pytest.importorskip("espeakng_loader", reason="the extra `world` is not installed")

PARTS = {
    "scenes": ["text", "image"],
    "speech": ["text", "voice", "speech"],
    "spoken-scenes": ["text", "voice", "speech", "image"],
    "text": ["text"],
}


def same(a, b) -> bool:
    if isinstance(a, Audio):
        return a.rate == b.rate and np.array_equal(a.samples, b.samples)
    return np.array_equal(a, b) if isinstance(a, np.ndarray) else a == b


@pytest.mark.parametrize("kind", PARTS)
@pytest.mark.parametrize("split", SPLITS)
def test_items_hold_their_parts_and_repeat(kind, split):
    world = World(kind=kind, split=split, count=3, seed=2)
    assert len(world) == 3 and len(list(world)) == 3
    for i in (2, 0):
        one, again = world[i], item(kind, i, split, 2)
        assert sorted(one.parts) == sorted(PARTS[kind]) and set(one.parts) <= set(KINDS)
        assert one.key == again.key and one.labels == again.labels == world.labels(i)
        assert all(same(one.parts[p], again.parts[p]) for p in one.parts)
        json.dumps(dict(one.labels))
    assert world[0].key != world[1].key
    assert world[0].key != item(kind, 0, split, 3).key


def test_an_image_is_what_its_text_says():
    for kind, split in (("scenes", "test"), ("spoken-scenes", "train")):
        for i in range(10):
            one = item(kind, i, split)
            image = one.parts["image"]
            assert image.shape == (SIDE, SIDE, 3) and image.dtype == np.uint8
            result = grade(image, one.parts["text"])
            assert result.all_correct and len(result.found) == one.labels["objects"]
            assert one.labels["held_out"] == (split == "test")


def test_speech_is_short_and_of_every_kind_and_voice():
    items = [item("speech", i, "train") for i in range(60)]
    assert all(0.2 < one.parts["speech"].seconds < 5 for one in items)
    assert {one.labels["content"] for one in items} == {"number", "sentence", "caption"}
    assert HELD_OUT_VOICE not in {one.parts["voice"] for one in items}
    assert len({one.parts["voice"] for one in items}) == len(VOICES) - 1
    held = [item("speech", i, "test") for i in range(60)]
    assert HELD_OUT_VOICE in {one.parts["voice"] for one in held}
    assert all(one.labels["held_out_voice"] == (one.parts["voice"] == HELD_OUT_VOICE) for one in held)


@pytest.mark.parametrize("split", SPLITS)
def test_spoken_numbers_and_sentences_are_divided(split):
    for i in range(30):
        one = item("speech", i, split)
        if one.labels["content"] != "caption":
            assert part_of_text(one.parts["text"]) == part_of_split(split)


def test_text_visits_every_paragraph_once_an_epoch():
    found = paragraphs_of("validation")
    turns = len(found) // (CAPTION_EVERY - 1) + 2
    items = [item("text", i, "validation") for i in range(turns * CAPTION_EVERY)]
    first = [one.parts["text"] for one in items if one.labels.get("epoch") == 0]
    assert Counter(first) == Counter(found)
    assert sum(one.labels["content"] == "caption" for one in items) == turns


def test_fingerprint_and_licence():
    world = World(kind="scenes", count=10)
    assert world.fingerprint == World(kind="scenes", count=10).fingerprint
    others = [
        World(kind="text", count=10),
        World(kind="scenes", count=11),
        World(kind="scenes", count=10, seed=1),
        World(kind="scenes", count=10, split="test"),
    ]
    assert len({w.fingerprint for w in [world, *others]}) == 5
    assert "PSF" in others[0].licence and "PSF" not in world.licence


@pytest.mark.parametrize(
    ("wrong", "named"),
    [({"kind": "smells"}, "smells"), ({"split": "dev"}, "dev"), ({"count": 0}, "count")],
)
def test_wrong_settings_are_refused(wrong, named):
    with pytest.raises(UsageError, match=named):
        World(**({"kind": "scenes", "count": 5} | wrong))
    with pytest.raises(IndexError):
        World(kind="scenes", count=5)[5]
