"""Recipes are found by name, and a wrong override is one clear error."""

import sys
from pathlib import Path

import chz
import pytest

from trimask import recipes
from trimask.core.errors import UsageError
from trimask.optim.schedules import WarmupStableDecay
from trimask.recipes.families import PRESETS
from trimask.tokenizers.text import TextTokenizer
from trimask.train.config import RowSettings

RECIPE = """
import chz
from chz.blueprint import Reference
from trimask.data.stream import StreamConfig
from trimask.train.config import TrainConfig, vocabulary

def small():
    return chz.Blueprint(TrainConfig).apply({
        "run": "runs/small",
        "model.vocabulary": vocabulary,
        "model.vocabulary.tokenizers": Reference("tokenizers"),
        "tokenizers": (TOKENIZER,),
        "data.sources.0.path": "data/small",
        "budget.steps": 10,
    })

def finished():
    return small().make()

def wrong():
    return 3
"""


@pytest.fixture
def recipe(tmp_path: Path) -> str:
    TextTokenizer.train(["a small text"], 256).save(tmp_path / "text")
    file = tmp_path / "mine.py"
    file.write_text(RECIPE.replace("TOKENIZER", repr(str(tmp_path / "text"))))
    return f"{file}:small"


def test_overrides_reach_every_level(recipe):
    config = recipes.configure(
        recipe,
        [
            *("model.depth=3", "schedule=WarmupStableDecay", "schedule.decay=0.4", "data.sources.0.weight=2"),
            *("budget.steps=None", "budget.tokens=30M"),
            *("model.vocabulary.rows.text.schedule=poly2", "model.vocabulary.rows.text.buckets=8,16"),
        ],
    )
    assert config.model.depth == 3 and config.schedule == WarmupStableDecay(decay=0.4)
    assert config.data.sources[0].weight == 2.0 and config.budget.tokens == 30_000_000
    row = config.model.vocabulary.modalities[0]
    assert (row.name, row.codes, row.schedule, row.buckets) == ("text", 256, "poly2", (8, 16))


def test_the_vocabulary_follows_the_tokenizers(recipe, tmp_path):
    TextTokenizer.train(["abcabc abcabc abcabc"] * 4, 258).save(tmp_path / "other")
    config = recipes.configure(recipe, [f"tokenizers={tmp_path / 'other'}"])
    assert config.model.vocabulary.modalities[0].codes == 258


@pytest.mark.parametrize("minutes", ["nan", "inf", "-1"])
def test_a_budget_that_never_ends_is_a_usage_error(recipe, minutes):
    with pytest.raises(UsageError, match=rf"budget\.minutes={float(minutes)}"):
        recipes.configure(recipe, ["budget.steps=None", f"budget.minutes={minutes}"])


def test_a_recipe_may_return_a_finished_configuration(recipe):
    config = recipes.configure(recipe.replace(":small", ":finished"), ["model.width=64"])
    assert config.model.width == 64 and config.model.vocabulary.modalities[0].codes == 256


