import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny
import torch

import trimask
from trimask.core.canvas import Composer, Row, Segment, queries
from trimask.core.errors import ArtifactError, UsageError
from trimask.diffusion.caching import Cache
from trimask.diffusion.samplers import Ancestral, Blockwise, Confidence, FirstHitting, RandomOrder, Threshold
from trimask.diffusion.settings import Course, Settings
from trimask.hub import bundle as bundles
from trimask.hub import defaults
from trimask.hub.bundle import Bundle, find, load_bundle, save_bundle
from trimask.hub.defaults import Defaults
from trimask.model.transformer import Transformer


def logits(model: Transformer) -> list[torch.Tensor]:
    """Logits of every token of a row with a text and a picture."""
    v = model.vocabulary
    row = Row((Segment("text", np.arange(5)), Segment("image", np.arange(16).reshape(4, 4), target=True)))
    canvas = Composer(v, 64).compose([[row]])
    with torch.inference_mode():
        return model(canvas, queries(canvas, canvas.alphabet_BL >= 0, v))


def test_fp32_round_trip_gives_identical_logits(tmp_path: Path):
    made = tiny.network(tiny.tokenizers())
    save_bundle(tmp_path / "b", made, tiny.tokenizers(), dtype="fp32")
    for a, b in zip(logits(made), logits(load_bundle(tmp_path / "b").model), strict=True):
        assert torch.equal(a, b)


def test_bf16_is_half_the_size_and_stable_after_the_first_rounding(bundle: Bundle, tmp_path: Path):
    save_bundle(tmp_path / "again", bundle.model, bundle.tokenizers)
    save_bundle(tmp_path / "wide", bundle.model, bundle.tokenizers, dtype="fp32")
    again = load_bundle(tmp_path / "again")
    for a, b in zip(logits(bundle.model), logits(again.model), strict=True):
        assert torch.equal(a, b)
    sizes = [(tmp_path / n / bundles.WEIGHTS).stat().st_size for n in ("again", "wide")]
    assert sizes[0] < 0.6 * sizes[1]


def test_other_weights_may_be_stored(bundle: Bundle, tmp_path: Path):
    zeros = {k: torch.zeros_like(v) for k, v in bundle.model.state_dict().items()}
    save_bundle(tmp_path / "b", bundle.model, bundle.tokenizers, weights=zeros)
    assert not any(p.any() for p in load_bundle(tmp_path / "b").model.parameters())


def test_everything_else_comes_back(tmp_path: Path):
    made = Defaults(
        {"text": Settings(Blockwise(block=4, inner=RandomOrder(steps=3)), temperature=Course(0.5, 0.1), top_k=7)},
        spans={"image>text": 16},
        voice="anna",
    )
    of = tiny.tokenizers()
    save_bundle(tmp_path / "b", tiny.network(of), of, [tiny.MANIFEST], {"step": 9}, defaults=made)
    loaded = load_bundle(tmp_path / "b")
    assert loaded.defaults == made
    assert loaded.manifests == [tiny.MANIFEST]
    assert loaded.train == {"step": 9}
    assert {k: t.fingerprint for k, t in loaded.tokenizers.items()} == {k: t.fingerprint for k, t in of.items()}


def test_saving_replaces_and_leaves_nothing_beside(tmp_path: Path, bundle: Bundle):
    for step in (1, 2):
        save_bundle(tmp_path / "b", bundle.model, bundle.tokenizers, extra={"step": step})
    assert load_bundle(tmp_path / "b").train == {"step": 2}
    assert [p.name for p in tmp_path.iterdir()] == ["b"]


@pytest.mark.parametrize("name", ["model.safetensors", "manifests.json", "tokenizers/text/bpe.json"])
def test_a_damaged_or_missing_file_is_named(bundle_folder: Path, tmp_path: Path, name: str):
    copy = shutil.copytree(bundle_folder, tmp_path / "copy")
    content = bytearray((copy / name).read_bytes())
    content[-1] ^= 1
    (copy / name).write_bytes(content)
    with pytest.raises(ArtifactError, match=f"{Path(name).name} is damaged"):
        load_bundle(copy)
    (copy / name).unlink()
    with pytest.raises(ArtifactError, match=f"{Path(name).name} is missing"):
        load_bundle(copy)


