import json
import os
import signal

import chz
import numpy as np
import pytest
import torch
from rich.console import Console

from tests.tokenizers.samples import SMALL_AUDIO, SMALL_IMAGE, shapes, tone
from trimask.core.errors import TrainingError, UsageError
from trimask.core.rng import generator
from trimask.tokenizers.artifact import load
from trimask.tokenizers.objectives import AudioObjective, ImageObjective
from trimask.tokenizers.quality import measure
from trimask.tokenizers.training import (
    ARTIFACT,
    TokenizerTraining,
    Weighted,
    batch,
    learning_rate,
    train_tokenizer,
)

PICTURES = [shapes(i) for i in range(6)] + [shapes(i, 28, 28) for i in range(3)]
CONFIG = TokenizerTraining(
    objective=ImageObjective(settings=SMALL_IMAGE),
    steps=12,
    batch=4,
    warmup=2,
    dtype="fp32",
    checkpoint_every=5,
    log_every=1,
)


class Failing:
    """Pictures that do something once, at a given access."""

    def __init__(self, at: int, action):
        self.at, self.action, self.count = at, action, 0

    def __len__(self):
        return len(PICTURES)

    def __getitem__(self, index):
        self.count += 1
        if self.count == self.at:
            self.action()
        return PICTURES[index]


def train(folder, data=PICTURES, config=CONFIG, **more):
    return train_tokenizer(config, [Weighted("shapes", data)], folder, console=Console(quiet=True), **more)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole")
    return folder, train(folder)


def lines(folder):
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def test_a_crash_and_a_resume_end_with_the_same_weights(whole, tmp_path):
    def crash():
        raise MemoryError

    with pytest.raises(MemoryError):
        train(tmp_path, Failing(4 * 8, crash))
    assert lines(tmp_path)[-1]["step"] == 7
    resumed = train(tmp_path)
    assert resumed.fingerprint == whole[1].fingerprint
    assert lines(tmp_path) == lines(whole[0])


def test_a_signal_saves_and_the_same_command_goes_on(whole, tmp_path):
    with pytest.raises(KeyboardInterrupt, match="step 3"):
        train(tmp_path, Failing(4 * 3, lambda: os.kill(os.getpid(), signal.SIGTERM)))
    resumed = train(tmp_path)
    assert resumed.fingerprint == whole[1].fingerprint


def test_a_finished_run_is_loaded_and_its_artifact_is_the_tokenizer(whole):
    folder, tokenizer = whole
    before = (folder / "metrics.jsonl").read_text()
    assert train(folder).fingerprint == tokenizer.fingerprint == load(folder / ARTIFACT).fingerprint
    assert (folder / "metrics.jsonl").read_text() == before


def test_another_configuration_is_refused(whole):
    with pytest.raises(UsageError, match="config"):
        train(whole[0], config=chz.replace(CONFIG, seed=1))
    with pytest.raises(UsageError, match="sources"):
        train(whole[0], PICTURES[:3])


def test_quality_and_graders_are_in_the_manifest(tmp_path):
    tokenizer = train(
        tmp_path,
        config=chz.replace(CONFIG, steps=1),
        held_out={"held out": PICTURES[:2]},
        graders={"codes": lambda t: {"count": float(t.modality.codes)}},
        provenance={"licence": "none"},
    )
    quality = load(tmp_path / ARTIFACT).quality
    assert quality["codes"] == {"count": 12.0} and quality["held out"] == measure(tokenizer, PICTURES[:2])
    assert tokenizer.provenance["licence"] == "none" and tokenizer.provenance["run"]["steps"] == 1


def test_a_loss_that_is_not_finite_stops_before_the_optimizer(tmp_path):
    config = chz.replace(CONFIG, objective=ImageObjective(settings=SMALL_IMAGE, square_weight=float("inf")))
    with pytest.raises(TrainingError, match="step 0"):
        train(tmp_path, config=config)
    assert not (tmp_path / "checkpoint").exists()


