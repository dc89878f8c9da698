"""The model that ships: small, complete, and able to do what its page says. `docs/nano.md` has the figures."""

import os
import subprocess
import sys

import numpy as np
import pytest

import trimask
from trimask.data.world.grade import grade
from trimask.data.world.source import World
from trimask.evaluation.recognizer import Recognizer
from trimask.evaluation.suite import RECOGNIZER, SHIPPED
from trimask.evaluation.transcripts import word_errors
from trimask.hub.bundle import MODELS, find
from trimask.hub.model import Model

NUMBERS = ["seven", "forty two", "three hundred and six", "seven hundred and forty two"]


@pytest.fixture(scope="module")
def nano() -> Model:
    return trimask.load("nano", device="cpu")


def test_weights_and_tokenizers_take_at_most_24_mb():
    assert find("nano") == MODELS / "nano"
    assert sum(p.stat().st_size for p in find("nano").rglob("*") if p.is_file()) <= 24e6


def test_it_knows_what_it_was_trained_on(nano: Model):
    sources = {str(s["source"]) for m in nano.bundle.manifests for s in m["sources"]}
    assert any("fashion-mnist" in s for s in sources) and not any("stamps" in s for s in sources)


def test_scenes_survive_its_tokenizer(nano: Model):
    """97 % and more of 1,000 (docs/nano.md); 96 of 100 is two standard errors below 99 %."""
    world = World(kind="scenes", split="test", count=100)
    items = [world[i] for i in range(100)]
    tokenizer = nano.bundle.tokenizers["image"]
    again = tokenizer.decode(tokenizer.encode([i.parts["image"] for i in items]))
    assert sum(grade(p, str(i.parts["text"])).all_correct for p, i in zip(again, items, strict=True)) >= 96
    assert all(c.size == 64 for c in tokenizer.encode([items[0].parts["image"]]))
    assert nano.bundle.tokenizers["audio"].modality.levels * 25 <= 100


def test_it_needs_neither_cuda_nor_flash_attention():
    code = """
import sys
sys.modules |= {"flash_attn": None, "triton": None}
import trimask
print(trimask.load("nano").image("a red circle", steps=4).size)
"""
    environment = {**os.environ, "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=300)
    assert done.stdout == "(32, 32)\n", done.stderr


def test_it_draws_and_describes_single_objects(nano: Model):
    items = [i for i in World(kind="scenes", split="test", count=80) if i.labels["objects"] == 1][:8]
    captions = [str(i.parts["text"]) for i in items]
    assert len(captions) == 8
    drawn = nano.images(captions, seed=0)
    # 83 % in docs/nano.md: five of eight leave room for another processor's rounding.
    assert sum(grade(p, c).all_correct for p, c in zip(drawn, captions, strict=True)) >= 5
    said = nano.captions([np.asarray(i.parts["image"]) for i in items], seed=0)
    assert sum(a == b for a, b in zip(said, captions, strict=True)) >= 4


def test_it_says_numbers_that_are_heard_right_and_hears_them_itself(nano: Model):
    clips = nano.clips(NUMBERS, None, seed=0)
    heard = Recognizer.load(SHIPPED / RECOGNIZER).transcribe(clips)
    assert word_errors(NUMBERS, heard).value <= 0.25
    assert word_errors(NUMBERS, nano.transcripts(clips, seed=0)).value <= 0.5


def test_it_writes_words(nano: Model):
    text = nano.text("Once upon a time")
    assert text.startswith("Once upon a time") and len(text.split()) > 5
