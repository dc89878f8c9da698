"""`fit` on a set that was really prepared, read by the real stream."""

import io
from pathlib import Path

import chz
import numpy as np
import pytest
import torch
from rich.console import Console
from safetensors.torch import load_file

import trimask
from trimask.core.errors import ArtifactError, DataError, UsageError
from trimask.core.rng import generator
from trimask.data.manifest import read_manifest
from trimask.data.prepare import prepare
from trimask.data.stream import SourceConfig, StreamConfig
from trimask.hub.bundle import find, load_bundle
from trimask.model.config import ModelConfig
from trimask.optim.optimizer import OptimizerConfig
from trimask.recipes.samples import Samples
from trimask.tokenizers.text import TextTokenizer
from trimask.train import checkpoint, device, record
from trimask.train.config import Budget, Checkpoints, RowSettings, TrainConfig, Validation, vocabulary
from trimask.train.hooks import Hook, Moment
from trimask.train.loop import fit

WORDS = ("one", "two", "red", "green", "circle", "square", "above", "below", "and", "the", "a", "small", "large")


class CrashError(Exception):
    """Ends a run as a bug in a hook would."""


@chz.chz
class Crashing(Hook):
    def __call__(self, moment: Moment) -> None:
        raise CrashError


def sentences(seed: int, count: int) -> str:
    rng = generator("sentences", seed)
    return "\n".join(" ".join(rng.choice(WORDS, rng.integers(3, 12))) for _ in range(count))


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """Tokenizers `text` and `other`, prepared sets `train` and `held`."""
    root = tmp_path_factory.mktemp("fit")
    tokenizer = TextTokenizer.train([sentences(0, 200)], 280)
    tokenizer.save(root / "text")
    TextTokenizer.train([sentences(0, 200)[::-1]], 280).save(root / "other")
    quiet = Console(file=io.StringIO())
    for name, seed, count in (("train", 1, 400), ("held", 2, 60)):
        (root / f"{name}.txt").write_text(sentences(seed, count))
        prepare([str(root / f"{name}.txt")], {"text": tokenizer}, root / name, workers=1, console=quiet)
    return root


def config(folder: Path, run: Path, **changes) -> TrainConfig:
    def stream(name: str, **options) -> StreamConfig:
        source = SourceConfig(path=str(folder / name))
        return StreamConfig(sources=(source,), tasks={"text": 1.0}, rows=4, slots=64, **options)

    base = TrainConfig(
        run=str(run),
        model=ModelConfig(vocabulary=vocabulary((str(folder / "text"),)), depth=2, width=32, head_dim=16),
        tokenizers=(str(folder / "text"),),
        data=stream("train"),
        validation=Validation(data=stream("held", seed=1), batches=2, every=7),
        budget=Budget(steps=14),
        checkpoints=Checkpoints(every=4),
        log_every=7,
        dtype="fp32",
        compile="off",
    )
    return chz.replace(base, **changes)


def weights(run: Path) -> dict[str, torch.Tensor]:
    return load_file(checkpoint.found(run / "checkpoints")[0] / "model.safetensors")


def test_a_run_that_crashed_goes_on_to_the_same_weights(folder, tmp_path):
    whole = fit(config(folder, tmp_path / "whole"))
    assert whole.complete and whole.validation["text"]["nats"] > 0 and whole.tokens > 14 * 4 * 32
    with pytest.raises(CrashError):
        fit(config(folder, tmp_path / "run", hooks=(Crashing(every=10),)))
    again = fit(config(folder, tmp_path / "run"))
    one, two = weights(whole.folder), weights(again.folder)
    assert all(torch.equal(one[k], two[k]) for k in one)
    rows = [[(r["step"], r["loss"], r["epochs"]) for r in record.read_metrics(f)] for f in (whole.folder, again.folder)]
    assert rows[0] == rows[1] and again.validation == whole.validation


def test_a_run_is_a_model_with_its_tokenizers_and_manifests(folder, tmp_path):
    result = fit(config(folder, tmp_path / "run", budget=Budget(steps=2), validation=None))
    bundle = load_bundle(find(result.folder))
    assert bundle.tokenizers["text"].decode(bundle.tokenizers["text"].encode(["red circle"])) == ["red circle"]
    assert bundle.manifests[0]["fingerprint"] == record.read_json(folder / "train" / "manifest.json")["fingerprint"]
    assert np.prod(bundle.model.head.table.weight.shape) > 0