def test_sampling_defaults_may_be_changed_but_must_be_there(bundle_folder: Path, tmp_path: Path):
    copy = shutil.copytree(bundle_folder, tmp_path / "copy")
    changed = Defaults({"text": Settings(RandomOrder(steps=3))}, {"fast": {"text": Settings(RandomOrder(steps=1))}})
    bundles.write_defaults(copy, changed)
    assert load_bundle(copy).defaults == changed
    (copy / "sampling.json").write_text("{")
    with pytest.raises(ArtifactError, match=r"sampling\.json cannot be read as JSON"):
        load_bundle(copy)
    (copy / "sampling.json").unlink()
    with pytest.raises(ArtifactError, match=r"sampling\.json does not exist; the bundle is incomplete"):
        load_bundle(copy)


def test_another_format_or_a_configuration_that_cannot_be_read(bundle_folder: Path, tmp_path: Path):
    copy = shutil.copytree(bundle_folder, tmp_path / "copy")
    config = json.loads((copy / "config.json").read_text())
    for change, message in (
        ({"format": 99}, "bundle format 99"),
        ({"format": None}, "not a model bundle"),
        ({"model": {**config["model"], "depht": 3}}, "depht"),
        ({"model": {**config["model"], "width": 64}}, "does not fit the model configuration"),
        (
            {"tokenizers": {**config["tokenizers"], "text": "0" * 64}},
            "is not the tokenizer this model was trained with",
        ),
        ({"files": None}, "field 'files'"),
    ):
        (copy / "config.json").write_text(json.dumps({**config, **change}))
        with pytest.raises(ArtifactError, match=message):
            load_bundle(copy)
    (copy / "config.json").write_text("{")
    with pytest.raises(ArtifactError, match="cannot be read as JSON"):
        load_bundle(copy)


def test_a_tokenizer_of_another_size_is_refused(tmp_path: Path, bundle: Bundle):
    from trimask.tokenizers.text import TextTokenizer

    other = {**bundle.tokenizers, "text": TextTokenizer.train(tiny.SENTENCES, 260)}
    with pytest.raises(UsageError, match="not made for each other"):
        save_bundle(tmp_path / "b", bundle.model, other)
    assert not (tmp_path / "b").exists()


def test_find_takes_bundles_checkpoints_and_the_newest_of_a_run(bundle_folder: Path, tmp_path: Path):
    run = tmp_path / "run"
    for step in ("step-00000500", "step-00001000"):
        shutil.copytree(bundle_folder, run / "checkpoints" / step)
    (run / "config.json").write_text("{}")
    (run / "checkpoints" / "step-00002000").mkdir()
    shutil.copytree(bundle_folder, run / "checkpoints" / "step-00003000.old")
    newest = run / "checkpoints" / "step-00001000"
    assert find(bundle_folder) == bundle_folder
    assert find(run) == find(run / "checkpoints") == find(str(newest)) == newest
    assert trimask.load(run).bundle.folder == newest


def test_names_that_are_no_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(bundles, "MODELS", tmp_path / "models")
    with pytest.raises(ArtifactError, match="trimask train nano"):
        find("nano")
    with pytest.raises(ArtifactError, match=r"no model '.*gone'.*shipped models are nano"):
        find(tmp_path / "gone")
    with pytest.raises(ArtifactError, match=r"has no model\.safetensors"):
        find(tmp_path)
    (tmp_path / "checkpoints").mkdir()
    with pytest.raises(ArtifactError, match="no complete checkpoint yet"):
        find(tmp_path)