def test_training_lowers_the_loss_of_pictures(tmp_path):
    config = chz.replace(CONFIG, steps=60, rate=5e-3, batch=8)
    train(tmp_path, config=config)
    losses = [line["loss"] for line in lines(tmp_path)]
    assert np.mean(losses[-10:]) < 0.6 * np.mean(losses[:3])


def test_training_lowers_the_loss_of_recordings(tmp_path):
    objective = AudioObjective(settings=SMALL_AUDIO, frames=8)
    config = chz.replace(CONFIG, objective=objective, steps=30, rate=5e-3)
    train(tmp_path, [tone(i) for i in range(4)] + [tone(9, 2000)], config)
    losses = [line["loss"] for line in lines(tmp_path)]
    assert losses[-1] < 0.8 * losses[0]


def test_minutes_are_turned_into_steps_once(tmp_path):
    config = chz.replace(CONFIG, minutes=0.003, dtype="auto")
    train(tmp_path, config=config)
    run = json.loads((tmp_path / "run.json").read_text())
    assert run["dtype"] in run["reason"] and lines(tmp_path)[-1]["step"] == run["steps"] > 0


def test_a_batch_is_a_function_of_seed_and_step_and_groups_equal_shapes():
    sources = [Weighted("shapes", PICTURES)]
    config = chz.replace(CONFIG, batch=16)
    groups, again = batch(config, sources, 7), batch(config, sources, 7)
    assert all(torch.equal(a, b) for a, b in zip(groups, again, strict=True))
    assert {tuple(g.shape[1:]) for g in groups} == {(3, 32, 32), (3, 28, 28)}
    assert sum(map(len, groups)) == 16
    assert not torch.equal(groups[0][:1], batch(config, sources, 8)[0][:1])


def test_weights_of_sources_are_shares():
    light, dark = [np.full((32, 32, 3), 255, np.uint8)], [np.zeros((32, 32, 3), np.uint8)]
    config = chz.replace(CONFIG, batch=400)
    (examples,) = batch(config, [Weighted("light", light, 3.0), Weighted("dark", dark, 1.0)], 0)
    assert (examples[:, 0, 0, 0] > 0).float().mean().item() == pytest.approx(0.75, abs=0.08)


def test_the_rate_warms_up_and_falls_to_zero():
    rates = [learning_rate(CONFIG, step, 12) for step in range(13)]
    assert rates[0] == CONFIG.rate / 2 and max(rates) == CONFIG.rate and rates[12] == pytest.approx(0)


def test_an_example_of_a_short_clip_has_silence_around_it_and_a_level_in_range():
    objective = AudioObjective(settings=SMALL_AUDIO, frames=8, gain_db=(-6.0, -6.0))
    example = objective.example(tone(0, 2000), generator("test", 0))
    assert example.shape == (8 * 640,)
    assert example.abs().max().item() == pytest.approx(10 ** (-6 / 20), rel=1e-4)
    assert (example == 0).sum() >= 8 * 640 - 2560


@pytest.mark.parametrize("wrong", [{"steps": 0}, {"dtype": "fp8"}, {"batch": -1}])
def test_a_wrong_setting_is_refused(wrong):
    with pytest.raises(UsageError):
        chz.replace(CONFIG, **wrong)


def test_no_data_is_refused(tmp_path):
    with pytest.raises(UsageError, match="source"):
        train(tmp_path, [])


def test_permuted_channels_are_the_same_channels_in_another_order():
    picture = shapes(0)
    whole, turned = (ImageObjective(settings=SMALL_IMAGE, permute=share) for share in (0.0, 1.0))
    plain = whole.example(picture, generator("test", 0))
    orders = set()
    for row in range(40):
        made = turned.example(picture, generator("test", row))
        order = tuple(next(c for c in range(3) if torch.equal(plane, plain[c])) for plane in made)
        orders.add(order)
    assert len(orders) == 6 and all(sorted(order) == [0, 1, 2] for order in orders)
