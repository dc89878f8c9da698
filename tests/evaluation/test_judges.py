import json
from pathlib import Path

import numpy as np
import pytest

from tests.evaluation.pictures import labelled
from tests.evaluation.sounds import word
from trimask.core.errors import ArtifactError, TrainingError, UsageError
from trimask.core.rng import generator
from trimask.evaluation import fitting
from trimask.evaluation.fitting import Fit
from trimask.evaluation.judges import Judge, fingerprint, sense_of, train_judge
from trimask.evaluation.senses import CodeSense, ImageSense, SoundSense
from trimask.evaluation.speaker import Speaker

FIT = Fit(steps=40, batch=16)
SMALL = ImageSense(side=12, width=8, flip=False)


@pytest.fixture(scope="module")
def judge() -> Judge:
    return train_judge(*labelled(24), labelled(10, 100), SMALL, FIT)


def test_a_judge_learns_real_classes_and_knows_its_own_accuracy(judge: Judge):
    items, labels = labelled(10, 300)
    assert judge.labels == ("columns", "rows")
    assert judge.accuracy >= 0.9
    assert judge.agreement(items, labels).value >= 0.9
    assert judge.features(items).shape == (20, 24)


def test_judging_does_not_depend_on_the_batch(judge: Judge):
    items, _ = labelled(3, 500)
    assert judge.predict(items) == [judge.predict([i])[0] for i in items]


def test_the_artifact_is_the_same_judge(judge: Judge, tmp_path: Path):
    judge.with_quality(further=0.5).save(tmp_path / "judge")
    loaded = Judge.load(tmp_path / "judge")
    items, _ = labelled(3, 700)
    assert np.array_equal(loaded.features(items), judge.features(items))
    assert loaded.accuracy == judge.accuracy and loaded.stored.quality["further"] == 0.5
    manifest = tmp_path / "judge" / "judge.json"
    manifest.write_text(json.dumps({**json.loads(manifest.read_text()), "class": "other"}))
    with pytest.raises(ArtifactError):
        Judge.load(tmp_path / "judge")


def test_the_cache_is_keyed_by_content(tmp_path: Path):
    items, labels = labelled(8)
    held = labelled(4, 100)
    short = Fit(steps=2, batch=4)
    train_judge(items, labels, held, SMALL, short, tmp_path)
    train_judge(items, labels, held, SMALL, short, tmp_path)
    assert len(list(tmp_path.iterdir())) == 1
    changed = [*items[:-1], 255 - items[-1]]
    train_judge(changed, labels, held, SMALL, short, tmp_path)
    assert len(list(tmp_path.iterdir())) == 2
    assert fingerprint(SMALL, short, [(items, labels)]) != fingerprint(SMALL, short, [(items, labels[::-1])])


def test_without_held_out_items_some_of_each_class_are_kept():
    judge = train_judge(*labelled(10), sense=SMALL, fit=Fit(steps=2, batch=4))
    assert judge.stored.quality["items"] == 2


def test_codes_and_sounds_can_be_judged():
    rng = np.random.default_rng(0)
    codes = [rng.integers(0, 8, (4, 4)).astype(np.int32) + 8 * (i % 2) for i in range(40)]
    labels = ["low", "high"] * 20
    judge = train_judge(codes[:30], labels[:30], (codes[30:], labels[30:]), CodeSense(codes=16, width=8), FIT)
    assert judge.accuracy == 1
    clips = [word("ab" if i % 2 else "dc", seed=i) for i in range(20)]
    names = ["x", "y"] * 10
    judge = train_judge(clips[:14], names[:14], (clips[14:], names[14:]), SoundSense(width=8, dilations=(1,)), FIT)
    assert judge.accuracy >= 5 / 6


def test_a_speaker_is_known_by_clips_of_words_that_training_did_not_hold():
    pitches = {"low": 0.8, "high": 1.3, "middle": 1.05}
    pairs = [(word(w, p, seed=s), v) for v, p in pitches.items() for w in ("ab", "cab") for s in range(4)]
    sense = SoundSense(width=12, dilations=(1,), cosine=10.0, crop=30)
    speaker = Speaker(train_judge([c for c, _ in pairs], [v for _, v in pairs], None, sense, FIT))
    enrolled = speaker.enrol([c for c, _ in pairs], [v for _, v in pairs])
    assert np.linalg.norm(enrolled["low"]) == pytest.approx(1)
    tested = [(word("bac", p, seed=9), v) for v, p in pitches.items()]
    found = speaker.likeness([c for c, _ in tested], [v for _, v in tested], enrolled)
    assert found.own.value > found.other.value
    with pytest.raises(UsageError, match="no real clips"):
        speaker.likeness([tested[0][0]], ["stranger"], enrolled)


def test_wrong_input_is_refused():
    items, labels = labelled(2)
    with pytest.raises(UsageError, match="tells classes apart"):
        train_judge(items, ["rows"] * 4, (items, labels))
    with pytest.raises(UsageError, match="uint8"):
        SMALL.tensor(np.zeros((3, 3)))
    with pytest.raises(UsageError, match="no judge"):
        sense_of("text")


def test_an_interrupted_training_ends_with_the_same_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    items, labels = labelled(8)
    held = labelled(2, 100)
    fit = Fit(steps=6, batch=4)
    whole = train_judge(items, labels, held, SMALL, fit)
    monkeypatch.setattr(fitting, "SAVE_SECONDS", -1.0)
    spoil, calls = ImageSense.spoil, []

    def failing(self, batch, rng):
        calls.append(1)
        if len(calls) == 4:
            raise KeyboardInterrupt
        return spoil(self, batch, rng)

    with monkeypatch.context() as patch:
        patch.setattr(ImageSense, "spoil", failing)
        with pytest.raises(KeyboardInterrupt):
            train_judge(items, labels, held, SMALL, fit, tmp_path)
    resumed = train_judge(items, labels, held, SMALL, fit, tmp_path)
    assert resumed.stored.fingerprint == whole.stored.fingerprint
    assert [p.suffix for p in tmp_path.iterdir()] == [""]


def test_a_loss_that_is_not_finite_stops_before_the_weights_move():
    network = fitting.fresh(lambda: SMALL.network(2), 0)
    before = [p.detach().clone() for p in network.parameters()]
    with pytest.raises(TrainingError, match="step 0"):
        fitting.train(network, lambda step: sum(p.sum() for p in network.parameters()) / 0, FIT, "broken")
    assert all((a == b).all() for a, b in zip(before, network.parameters(), strict=True))


def test_first_weights_leave_the_global_generator_alone():
    import torch

    torch.manual_seed(1)
    expected = torch.rand(1)
    torch.manual_seed(1)
    fitting.fresh(lambda: SMALL.network(2), generator("any").integers(9).item())
    assert torch.equal(torch.rand(1), expected)