def test_the_shipped_model_is_found_in_the_package(
    bundle_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(bundles, "MODELS", tmp_path)
    shutil.copytree(bundle_folder, tmp_path / "nano")
    assert trimask.load("nano", device="cpu").bundle.folder == tmp_path / "nano"


def test_courses_and_caches_may_be_written_as_on_the_command_line():
    text = {"sampler": {"name": "random-order"}, "guidance": "1:3", "temperature": 0.5, "cache": "changed:every=8"}
    found = defaults.from_json({"settings": {"image": text}}, "here").settings["image"]
    assert (found.guidance, found.temperature, found.cache) == (Course(1.0, 3.0), 0.5, Cache(every=8))


def test_starting_defaults_survive_json():
    values = json.loads(json.dumps(defaults.to_json(Defaults())))
    assert defaults.from_json(values, "here") == Defaults()


def test_courses_and_caches_survive_json():
    own = Settings(
        RandomOrder(), temperature=Course(1.0, 0.2), guidance=Course(3, 3, 0.2, 0.8, 0.0), cache=Cache(every=8)
    )
    presets = {"fast": {"text>image": own}, "best": {}}
    made = Defaults(
        {"image": own, "text": Settings(RandomOrder())}, presets, {"text>image": {"fast": {"quality": 0.5}}}
    )
    assert defaults.from_json(json.loads(json.dumps(defaults.to_json(made))), "here") == made


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"settings": 3}, "'settings', each of 'presets'"),
        ({"settings": {"text": {"temperature": 1.0}}}, "settings of 'text'"),
        ({"settings": {"text": {"sampler": {"name": "magic"}}}}, "no sampler is called 'magic'"),
        ({"settings": {"text": {"sampler": {"name": "ancestral", "pace": 3}}}}, "pace"),
        ({"settings": {"text": {"sampler": {"name": "ancestral"}, "cache": {"scope": "dual"}}}}, "no cache is called"),
        ({"settings": {"text": {"sampler": {"name": "ancestral"}, "cache": 8}}}, "settings of 'text'"),
        ({"settings": {}, "presets": {"fast": 3}}, "each of 'presets', and 'measured' must be objects"),
        ({"settings": {}, "presets": {"fast": {"text": {}}}}, "preset fast, settings of 'text'"),
        ({"settings": {}, "spans": {"text": "long"}}, "'spans'"),
        ([], "must be an object with 'settings', not list"),
        # In the tests types are checked before the values are.
        *(
            ({"settings": {"text": {"sampler": {"name": "ancestral", **own}, **rest}}}, f"settings of 'text'.*{name}")
            for own, rest, name in (
                ({"steps": 3.5}, {}, "steps"),
                ({"steps": "4"}, {}, "steps"),
                ({}, {"top_k": 2.5}, "top_k"),
                ({}, {"repetition": float("inf")}, "repetition=inf must be from 1"),
                ({"name": "blockwise", "inner": "random-order"}, {}, "inner"),
            )
        ),
    ],
)
def test_bad_sampling_json_names_the_entry(change: Any, message: str):
    with pytest.raises(ArtifactError, match=f"sampling.json.*{message}"):
        defaults.from_json(change, "sampling.json")