def test_weights_carry_the_manifests_of_all_that_trained_them(folder, tmp_path):
    """Also those of the run that they started from, and after a crash."""
    short = {"budget": Budget(steps=6), "validation": None}
    fit(config(folder, tmp_path / "first", **short))
    held = StreamConfig(sources=(SourceConfig(path=str(folder / "held")),), tasks={"text": 1.0}, rows=4, slots=64)
    second = {**short, "data": held, "init": str(tmp_path / "first")}
    with pytest.raises(CrashError):
        fit(config(folder, tmp_path / "second", hooks=(Crashing(every=5),), **second))
    fit(config(folder, tmp_path / "second", **second))
    fit(config(folder, tmp_path / "third", **{**second, "init": str(tmp_path / "second")}))
    prints = [read_manifest(folder / name).fingerprint for name in ("held", "train")]
    for run in ("second", "third"):
        assert [m["fingerprint"] for m in load_bundle(find(tmp_path / run)).manifests] == prints


def test_data_of_another_tokenizer_is_refused(folder, tmp_path):
    other = (str(folder / "other"),)
    wrong = config(folder, tmp_path / "run", tokenizers=other)
    with pytest.raises(ArtifactError, match=r"was made with text tokenizer .* prepare the set again"):
        fit(wrong)
    assert not (tmp_path / "run").exists()


def test_a_run_goes_on_with_its_own_tokenizers_and_data_only(folder, tmp_path):
    run = tmp_path / "run"
    fit(config(folder, run, budget=Budget(steps=2), validation=None))
    first = checkpoint.found(run / "checkpoints")[0]
    other = {"text": TextTokenizer.from_file(folder / "other" / "bpe.json")}
    with pytest.raises(UsageError, match="the run began with text tokenizer"):
        checkpoint.check_inputs(first, other, [read_manifest(folder / "train")])
    with pytest.raises(UsageError, match="not those the run began with"):
        checkpoint.check_inputs(first, {}, [read_manifest(folder / "held")])


def test_missing_files_are_named(folder, tmp_path):
    with pytest.raises(ArtifactError, match="nowhere"):
        fit(config(folder, tmp_path / "run", tokenizers=(str(folder / "nowhere"),)))
    missing = StreamConfig(sources=(SourceConfig(path=str(folder / "nothing")),))
    with pytest.raises(DataError, match="nothing is not a prepared set"):
        fit(config(folder, tmp_path / "run", data=missing))


def test_a_slow_first_call_does_not_use_up_the_time_of_a_measurement(monkeypatch):
    """The first call compiles, where there is something to compile."""
    took = [20.0, 0.3, 0.2, 0.4, 0.2]
    clock, calls = [0.0], []

    def work() -> None:
        clock[0] += took[len(calls)]
        calls.append(None)

    monkeypatch.setattr(device.time, "perf_counter", lambda: clock[0])
    assert device.seconds(work, torch.device("cpu"), repeats=4, limit=1.5) == pytest.approx(0.2)
    assert len(calls) == 5


def test_a_causal_run_learns_and_writes_from_left_to_right(folder, tmp_path):
    """Words of random sentences: what comes next is one of thirteen, which is far below all codes of the vocabulary."""
    rows = {"text": RowSettings(buckets=(24,))}
    causal = vocabulary((str(folder / "text"),), rows, sight="causal")
    model = ModelConfig(vocabulary=causal, depth=2, width=32, head_dim=16)
    long = {"budget": Budget(steps=120), "optimizer": OptimizerConfig(rate=2**-6), "hooks": (Samples(every=120),)}
    result = fit(config(folder, tmp_path / "run", model=model, **long))
    first = record.read_metrics(result.folder)[0]["loss"]
    assert result.validation["text"]["nats"] < 0.6 * first
    assert (result.folder / "samples" / "step-00000120" / "texts.txt").read_text().strip()
    trained = trimask.load(result.folder)
    written = [trained.text("the", seed=n) for n in range(3)]
    assert set(" ".join(written).split()) & set(WORDS) and all(t.startswith("the") for t in written)
    likely, unlikely = (trained.score(text=t).by_count for t in ("the red circle", "qxj zzw vkq"))
    assert 0 < likely.nats / likely.tokens < 0.5 * unlikely.nats / unlikely.tokens and likely.error == 0
    with pytest.raises(UsageError, match="blockwise:block=1, without steps"):
        trained.text("the", steps=4)
    twice = chz.replace(config(folder, tmp_path / "twice", model=model).data, anti_masking=True)
    with pytest.raises(UsageError, match=r"anti_masking=True needs masks"):
        fit(config(folder, tmp_path / "twice", model=model, data=twice))
