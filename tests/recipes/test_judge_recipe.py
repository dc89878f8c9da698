from pathlib import Path

import pytest
from rich.console import Console

from trimask.core.errors import UsageError
from trimask.evaluation.suite import load_judges
from trimask.recipes.judges import JudgesConfig, make_judges

pytest.importorskip("espeakng_loader", reason="the built-in world speaks with the extra 'world'")


def test_the_recipe_makes_judges_that_load_and_keeps_them(tmp_path: Path):
    config = JudgesConfig(out=str(tmp_path), clips=48, test_clips=40, scale=0.002)
    first = make_judges(config, Console(quiet=True))
    assert set(first) == {"recognizer", "speaker"}
    assert {"wer_numbers_real", "wer_held_out_voice_real"} <= set(first["recognizer"])
    assert {"accuracy", "own_real", "other_real", "nearest_real"} <= set(first["speaker"])
    loaded = load_judges(tmp_path)
    assert loaded.recognizer is not None and loaded.speaker is not None
    before = {p: p.stat().st_mtime_ns for p in tmp_path.rglob("*.safetensors")}
    assert make_judges(config, Console(quiet=True)) == first
    assert before == {p: p.stat().st_mtime_ns for p in tmp_path.rglob("*.safetensors")}
    assert not list(tmp_path.glob("*.training"))


def test_real_sets_give_judges_of_their_classes(data_root: Path, tmp_path: Path):
    config = JudgesConfig(out=str(tmp_path), data=str(data_root), only=("fsdd",), scale=0.002)
    figures = make_judges(config, Console(quiet=True))["fsdd"]
    assert {"accuracy", "accuracy_unseen_speaker"} <= set(figures)
    assert load_judges(tmp_path).classes["fsdd"].labels[0] == "eight"


def test_an_unknown_judge_is_refused():
    with pytest.raises(UsageError, match="no judge 'cifar'"):
        JudgesConfig(out="x", only=("cifar",))
