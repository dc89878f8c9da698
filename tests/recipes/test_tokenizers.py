import chz
import pytest
from rich.console import Console

from tests.tokenizers.samples import SMALL_AUDIO, SMALL_IMAGE
from trimask.core.errors import UsageError
from trimask.recipes.tokenizers import NanoTokenizers, nano_tokenizers, scene_grader
from trimask.tokenizers.artifact import load
from trimask.tokenizers.objectives import AudioObjective, ImageObjective
from trimask.tokenizers.training import TokenizerTraining


def tiny(out, **more) -> NanoTokenizers:
    common = {"steps": 2, "batch": 2, "dtype": "fp32"}
    return NanoTokenizers(
        out=str(out),
        scenes=4,
        utterances=2,
        graded=4,
        limit=8,
        held_out=4,
        image=TokenizerTraining(objective=ImageObjective(settings=SMALL_IMAGE), **common),
        audio=TokenizerTraining(objective=AudioObjective(settings=SMALL_AUDIO, frames=8), **common),
        **more,
    )


def test_the_recipe_makes_artifacts_and_reports_and_keeps_finished_ones(tmp_path):
    pytest.importorskip("espeakng_loader")
    config = tiny(tmp_path, parts=("image", "audio"))
    made = nano_tokenizers(config, Console(quiet=True))
    assert set(made) == {"image", "audio"}
    for part, tokenizer in made.items():
        assert load(tmp_path / part).fingerprint == tokenizer.fingerprint
        assert "world" in tokenizer.quality
        report = (tmp_path / f"{part}-report.html").read_text()
        assert "data:image/png;base64," in report and tokenizer.fingerprint[:12] in report
    again = nano_tokenizers(chz.replace(config, scenes=5), Console(quiet=True))
    assert {k: v.fingerprint for k, v in again.items()} == {k: v.fingerprint for k, v in made.items()}


def test_public_sets_are_added_where_they_are_given(tmp_path, data_root):
    made = nano_tokenizers(tiny(tmp_path, data=str(data_root), parts=("image",)), Console(quiet=True))
    assert {"world", "emoji 32", "storybook 96", "mnist 28", "scenes"} <= set(made["image"].quality)


def test_the_grader_accepts_scenes_that_come_back_unchanged():
    class Unchanged:
        encode = decode = staticmethod(list)

    figures = scene_grader(30)(Unchanged())  # pyright: ignore[reportArgumentType]
    assert figures["all_correct"] == figures["before"] == 1 and figures["items"] == 30


def test_an_unknown_part_is_refused(tmp_path):
    with pytest.raises(UsageError, match="video"):
        tiny(tmp_path, parts=("video",))