def test_overrides_change_what_they_name_and_nothing_else():
    base = Settings(RandomOrder(steps=8), temperature=0.5, guidance=1.0)
    assert defaults.adjusted(base, {"steps": 3}) == Settings(RandomOrder(steps=3), temperature=0.5, guidance=1.0)
    assert defaults.adjusted(base, {"sampler": "ancestral"}).sampler == Ancestral(steps=8)
    assert defaults.adjusted(base, {"sampler": Ancestral(steps=2), "top_k": 4}).top_k == 4
    assert defaults.adjusted(Settings(Blockwise(block=4)), {"steps": 10}).sampler == Blockwise(block=4, steps=10)
    assert defaults.adjusted(base, {"sampler": "threshold", "min_p": 0.1}).sampler == Threshold()
    assert defaults.adjusted(base, {"sampler": "first-hitting"}).sampler == FirstHitting()
    for bad in ({"step": 3}, {"sampler": "magic"}, {"steps": 0}, {"temperature": -1.0}, {"min_p": 1.0}):
        with pytest.raises(UsageError):
            defaults.adjusted(base, bad)  # pyright: ignore[reportArgumentType]
    made = defaults.adjusted(base, {"sampler": "confidence:by=margin,anneal=false,gumbel=0.5"}).sampler
    assert made == Confidence(steps=8, by="margin", anneal=False, gumbel=0.5)
    assert defaults.adjusted(base, {"sampler": "blockwise:inner=threshold,block=4,steps=0"}).sampler == Blockwise(
        block=4, inner=Threshold()
    )
    wrong = {
        "threshold:p=1": "no setting 'p'",
        "threshold:probability=high": "is a value as 0.9",
        "blockwise:inner=best": "no sampler is called 'best'",
        "confidence:by=luck": "by='luck' must be one of drawn",
        "confidence:steps=0": "steps=0 must be a whole number, at least 1",
        "threshold:probability=0.9,factor=1": "probability and factor are two rules; give one",
        "blockwise:inner=threshold,steps=3": "steps=3 cannot be shared out, as Threshold takes",
    }
    for text, message in wrong.items():
        with pytest.raises(UsageError, match=message):
            defaults.adjusted(base, {"sampler": text})
    # What is given takes the place of what it cannot go with.
    known = Settings(Threshold(0.7))
    assert defaults.adjusted(known, {"sampler": "threshold:factor=1"}).sampler == Threshold(factor=1.0)
    blocks = Settings(Blockwise(block=4, steps=8))
    assert defaults.adjusted(blocks, {"sampler": "blockwise:inner=threshold"}).sampler == Blockwise(
        block=4, inner=Threshold()
    )
    assert defaults.adjusted(base, {"guidance": "1:3"}).guidance == Course(1.0, 3.0)
    assert defaults.adjusted(base, {"temperature": "0.5"}).temperature == 0.5
    assert defaults.adjusted(base, {"cache": "target"}).cache == Cache("target")
    assert defaults.adjusted(base, {"cache": "changed:every=8,after=0.5"}).cache == Cache("changed", 8, 0.5)
    assert defaults.adjusted(replace(base, cache=Cache()), {"cache": "none"}).cache is None
    wrong = {
        "dual": "no cache is called 'dual'; there are: none, changed, block, suffix, target",
        "none:every=2": "no cache is called 'none:every=2'",
        "block:size=3": "the cache has no setting 'size'; it has: scope, every, after",
        "block:every=often": "every of the cache is a value as 0",
    }
    for text, message in wrong.items():
        with pytest.raises(UsageError, match=message):
            defaults.adjusted(base, {"cache": text})
    assert defaults.adjusted(Settings(Threshold()), {"steps": 4}).sampler == Threshold(steps=4)
    with pytest.raises(UsageError, match="as many steps as the model asks for"):
        defaults.adjusted(Settings(Blockwise(inner=Threshold())), {"steps": 4})


def test_a_task_goes_before_its_modality():
    greedy = Settings(RandomOrder(), temperature=0.0)
    table = Defaults({"text": Settings(RandomOrder()), "image>text": greedy})
    assert table.of("image>text", "text", {}) == greedy
    assert table.of("text", "text", {}).temperature == 1.0
    with pytest.raises(UsageError, match="no settings for audio"):
        table.of("text>speech", "audio", {})
    table = replace(table, presets={"fast": {"text": Settings(RandomOrder(steps=2))}})
    assert table.of("text", "text", {"preset": "fast"}).sampler == RandomOrder(steps=2)
    assert table.of("text", "text", {"preset": "fast", "steps": 5}).sampler == RandomOrder(steps=5)
    # A preset of writing is none of describing.
    assert table.of("image>text", "text", {"preset": "fast"}) == greedy
    assert table.of("text", "text", {"preset": "balanced"}).sampler == RandomOrder()
    with pytest.raises(UsageError, match="no sampling preset 'best'; it has: balanced, fast"):
        table.of("text", "text", {"preset": "best"})