@pytest.mark.parametrize(
    "override, message",
    [
        ("modle.depth=3", r"'modle.depth'.*Did you mean 'model.depth'"),
        ("modle.depth=3", r"; there are: run, model, data, budget, [\w, ]+$"),
        ("model.vocabulary.rows.text.colour=3", r"; below model\.vocabulary\.rows\.text there are: [\w.]*schedule"),
        ("model.depth=deep", r"'deep'.*model\.depth"),
        ("model.depth", r"'model.depth'.*key=value"),
        ("model.width=33", r"model\.width=33 is not a multiple"),
        ("budget.steps=0", r"budget\.steps=0"),
        ("budget.tokens=3M", r"found budget\.tokens=3000000, budget\.steps=10.*budget\.tokens=None"),
        ("budget.tokens=many", r"'many' is not a count"),
        ("schedule=Linear", r"Linear"),
        ("device=tpu", r"tpu"),
        ("on_existing=ask", r"ask"),
        ("model.vocabulary.rows.smell.weight=2", r"rows\.smell: the modalities are audio, image, text"),
        ("optimizer.rate=-1", r"optimizer\.rate=-1\.0 must be positive and finite"),
        ("optimizer.rate=inf", r"optimizer\.rate=inf must"),
        ("optimizer.decay=nan", r"optimizer\.decay=nan must"),
        ("optimizer.clip=nan", r"optimizer\.clip=nan must"),
        ("optimizer.beta2=1", r"optimizer\.beta2=1\.0 must be in \[0, 1\)"),
        ("optimizer.depths=1,inf", r"optimizer\.depths=\(1\.0, inf\) must"),
        ("optimizer.multipliers.head=0", r"optimizer\.multipliers\.head=0\.0 must"),
        ("budget.steps=-5", r"budget\.steps are counts: '-5' is not a count"),
        ("budget.tokens=1e400", r"'1e400' is too large"),
        ("batch.kappa=inf", r"batch\.kappa=inf must"),
        ("batch.rows=-4", r"batch\.rows=-4 must"),
        ("data.rows=0", r"data\.rows=0 must"),
        ("data.slots=-1", r"data\.slots=-1 must"),
        ("data.tokens=0", r"data\.tokens=0 must"),
        ("data.sources.0.weight=0", r"data\.sources\.0\.weight=0\.0 must"),
        ("model.head_dim=0", r"model\.head_dim=0 must"),
        ("model.mlp_ratio=inf", r"model\.mlp_ratio=inf must"),
        ("model.mlp_ratio=0.0001", r"model\.mlp_ratio=0\.0001 leaves no hidden width"),
        ("model.embedding_std=inf", r"model\.embedding_std=inf must"),
        ("ema=1.5", r"ema=1\.5 must be in"),
        ("ema=-1", r"ema=-1\.0 must be in"),
    ],
)
def test_a_wrong_override_is_a_usage_error(recipe, override, message):
    with pytest.raises(UsageError, match=message) as caught:
        recipes.configure(recipe, [override])
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "name, message",
    [
        ("nonesuch", "no recipe is called 'nonesuch'; there are: "),
        ("no_such_module:f", "cannot be imported"),
        ("no/such/file.py:f", "there is no file"),
        ("trimask.train.config:nothing", "has no function 'nothing'"),
    ],
)
def test_an_unknown_recipe_is_a_usage_error(name, message):
    with pytest.raises(UsageError, match=message):
        recipes.find(name)


def test_a_recipe_that_returns_something_else_is_refused(recipe):
    with pytest.raises(UsageError, match=r"returned int, not a chz\.Blueprint"):
        recipes.blueprint(recipe.replace(":small", ":wrong"))


def test_options_list_keys_with_their_meaning(recipe):
    text = recipes.options(recipe)
    assert "model.depth" in text and "number of blocks" in text and "checkpoints.keep_steps" in text


def test_row_settings_keep_what_is_not_set():
    assert set(chz.asdict(RowSettings()).values()) == {None}


def test_looking_at_recipes_does_not_import_torch():
    import subprocess

    code = "import sys, trimask.recipes; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


WIDTHS = {"nano": 256, "micro": 384, "pilot": 1024, "0.65B": 1536, "1.2B": 2048, "3B": 3072}


@pytest.mark.parametrize("name", WIDTHS)
def test_every_preset_is_a_recipe_of_its_family(name: str):
    """One dial gives depth, width and heads."""
    config = recipes.configure(name)
    family, depth = PRESETS[name]
    assert (config.model.depth, config.model.width, config.model.head_dim) == (depth, WIDTHS[name], family.head_dim)
    assert name in recipes.names() and config.base is not None and set(PRESETS) == {*WIDTHS}


@pytest.mark.parametrize("name", ["nano", "demo", "study", "trimask.recipes.study:public", "tri"])
def test_recipes_that_ship_need_nothing_to_be_looked_at(name: str, tmp_path, monkeypatch):
    """Wherever one stands: tokenizers are those of the package until others are named."""
    monkeypatch.chdir(tmp_path)
    config = recipes.configure(name)
    assert all(Path(folder).is_dir() for folder in config.tokenizers) and config.base is not None
