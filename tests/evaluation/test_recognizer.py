from pathlib import Path

import numpy as np
import pytest
import torch

from tests.evaluation.sounds import word
from trimask.core.errors import ArtifactError, UsageError
from trimask.evaluation.fitting import Fit
from trimask.evaluation.recognizer import (
    CHARACTERS,
    Corpus,
    Network,
    Recognizer,
    RecognizerSettings,
    spelled,
    spelling,
    train_recognizer,
)
from trimask.evaluation.transcripts import word_errors

TINY = RecognizerSettings(width=32, dilations=(1, 2))
WORDS = ["ab", "ba", "cad", "dab", "bad", "cab", "abc", "dcb"]
FIT = Fit(steps=220, batch=8, rate=6e-3)


@pytest.fixture(scope="module")
def trained() -> Recognizer:
    clips = [word(w, seed=s) for s in range(3) for w in WORDS]
    return train_recognizer(clips, WORDS * 3, FIT, TINY)


def test_greedy_decoding_collapses_repeats_and_drops_blanks():
    a, space = CHARACTERS.index("a") + 1, CHARACTERS.index(" ") + 1
    assert spelled(np.array([0, a, a, 0, a, space, space, a, 0])) == "aa a"
    assert spelled(np.zeros(4, int)) == ""


def test_spelling_is_undone_by_decoding_with_blanks_between():
    outputs = spelling("A bee, twenty-two!").numpy()
    assert spelled(np.stack([outputs, np.zeros_like(outputs)], 1).ravel()) == "a bee twenty two"
    with pytest.raises(UsageError, match="cannot be spelled"):
        spelling("größer")


def test_a_few_steps_learn_to_hear_unseen_renderings_of_known_words(trained: Recognizer):
    heard = trained.transcribe([word(w, seed=9) for w in WORDS])
    assert word_errors(WORDS, heard).value <= 0.25


def test_training_lowers_the_loss():
    corpus = Corpus([word(w) for w in WORDS], WORDS)
    torch.manual_seed(0)
    network = Network(TINY)
    optimizer = torch.optim.Adam(network.parameters(), 3e-3)
    losses = []
    for step in range(12):
        loss = corpus.loss(network, FIT, step)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert np.mean(losses[-3:]) < 0.7 * np.mean(losses[:3])


def test_a_clip_is_heard_the_same_alone_and_among_others(trained: Recognizer):
    clips = [word(w, seed=5) for w in WORDS[:3]]
    assert trained.transcribe(clips) == [trained.transcribe([c])[0] for c in clips]


def test_the_artifact_hears_the_same_and_refuses_to_be_another(trained: Recognizer, tmp_path: Path):
    better = trained.with_quality(wer=0.1)
    better.save(tmp_path / "recognizer")
    loaded = Recognizer.load(tmp_path / "recognizer")
    assert loaded.quality == {"wer": 0.1}
    assert loaded.stored.fingerprint == better.stored.fingerprint
    clip = word("dab", seed=4)
    assert loaded.transcribe([clip]) == trained.transcribe([clip])
    manifest = tmp_path / "recognizer" / "judge.json"
    manifest.write_text(manifest.read_text().replace('"width": 32', '"width": 31'))
    with pytest.raises(ArtifactError, match="do not belong together"):
        Recognizer.load(tmp_path / "recognizer")
    with pytest.raises(ArtifactError, match="does not exist"):
        Recognizer.load(tmp_path / "nothing")


def test_too_few_clips_are_refused():
    with pytest.raises(UsageError, match="at least 8"):
        train_recognizer([word("ab")], ["ab"], FIT, TINY)
